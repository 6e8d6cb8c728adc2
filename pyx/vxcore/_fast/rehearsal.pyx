"""Ports that lead nowhere, for a lane that rehearses: what it sends there is counted as delivered.

Place in the house: two kinds of ports; above port, below nobody but Python, which gives them to a lane.
"""

from libc.stdint cimport uint32_t

from vxcore._fast.c_net cimport iovec
from vxcore._fast.c_wire cimport vx_vnet
from vxcore._fast.port cimport (
    Datagram, Frame, Heading, Overlay, OverlayPort, Piece, Underlay, UnderlayPort, count,
)
from vxcore._fast.verdict cimport DELIVERED

cdef enum:
    ANY_MTU = 65535


cdef class NoOverlay(OverlayPort):
    """Takes every frame of any segment."""

    def __init__(self, name: str = "rehearsal"):
        self.name = name
        self.port.fd, self.port.mtu, self.port.superframes = -1, ANY_MTU, True
        self.port.state = &self.port
        self.port.receive, self.port.send, self.port.flush = no_frames, take_frame, flush_nothing


cdef class NoUnderlay(UnderlayPort):
    """Takes every packet."""

    def __init__(self, name: str = "rehearsal"):
        self.name = name
        self.port.fd, self.port.superframes = -1, True
        self.port.state = &self.port
        self.port.receive, self.port.send, self.port.flush = no_datagrams, take_run, flush_nothing


cdef int no_frames(void *state, Frame *out, uint32_t max, uint32_t budget) noexcept nogil:
    return 0


cdef int no_datagrams(void *state, Datagram *out, uint32_t max) noexcept nogil:
    return 0


cdef void take_frame(void *state, iovec *parts, uint32_t n, const vx_vnet *vnet,
                     uint32_t n_packets) noexcept nogil:
    count((<Overlay *>state).tally, DELIVERED, n_packets)


cdef void take_run(void *state, const Piece *pieces, uint32_t n, const Heading *heading) noexcept nogil:
    count((<Underlay *>state).tally, DELIVERED, n)


cdef void flush_nothing(void *state) noexcept nogil:
    """Nothing waits."""
