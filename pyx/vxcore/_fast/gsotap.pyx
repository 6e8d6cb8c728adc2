"""Tunnel GSO: the underlay port that is a TAP device, behind which this host's kernel routes.

Place in the house: one kind of port; above codec, gso and port, below the lane. Super-frames cross whole
in both directions, with outer headers and a virtio-net header that tells the kernel of the tunnel (Linux
6.17): nothing is cut, joined or summed in user space.
"""

from libc.errno cimport EINTR, EINVAL, errno
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset
from posix.unistd cimport read

from vxcore._fast.c_bytes cimport vx_load64_raw
from vxcore._fast.c_net cimport iovec, writev
from vxcore._fast.c_wire cimport *
from vxcore._fast.codec cimport (
    RuleBits, Rules, Template, Tunnel, Walk, has_checksum, put_outer, put_outer_checksum, put_source,
    walk_to_vxlan, walked_port_be,
)
from vxcore._fast.flow cimport Flow, dissect
from vxcore._fast.gso cimport HEADS_LEN, MAX_PIECES, Cuts, Whole, finish_partial, gso_begin, gso_cut
from vxcore._fast.port cimport *
from vxcore._fast.verdict cimport *

cdef enum:
    VNET_LEN = 24
    MAX_IP_LEN = 65535
    GSO_IN_TUNNEL = VX_VNET_GSO_TUNNEL4 | VX_VNET_GSO_TUNNEL6


cdef struct State:
    Underlay *port
    uint32_t mtu
    Template *templates      # by number of remote; version 0: none
    uint32_t n_templates
    RuleBits *verify
    RuleBits *trust          # for what this kernel vouches for: partial checksums
    Cuts cuts
    int gso_error            # why super-frames no longer go whole, an errno


cdef class GsoTapPort(UnderlayPort):
    """One queue of an underlay TAP by its descriptor, which the caller keeps open.

    `mtu` is the device's; `tunnels` has a Tunnel with Ethernet addresses for each remote of the tables,
    in their order, whose VNI does not matter. `verify` and `trust` (Rules) say what is acceptable on
    receipt, the second where the kernel says that a checksum is yet to be finished.
    """

    cdef State s
    cdef Rules _verify, _trust

    def __cinit__(self):
        self.s.cuts.heads = <uint8_t *>malloc(HEADS_LEN)
        self.s.cuts.pieces = <Piece *>malloc(MAX_PIECES * sizeof(Piece))
        if not (self.s.cuts.heads and self.s.cuts.pieces):
            raise MemoryError("no memory for a port")

    def __init__(self, name: str, fd: int, mtu: int, tunnels, Rules verify not None, Rules trust not None):
        self.name = name
        self.s.templates = <Template *>calloc(len(tunnels) + 1, sizeof(Template))
        if not self.s.templates:
            raise MemoryError("no memory for a port")
        for i, tunnel in enumerate(tunnels):
            self.s.templates[i] = (<Tunnel?>tunnel).template
        self.s.n_templates, self.s.mtu = len(tunnels), mtu
        self._verify, self._trust = verify, trust
        self.s.verify, self.s.trust = &verify.bits, &trust.bits
        self.s.port = &self.port
        self.port.fd, self.port.state, self.port.superframes = fd, &self.s, True
        self.port.receive, self.port.send, self.port.flush = receive, send, flush

    def __dealloc__(self):
        free(self.s.templates)
        free(self.s.cuts.heads)
        free(self.s.cuts.pieces)

    @property
    def gso_error(self) -> int:
        """The errno with which the kernel refused a super-frame, after which we cut them; else 0."""
        return self.s.gso_error


# -- receiving --------------------------------------------------------------------------------------


