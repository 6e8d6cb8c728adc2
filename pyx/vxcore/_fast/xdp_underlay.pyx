"""The underlay port of AF_XDP: packets from a device's receive queue, past this host's IP stack.

Place in the house: one kind of port; above xsk and hops, below the lane. A program on the device hands us
the packets for our UDP port; the codec's walk checks their outer headers. Nothing beside a packet says
what its sender's offload left undone, as a veth's does: it is told from the packet.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from vxcore._fast.c_bytes cimport vx_load16, vx_load16_raw
from vxcore._fast.c_csum cimport vx_csum_add, vx_csum_fold
from vxcore._fast.c_net cimport iovec
from vxcore._fast.c_wire cimport *
from vxcore._fast.codec cimport (
    LAYER_ETHERNET, RuleBits, Rules, Walk, pseudo, put_outer_checksum, put_source, walk_outer,
    walked_port_be,
)
from vxcore._fast.flow cimport Flow, dissect, finish_checksum
from vxcore._fast.hops cimport Hop, HopView, Hops, OwnHop, find_hop, put_outer, want_hop
from vxcore._fast.port cimport *
from vxcore._fast.verdict cimport *
from vxcore._fast.xsk cimport *

cdef enum:
    UDP_CHECK_OFF = 6


# Of a packet that was queued, for the case that the kernel does not take it.
cdef struct Account:
    uint32_t segment, remote, n_bytes


cdef struct State:
    Underlay *port
    Xsk *xsk
    Account *accounts        # by its index in the ring
    HopView view
    const RuleBits *rules


cdef class XdpUnderlayPort(UnderlayPort):
    """The port of an AF_XDP socket, which the caller closes when the lane has ended.

    `hops` says how remotes are reached by the socket's device, and `rules` what is acceptable.
    """

    cdef State s
    cdef XskSocket _socket
    cdef Hops _hops
    cdef Rules _rules

    def __init__(self, name: str, XskSocket socket not None, Hops hops not None, Rules rules not None):
        self.name, self._socket, self._hops, self._rules = name, socket, hops, rules
        self.s.view.own = <OwnHop *>calloc(hops.count + 1, sizeof(OwnHop))
        self.s.accounts = <Account *>calloc(N_CHUNKS, sizeof(Account))
        if not (self.s.view.own and self.s.accounts):
            raise MemoryError("no memory for a port")
        self.s.view.shared, self.s.view.wake_fd = hops.shared, hops.wake_fd
        self.port.hops = hops.shared
        self.s.xsk, self.s.rules, self.s.port = &socket.x, &rules.bits, &self.port
        self.port.fd, self.port.state = socket.x.fd, &self.s
        self.port.receive, self.port.send, self.port.flush = receive, send, flush

    def rest(self) -> bytes:
        return self._socket.rest()

    def resume(self, where: bytes) -> None:
        self._socket.resume(where)

    def __dealloc__(self):
        free(self.s.view.own)
        free(self.s.accounts)


# -- receiving --------------------------------------------------------------------------------------


cdef int receive(void *state, Datagram *out, uint32_t max) noexcept nogil:
    cdef State *s = <State *>state
    cdef uint32_t n = 0, length
    cdef uint8_t *packet
    cdef Verdict verdict
    xsk_receive(s.xsk)
    while n < max and xsk_more(s.xsk):
        packet = xsk_next(s.xsk, out[n].data, &length)
        verdict = open_packet(s, packet, length, &out[n])
        if verdict == DELIVERED:
            n += 1
        else:
            count(s.port.tally, verdict, 1)
    xsk_received(s.xsk)
    return <int>n


cdef inline Verdict open_packet(State *s, uint8_t *packet, uint32_t length, Datagram *d) noexcept nogil:
    cdef Walk w
    cdef Verdict verdict
    w.packet, w.at, w.end = packet, 0, length
    w.missing, w.version, w.verified = 0, 0, False
    verdict = walk_outer(&w, s.rules, LAYER_ETHERNET)
    if verdict == UDP_CHECKSUM and is_unfinished(&w):
        verdict = DELIVERED
    if verdict != DELIVERED:
        return verdict
    put_source(d.source, &w)
    d.source_port, d.dstport_be, d.tos = w.source_port, walked_port_be(&w), w.tos
    d.data, d.length, d.step = w.packet + w.at, w.end - w.at, w.end - w.at
    memset(&d.vnet, 0, sizeof(vx_vnet))
    return DELIVERED


cdef bint is_unfinished(const Walk *w) noexcept nogil:
    """Whether an outer checksum that seems wrong is a local sender's that was left to the device.

    Then it holds the bare sum of the pseudo-header; or it is right once the inner one is finished, from
    which Linux derives it in advance (local checksum offload, net/core/skbuff.c).
    """
    cdef uint8_t *udp = w.packet + w.at - VX_UDP_LEN
    cdef uint32_t udp_len = vx_load16(udp + 4)
    cdef uint64_t sum = pseudo(w.packet + w.ip_off, w.version, udp_len)
    cdef uint32_t length = w.end - w.at
    cdef uint8_t *frame = w.packet + w.at + VX_VXLAN_LEN
    cdef Flow flow
    if vx_load16_raw(udp + UDP_CHECK_OFF) == vx_csum_fold(sum):
        return True
    if length < VX_VXLAN_LEN + VX_ETH_LEN:
        return False
    dissect(frame, length - VX_VXLAN_LEN, &flow, False)
    return (finish_checksum(frame, length - VX_VXLAN_LEN, &flow)
            and vx_csum_fold(vx_csum_add(udp, udp_len, sum)) == 0xFFFF)


# -- sending ----------------------------------------------------------------------------------------


cdef void send(void *state, const Piece *pieces, uint32_t n, const Heading *heading) noexcept nogil:
    cdef State *s = <State *>state
    cdef Hop *hop = find_hop(&s.view, heading.remote_id)
    cdef uint32_t longest = pieces[0].head_len + pieces[0].body_len, i
    cdef uint32_t mtu = min(hop.mtu, <uint32_t>MAX_MTU)  # the device's may have grown
    if hop.name.sll_ifindex == 0:
        want_hop(&s.view, heading.remote_id)
        count(s.port.tally, NO_NEXT_HOP, n)
        return
    if hop.template.header_len - VX_ETH_LEN - VX_VXLAN_LEN + longest > mtu:
        too_big(s, pieces, n, mtu, heading)
        return
    for i in range(n):
        send_one(s, &pieces[i], hop, heading)


cdef inline void send_one(State *s, const Piece *piece, Hop *hop, const Heading *heading) noexcept nogil:
    """Copy the two parts of a piece behind the outer headers, whole in one chunk."""
    cdef uint8_t *chunk = xsk_chunk(s.xsk)
    cdef uint32_t length = piece.head_len + piece.body_len
    cdef uint32_t outer_len = hop.template.header_len - VX_VXLAN_LEN
    cdef uint8_t *vxlan
    if chunk == NULL:
        count(s.port.tally, UNDERLAY_FULL, 1)
        return
    vxlan = chunk + OUTER_ROOM
    memcpy(vxlan, piece.head, piece.head_len)
    if piece.body_len:
        memcpy(vxlan + piece.head_len, piece.body, piece.body_len)
    put_outer(vxlan - outer_len, hop, length, 1, heading.hash, heading.dstport_be, heading.tos, heading.ttl)
    put_outer_checksum(&hop.template, vxlan, length, NULL, 0, False)
    s.accounts[s.xsk.tx.mine & s.xsk.tx.mask] = Account(
        heading.segment, heading.remote_id, length - VX_VXLAN_LEN)
    xsk_queue(s.xsk, vxlan - outer_len, outer_len + length)
    count(s.port.tally, DELIVERED, 1)
    count_sent(s.port.tally, heading.segment, heading.remote_id, 1, length - VX_VXLAN_LEN)


cdef void too_big(State *s, const Piece *pieces, uint32_t n, uint32_t mtu,
                  const Heading *heading) noexcept nogil:
    cdef iovec parts[2]
    count(s.port.tally, TOO_BIG, n)
    parts[0] = iovec(pieces[0].head, pieces[0].head_len)
    parts[1] = iovec(<void *>pieces[0].body, pieces[0].body_len)
    note_oversize(s.port.tally, heading.segment, mtu, heading.remote.family == 6, parts, 2)


cdef void flush(void *state) noexcept nogil:
    cdef State *s = <State *>state
    cdef uint32_t n_unsent = xsk_flush(s.xsk)
    if n_unsent:
        take_back_counts(s, n_unsent)
        count(s.port.tally, UNDERLAY_REFUSED if s.xsk.down else UNDERLAY_FULL, n_unsent)


cdef void take_back_counts(State *s, uint32_t n) noexcept nogil:
    """Of the first n behind those that were sent."""
    cdef Account *account
    cdef uint32_t i
    for i in range(n):
        account = &s.accounts[(s.xsk.tx.mine + i) & s.xsk.tx.mask]
        count_sent(s.port.tally, account.segment, account.remote, <uint64_t>-1, -<uint64_t>account.n_bytes)
    s.port.tally.verdicts[<int>DELIVERED] -= n


# -- for tests --------------------------------------------------------------------------------------


def opened(packet, Rules rules not None) -> tuple[int, bytes]:
    """The verdict on a packet that a device received, and what is handed on of it, from the VXLAN header on.

    `packet` is a writable buffer, Ethernet first, in which a checksum may be finished.
    """
    cdef uint8_t[::1] view = packet
    cdef State s
    cdef Datagram d
    cdef Verdict verdict
    s.rules = &rules.bits
    verdict = open_packet(&s, &view[0], <uint32_t>view.shape[0], &d)
    return verdict, d.data[: d.length] if verdict == DELIVERED else b""
