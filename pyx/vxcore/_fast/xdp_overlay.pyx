"""The overlay port of AF_XDP: all that an interface receives, in place of this host's IP stack.

Place in the house: one kind of port; above xsk, gso and gro, below the lane. AF_XDP has no virtio-net
headers: a checksum that the sender left to its device is told from the frame, and finished; frames leave
one by one, so that a super-frame is cut here.
"""

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from posix.unistd cimport close

import os

from vxcore._fast.c_net cimport (
    EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLLIN, epoll_create1, epoll_ctl, epoll_event, iovec,
)
from vxcore._fast.c_wire cimport *
from vxcore._fast.flow cimport Flow, dissect
from vxcore._fast.gro cimport describe_frame
from vxcore._fast.gso cimport HEADS_LEN, MAX_PIECES, Cuts, Whole, finish_partial, gso_begin, gso_cut
from vxcore._fast.port cimport *
from vxcore._fast.verdict cimport *
from vxcore._fast.xsk cimport *


cdef enum:
    MAX_SOCKETS = 64


cdef struct State:
    Overlay *port
    Xsk *sockets[64]
    uint32_t n_sockets, turn
    Xsk *xsk                 # that sends: the first
    Cuts cuts


cdef class XdpOverlayPort(OverlayPort):
    """The port of a lane's AF_XDP sockets, 1 to 64, which the caller closes when the lane has ended.

    Frames are received from all of them, and leave by the first. `mtu` is the interface's in bytes, `segment`
    the number of its segment in the tables. Raises OSError.
    """

    cdef State s
    cdef list _sockets
    cdef int _all            # watches several sockets

    def __cinit__(self):
        self._all = -1
        self.s.cuts.heads = <uint8_t *>malloc(HEADS_LEN)
        self.s.cuts.pieces = <Piece *>malloc(MAX_PIECES * sizeof(Piece))
        if not (self.s.cuts.heads and self.s.cuts.pieces):
            raise MemoryError("no memory for a port")

    def __init__(self, name: str, sockets: list[XskSocket], mtu: int, segment: int):
        if not 1 <= len(sockets) <= MAX_SOCKETS:
            raise ValueError(f"{name}: {len(sockets)} sockets; from 1 to {MAX_SOCKETS}")
        self.name, self._sockets = name, list(sockets)
        for i, socket in enumerate(sockets):
            self.s.sockets[i] = &(<XskSocket?>socket).x
        self.s.n_sockets, self.s.xsk, self.s.port = len(sockets), self.s.sockets[0], &self.port
        self.port.fd, self.port.mtu, self.port.segment = self.s.xsk.fd, mtu, segment
        if len(sockets) > 1:
            self.port.fd = self._watch_all()
        self.port.superframes, self.port.state = False, &self.s
        self.port.receive, self.port.send, self.port.flush = receive, send, flush

    def _watch_all(self) -> int:
        cdef epoll_event event
        cdef uint32_t i
        self._all = epoll_create1(EPOLL_CLOEXEC)
        if self._all < 0:
            raise OSError(errno, f"{self.name}: {os.strerror(errno)}")
        for i in range(self.s.n_sockets):
            event.events, event.data.u64 = EPOLLIN, i
            if epoll_ctl(self._all, EPOLL_CTL_ADD, self.s.sockets[i].fd, &event) < 0:
                raise OSError(errno, f"{self.name}: {os.strerror(errno)}")
        return self._all

    def rest(self) -> bytes:
        """Of all sockets, each with the length of what it says in front, four bytes."""
        said = [socket.rest() for socket in self._sockets]
        return b"".join(len(each).to_bytes(4, "little") + each for each in said)

    def resume(self, where: bytes) -> None:
        at = 0
        for socket in self._sockets:
            end = at + 4 + int.from_bytes(where[at:at + 4], "little")
            socket.resume(where[at + 4:end])
            at = end

    def __dealloc__(self):
        if self._all >= 0:
            close(self._all)
        free(self.s.cuts.heads)
        free(self.s.cuts.pieces)


# -- receiving --------------------------------------------------------------------------------------