cdef int receive(void *state, Datagram *out, uint32_t max) noexcept nogil:
    cdef State *s = <State *>state
    cdef uint32_t n = 0
    cdef ssize_t length
    cdef Verdict verdict
    while n < max:
        length = read(s.port.fd, out[n].data - VNET_LEN, VNET_LEN + SLOT_LEN)
        if length < 0 and errno == EINTR:
            continue
        if length < 0 and (is_shortage(errno) or n):
            break
        if length < 0:
            return -errno
        verdict = TRUNCATED
        if length >= VNET_LEN:
            verdict = open_packet(s, &out[n], <uint32_t>length - VNET_LEN)
        if verdict == DELIVERED:
            n += 1
        else:
            count(s.port.tally, verdict, 1)
    return <int>n


cdef Verdict open_packet(State *s, Datagram *d, uint32_t length) noexcept nogil:
    """Walk the outer headers; what the kernel left undone goes over to the inner frame's account."""
    cdef const vx_vnet_tunnel *h = <const vx_vnet_tunnel *>(d.data - VNET_LEN)
    cdef vx_vnet vnet = h.base
    cdef Walk w
    cdef Verdict verdict
    verdict = walk_to_vxlan(&w, d.data, length, s.trust if vnet.flags & VX_VNET_NEEDS_CSUM else s.verify)
    if verdict != DELIVERED:
        return verdict
    put_source(d.source, &w)
    d.source_port, d.dstport_be, d.tos = w.source_port, walked_port_be(&w), w.tos
    d.data += w.at
    d.length = d.step = w.end - w.at
    memset(&d.vnet, 0, sizeof(vx_vnet))
    if vnet.flags & VX_VNET_NEEDS_CSUM and vnet.csum_start >= w.at + VX_VXLAN_LEN + VX_ETH_LEN:
        d.vnet = vnet
        d.vnet.flags = VX_VNET_NEEDS_CSUM
        d.vnet.gso_type &= ~GSO_IN_TUNNEL
        d.vnet.csum_start -= w.at + VX_VXLAN_LEN
        d.vnet.hdr_len = 0
    elif vnet.gso_type == VX_VNET_GSO_UDP_L4 and vnet.gso_size:
        d.step = vnet.gso_size if vnet.gso_size < d.length else d.length
    elif vnet.gso_type:
        return BAD_OFFLOAD
    return DELIVERED


# -- sending ----------------------------------------------------------------------------------------


cdef void send(void *state, const Piece *pieces, uint32_t n, const Heading *heading) noexcept nogil:
    cdef State *s = <State *>state
    cdef Template *t = &s.templates[heading.remote_id]
    cdef uint32_t i
    if heading.remote_id >= s.n_templates or t.version == 0:
        count(s.port.tally, UNDERLAY_REFUSED, n)
    elif n == 1 and heading.vnet.gso_type:
        send_whole(s, t, pieces, heading)
    else:
        for i in range(n):
            send_one(s, t, &pieces[i], heading)


cdef void send_whole(State *s, Template *t, const Piece *piece, const Heading *heading) noexcept nogil:
    """A super-frame as such, or in pieces when it is too large for an IP header or the kernel will not."""
    cdef uint32_t header_len = t.header_len - VX_VXLAN_LEN
    cdef int error
    if s.port.superframes and header_len - VX_ETH_LEN + piece.head_len <= MAX_IP_LEN:
        put_outer(t, piece.head, piece.head_len, heading.hash, heading.dstport_be, heading.tos, heading.ttl)
        put_outer_checksum(t, piece.head, piece.head_len, NULL, 0, True)
        error = write_packet(s, t, piece, &heading.vnet)
        if error != EINVAL:
            report(s, heading, piece, error)
            return
        s.port.superframes, s.gso_error = False, error
    send_cut(s, t, piece, heading)


cdef void send_cut(State *s, Template *t, const Piece *piece, const Heading *heading) noexcept nogil:
    cdef Frame frame
    cdef Flow flow
    cdef Whole whole
    cdef uint32_t i
    frame.data, frame.length = piece.head + VX_VXLAN_LEN, piece.head_len - VX_VXLAN_LEN
    frame.vnet = heading.vnet
    dissect(frame.data, frame.length, &flow, False)
    if not gso_begin(&whole, &frame, &flow):
        count(s.port.tally, BAD_OFFLOAD, 1)
        return
    while whole.done < whole.payload_len:
        s.cuts.n = s.cuts.used = 0
        gso_cut(&whole, &s.cuts, vx_load64_raw(piece.head))
        for i in range(s.cuts.n):
            send_one(s, t, &s.cuts.pieces[i], heading)


