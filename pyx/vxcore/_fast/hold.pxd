# Frames that wait until it is known where their addresses are.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from vxcore._fast.port cimport Frame

cdef enum:
    N_HELD = 256


# A copy of a frame in one of the store's slots, for an address of a segment.
cdef struct Held:
    Frame frame
    uint64_t mac, until_ns
    uint32_t segment, vni, slot


# What waits in one lane, the oldest first. Its memory costs nothing until it is used.
cdef struct Store:
    uint8_t *slots
    Held held[256]
    uint32_t n
    uint32_t free_slots[256]
    uint32_t n_free


cdef bint store_open(Store *store) noexcept nogil
cdef void store_close(Store *store) noexcept nogil
# The last place, with a copy of the frame; the rest is the caller's to fill in. NULL: all are taken.
cdef Held *store_put(Store *store, const Frame *frame) noexcept nogil
# Whether a frame waits for an address of a VNI.
cdef bint store_has(const Store *store, uint32_t vni, uint64_t mac) noexcept nogil
# Take out those for which `gone` says so, by their places; their memory is free again.
cdef void store_remove(Store *store, const uint8_t *gone) noexcept nogil
