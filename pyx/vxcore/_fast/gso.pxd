# Segmentation in user space: a super-frame becomes pieces of MTU size.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from vxcore._fast.c_wire cimport vx_vnet
from vxcore._fast.flow cimport Flow
from vxcore._fast.port cimport Frame, Piece

cdef enum:
    MAX_PIECES = 1024        # of all frames of one burst
    PIECE_ROOM = 96          # in front of each piece's headers, for outer ones down to Ethernet
    HEADS_LEN = 1024 * 256   # room for as many headers of usual length
    MAX_HEAD_LEN = 2048      # a super-frame with longer headers is not cut but refused


# Where pieces of the frames of one burst are collected, until all are sent.
cdef struct Cuts:
    uint8_t *heads
    Piece *pieces
    uint32_t n, used

# A super-frame on its way to be cut; `done` bytes of its payload already are.
cdef struct Whole:
    uint8_t *data
    uint32_t length, header_len, l4_off, payload_len, size
    uint32_t done, n_done
    uint64_t ip_sum, l4_sum
    bint tcp, six
    uint32_t ip_off


cdef bint gso_begin(Whole *w, const Frame *frame, const Flow *flow) noexcept nogil
cdef uint32_t gso_cut(Whole *w, Cuts *cuts, uint64_t vxlan) noexcept nogil
cdef bint finish_partial(uint8_t *frame, uint32_t length, const vx_vnet *vnet) noexcept nogil