cdef void send_one(State *s, Template *t, const Piece *piece, const Heading *heading) noexcept nogil:
    """One packet; an inner checksum that is yet to be finished may stay so, unless the outer needs it."""
    cdef vx_vnet vnet
    cdef uint32_t length = piece.head_len + piece.body_len
    cdef uint32_t ip_len = t.header_len - VX_VXLAN_LEN - VX_ETH_LEN + length
    memset(&vnet, 0, sizeof(vx_vnet))
    if ip_len > s.mtu:
        too_big(s, t, piece, heading)
        return
    if piece.body_len == 0 and heading.vnet.flags & VX_VNET_NEEDS_CSUM and not finish_partial(
            piece.head + VX_VXLAN_LEN, piece.head_len - VX_VXLAN_LEN, &heading.vnet):
        count(s.port.tally, BAD_OFFLOAD, 1)
        return
    put_outer(t, piece.head, length, heading.hash, heading.dstport_be, heading.tos, heading.ttl)
    put_outer_checksum(t, piece.head, piece.head_len, piece.body, piece.body_len, False)
    report(s, heading, piece, write_packet(s, t, piece, &vnet))


cdef int write_packet(State *s, const Template *t, const Piece *piece, const vx_vnet *vnet) noexcept nogil:
    """One write; 0 or an errno."""
    cdef uint32_t header_len = t.header_len - VX_VXLAN_LEN
    cdef iovec parts[3]
    cdef vx_vnet_tunnel h
    memset(&h, 0, sizeof(vx_vnet_tunnel))
    if vnet.flags & VX_VNET_NEEDS_CSUM:
        describe(&h, t, vnet, header_len)
    parts[0] = iovec(&h, VNET_LEN)
    parts[1] = iovec(piece.head - header_len, header_len + piece.head_len)
    parts[2] = iovec(<void *>piece.body, piece.body_len)
    while writev(s.port.fd, parts, 3) < 0:
        if errno != EINTR:
            return errno
    return 0


cdef void describe(vx_vnet_tunnel *h, const Template *t, const vx_vnet *vnet,
                   uint32_t header_len) noexcept nogil:
    """The frame's account, counted from the outer header on."""
    h.base = vnet[0]
    h.base.csum_start += header_len + VX_VXLAN_LEN
    h.base.hdr_len = h.base.csum_start + 8
    if has_checksum(t):
        h.base.flags |= VX_VNET_TUNNEL_CSUM
    h.base.gso_type |= VX_VNET_GSO_TUNNEL4 if t.version == 4 else VX_VNET_GSO_TUNNEL6
    h.outer_l4_off = header_len - VX_UDP_LEN
    h.inner_ip_off = header_len + VX_VXLAN_LEN + VX_ETH_LEN


cdef void report(State *s, const Heading *heading, const Piece *piece, int error) noexcept nogil:
    if error == 0:
        count(s.port.tally, DELIVERED, 1)
        count_sent(s.port.tally, heading.segment, heading.remote_id, 1,
                   piece.head_len + piece.body_len - VX_VXLAN_LEN)
    else:
        count(s.port.tally, UNDERLAY_FULL if is_shortage(error) else UNDERLAY_REFUSED, 1)


cdef void too_big(State *s, const Template *t, const Piece *piece, const Heading *heading) noexcept nogil:
    cdef iovec parts[2]
    parts[0] = iovec(piece.head, piece.head_len)
    parts[1] = iovec(<void *>piece.body, piece.body_len)
    count(s.port.tally, TOO_BIG, 1)
    note_oversize(s.port.tally, heading.segment, s.mtu, t.version == 6, parts, 2)


cdef void flush(void *state) noexcept nogil:
    """Nothing waits: every packet was written when it came."""
