# Coalescing in user space: frames of one flow that follow each other become a super-frame.
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from vxcore._fast.c_net cimport iovec
from vxcore._fast.c_wire cimport vx_vnet
from vxcore._fast.flow cimport Flow
from vxcore._fast.port cimport Frame, Overlay

cdef enum:
    N_JOINS = 16             # super-frames under construction, found by flow hash
    MAX_JOINED = 64          # frames in one: UDP_MAX_SEGMENTS of Linux before 6.9
    N_PARTS = 66             # parts[0] is the port's


# A super-frame under construction: the first frame whole, then the payloads of the others where they
# were received.
cdef struct Join:
    Overlay *port
    Flow flow
    uint32_t length          # of the frame so far
    uint32_t header_len
    uint32_t size            # payload of each frame but the last
    uint32_t next_seq        # of the byte that is to follow
    uint32_t n               # frames in it; 0: not in use
    uint16_t first_id
    bint same_id             # all had one IPv4 identification, which DF allows (RFC 6864)
    uint8_t *frame
    iovec parts[66]


cdef struct Joins:
    Join slots[16]
    bint tcp, udp            # what may be joined


cdef void gro_add(Joins *joins, Overlay *port, uint8_t *frame, uint32_t length,
                  const Flow *flow) noexcept nogil
cdef void gro_flush(Joins *joins) noexcept nogil
# What is yet to be done to a frame of which nothing was said: a checksum to finish, TCP to cut to the MTU.
cdef void describe_undone(const uint8_t *frame, uint32_t length, const Flow *flow, uint32_t mtu,
                          vx_vnet *vnet) noexcept nogil
cdef void describe_frame(Frame *frame, uint32_t mtu) noexcept nogil
