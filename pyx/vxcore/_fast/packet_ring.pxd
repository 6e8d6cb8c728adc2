# The receive ring of a packet socket, TPACKET_V2 with PACKET_COPY_THRESH and, most often,
# PACKET_VNET_HDR.
from libc.stdint cimport uint8_t, uint32_t

from vxcore._fast.c_wire cimport vx_vnet


cdef enum:
    VNET_LEN = 10            # of the virtio-net header in front of each packet


cdef struct Ring:
    uint8_t *memory
    size_t memory_len
    int fd
    uint32_t slot_len, slots_in_block, n_slots
    uint32_t block_len
    uint32_t at              # the next slot to take
    uint32_t held_from, n_held
    bint vnet                # each packet has a virtio-net header in front


cdef enum Take:
    NO_PACKET = 0
    TAKEN = 1
    LOST = 2                 # there was one that found no room in the kernel's queue
    TOO_LONG = 3             # there was one longer than an IP packet can be

# A packet, Ethernet first, in the ring or in the room that was lent for it.
cdef struct Taken:
    uint8_t *data
    uint32_t length          # of what is there; less than the packet when it did not fit
    vx_vnet vnet             # all zeros in a ring without
    bint partial             # its transport checksum is yet to be finished
    uint32_t tag             # a VLAN tag that it had, which is not in the data; 0: none


cdef int ring_open(Ring *r, int fd, uint32_t block_len, uint32_t n_blocks, uint32_t slot_len,
                   bint vnet) except -1
cdef void ring_close(Ring *r) noexcept
# Give all slots that are held back; where the next one is. And go on there, perhaps in another process.
cdef bytes ring_rest(Ring *r)
cdef int ring_resume(Ring *r, bytes where) except -1
# Give the slots of all packets that were taken back to the kernel.
cdef void ring_release(Ring *r) noexcept nogil
# The next packet. One too large for a slot is received into `room`, which has SLOT_LEN bytes.
cdef Take ring_take(Ring *r, Taken *out, uint8_t *room) noexcept nogil
# The socket's error, an errno, which is cleared; ENODEV when its device is gone. 0: none.
cdef int ring_error(Ring *r) noexcept nogil