cdef int receive(void *state, Frame *out, uint32_t max, uint32_t budget) noexcept nogil:
    """From the first socket in turn that has something."""
    cdef State *s = <State *>state
    cdef uint32_t n = 0, _socket
    for _socket in range(s.n_sockets):
        n = receive_from(s, s.sockets[s.turn], out, max, budget)
        s.turn = s.turn + 1 if s.turn + 1 < s.n_sockets else 0
        if n:
            break
    return <int>n


cdef uint32_t receive_from(State *s, Xsk *x, Frame *out, uint32_t max, uint32_t budget) noexcept nogil:
    cdef uint32_t n = 0, n_bytes = 0, length
    cdef uint8_t *data
    xsk_receive(x)
    while n < max and n_bytes < budget and xsk_more(x):
        data = xsk_next(x, out[n].data, &length)
        if length < VX_ETH_LEN:
            count(s.port.tally, INNER_TOO_SHORT, 1)
            continue
        out[n].data, out[n].length = data, length
        describe_frame(&out[n], s.port.mtu)
        n_bytes += length
        n += 1
    xsk_received(x)
    return n


# -- sending ----------------------------------------------------------------------------------------


cdef void send(void *state, iovec *parts, uint32_t n, const vx_vnet *vnet,
               uint32_t n_packets) noexcept nogil:
    cdef State *s = <State *>state
    if vnet.gso_type:
        send_cut(s, parts, vnet, n_packets)
        return
    if not send_one(s, &parts[1], n - 1, vnet):
        count(s.port.tally, BAD_OFFLOAD, n_packets)


cdef bint send_one(State *s, const iovec *parts, uint32_t n, const vx_vnet *vnet) noexcept nogil:
    """Copy a frame of n parts into a chunk and finish it; False when its checksum lies outside of it."""
    cdef uint8_t *chunk
    cdef uint32_t i, length = 0
    for i in range(n):
        length += <uint32_t>parts[i].iov_len
    if length > s.port.mtu + VX_ETH_LEN + VX_TAG_LEN:
        count(s.port.tally, OVERLAY_REFUSED, 1)
        return True
    chunk = xsk_chunk(s.xsk)
    if chunk == NULL:
        count(s.port.tally, OVERLAY_DOWN if s.xsk.down else OVERLAY_FULL, 1)
        return True
    length = 0
    for i in range(n):
        memcpy(chunk + length, parts[i].iov_base, parts[i].iov_len)
        length += <uint32_t>parts[i].iov_len
    if vnet.flags & VX_VNET_NEEDS_CSUM and not finish_partial(chunk, length, vnet):
        xsk_unused(s.xsk)
        return False
    xsk_queue(s.xsk, chunk, length)
    count(s.port.tally, DELIVERED, 1)
    return True


cdef void send_cut(State *s, const iovec *parts, const vx_vnet *vnet, uint32_t n_packets) noexcept nogil:
    """A super-frame, all in parts[1]: for a port that takes none, frames are not joined to one."""
    cdef Frame frame
    cdef Flow flow
    cdef Whole whole
    cdef Piece *piece
    cdef iovec two[2]
    cdef vx_vnet nothing
    cdef uint32_t i
    memset(&nothing, 0, sizeof(vx_vnet))
    frame.data, frame.length, frame.vnet = <uint8_t *>parts[1].iov_base, <uint32_t>parts[1].iov_len, vnet[0]
    dissect(frame.data, frame.length, &flow, False)
    if not gso_begin(&whole, &frame, &flow):
        count(s.port.tally, BAD_OFFLOAD, n_packets)
        return
    while whole.done < whole.payload_len:
        s.cuts.n = s.cuts.used = 0
        gso_cut(&whole, &s.cuts, 0)
        for i in range(s.cuts.n):
            piece = &s.cuts.pieces[i]
            two[0] = iovec(piece.head + VX_VXLAN_LEN, piece.head_len - VX_VXLAN_LEN)
            two[1] = iovec(<void *>piece.body, piece.body_len)
            send_one(s, two, 2, &nothing)


cdef void flush(void *state) noexcept nogil:
    cdef State *s = <State *>state
    cdef uint32_t n_unsent = xsk_flush(s.xsk)
    if n_unsent:
        s.port.tally.verdicts[<int>DELIVERED] -= n_unsent
        count(s.port.tally, OVERLAY_DOWN if s.xsk.down else OVERLAY_FULL, n_unsent)
