"""Hold: frames that wait until it is known where their addresses are, in memory that no burst uses.

Place in the house: above port, below the lane, which says what waits, how long, and what becomes of it.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from vxcore._fast.c_table cimport vx_map, vx_unmap
from vxcore._fast.port cimport SLOT_ROOM, SLOT_STRIDE, Frame

cdef size_t SLOTS_LEN = N_HELD * <size_t>SLOT_STRIDE


cdef bint store_open(Store *store) noexcept nogil:
    """Whether there is memory for it."""
    cdef uint32_t i
    store.slots = <uint8_t *>vx_map(SLOTS_LEN, False)
    store.n, store.n_free = 0, N_HELD
    for i in range(<uint32_t>N_HELD):
        store.free_slots[i] = N_HELD - 1 - i  # the first is taken first: few are touched where few wait
    return store.slots != NULL


cdef void store_close(Store *store) noexcept nogil:
    if store.slots != NULL:
        vx_unmap(store.slots, SLOTS_LEN)


cdef Held *store_put(Store *store, const Frame *frame) noexcept nogil:
    cdef Held *held = &store.held[store.n]
    if store.n == <uint32_t>N_HELD:
        return NULL
    store.n += 1
    store.n_free -= 1
    held.slot = store.free_slots[store.n_free]
    held.frame = frame[0]
    held.frame.data = store.slots + held.slot * <size_t>SLOT_STRIDE + SLOT_ROOM
    memcpy(held.frame.data, frame.data, frame.length)
    return held


cdef bint store_has(const Store *store, uint32_t vni, uint64_t mac) noexcept nogil:
    cdef uint32_t i
    for i in range(store.n):
        if store.held[i].mac == mac and store.held[i].vni == vni:
            return True
    return False


cdef void store_remove(Store *store, const uint8_t *gone) noexcept nogil:
    cdef uint32_t i, n = 0
    for i in range(store.n):
        if gone[i]:
            store.free_slots[store.n_free] = store.held[i].slot
            store.n_free += 1
        else:
            store.held[n] = store.held[i]
            n += 1
    store.n = n
