"""Packet sockets: the underlay port that builds whole Ethernet frames, past this host's IP stack.

Place in the house: one kind of port; above port, packet_ring and hops, below the lane. Packets for our
UDP port come from a ring; the codec's walk checks their outer headers. Runs go out as one super-frame
with a virtio-net header (UDP_L4 segmentation), which the kernel, or the NIC, cuts.
"""

from libc.errno cimport EINVAL, EIO, EMSGSIZE, ENODEV
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from vxcore._fast.c_net cimport *
from vxcore._fast.c_packet cimport sockaddr_ll
from vxcore._fast.c_wire cimport *
from vxcore._fast.codec cimport (
    LAYER_ETHERNET, UDP_CHECK, RuleBits, Rules, Walk, put_source, walk_outer, walked_port_be,
)
from vxcore._fast.hops cimport *
from vxcore._fast.packet_ring cimport *
from vxcore._fast.port cimport *
from vxcore._fast.verdict cimport *

cdef enum:
    MAX_MESSAGES = 256
    MAX_PARTS = 2048         # one for the outer headers, and two for each piece
    MAX_RUN = 127            # UDP_MAX_SEGMENTS of Linux 6.9
    MAX_RUN_BYTES = 65000
    RECEIVE_BYTES = 1 << 19  # half of a usual L2 cache: what one receive is to bring, so that it stays near
    HEAD_LEN = 80            # of VNET_LEN + MAX_OUTER_LEN, to a multiple of 16
    UDP_CHECK_OFF = 6
    MIN_INNER_L4 = VX_VXLAN_LEN + VX_ETH_LEN + VX_IPV4_LEN


cdef struct Message:
    uint32_t part, n_pieces, step, n_bytes, segment, remote, hash, mtu
    uint16_t dstport_be
    uint8_t tos, ttl


cdef struct Queue:
    mmsghdr msgs[256]
    Message messages[256]
    iovec parts[2048]
    uint8_t heads[256][80]
    uint32_t n, n_parts


cdef struct State:
    Underlay *port
    Ring ring
    HopView view
    const RuleBits *rules
    Queue *queue
    int send_fd
    bint six, gso, checksum
    Patience patience        # of this flush
    int gso_error            # why runs are no longer sent as such, an errno


cdef class PacketPort(UnderlayPort):
    """Packet sockets of one lane and one IP family by their descriptors, which the caller keeps open.

    `receiver` has a ring of `blocks` (number, bytes) with slots of `slot_len` bytes, virtio-net headers,
    and a filter that lets packets for our address and UDP port in; `sender` takes virtio-net headers.
    `hops` says how remotes are reached and `rules` what is acceptable. `gso` lets runs leave as
    super-frames. Raises OSError when the ring cannot be mapped.
    """

    cdef State s
    cdef Hops hops
    cdef Rules rules

    def __cinit__(self):
        self.s.queue = <Queue *>calloc(1, sizeof(Queue))
        if not self.s.queue:
            raise MemoryError("no memory for a port")

    def __init__(self, name: str, receiver: int, sender: int, family: int, blocks: tuple[int, int],
                 slot_len: int, Hops hops not None, Rules rules not None, *, gso: bool = True):
        self.name, self.hops, self.rules = name, hops, rules
        self.s.view.own = <OwnHop *>calloc(hops.count + 1, sizeof(OwnHop))
        if not self.s.view.own:
            raise MemoryError("no memory for a port")
        self.s.view.shared, self.s.view.wake_fd = hops.shared, hops.wake_fd
        self.port.hops = hops.shared
        ring_open(&self.s.ring, receiver, blocks[1], blocks[0], slot_len, True)
        self.s.rules = &rules.bits
        self.s.send_fd, self.s.six, self.s.gso = sender, family == 6, gso
        self.s.port = &self.port
        self.port.fd, self.port.state = receiver, &self.s
        self.port.receive, self.port.send, self.port.flush = receive, send, flush

    def __dealloc__(self):
        ring_close(&self.s.ring)
        free(self.s.queue)
        free(self.s.view.own)

    def rest(self) -> bytes:
        return ring_rest(&self.s.ring)

    def resume(self, where: bytes) -> None:
        ring_resume(&self.s.ring, where)

    @property
    def gso_error(self) -> int:
        """The errno with which the kernel refused a super-frame, after which none was sent; else 0."""
        return self.s.gso_error


# -- receiving --------------------------------------------------------------------------------------


cdef int receive(void *state, Datagram *out, uint32_t max) noexcept nogil:
    cdef State *s = <State *>state
    cdef uint32_t n = 0, n_bytes = 0, tries = 0
    cdef bint released = s.ring.n_held != 0
    cdef Take taken = NO_PACKET
    cdef Taken packet
    ring_release(&s.ring)
    while tries < max and n_bytes < RECEIVE_BYTES:
        tries += 1
        taken = ring_take(&s.ring, &packet, out[n].data)
        if taken == NO_PACKET:
            break
        n_bytes += packet.length
        n += accept(s, taken, &packet, &out[n])
    if taken == NO_PACKET and n == 0 and not released:
        return -failure(s)
    return <int>n


cdef int failure(State *s) noexcept nogil:
    """Woken for nothing: why. A device that went down comes back; one that was deleted does not."""
    cdef int error = ring_error(&s.ring)
    return error if error == ENODEV else 0


cdef inline bint accept(State *s, Take taken, const Taken *packet, Datagram *d) noexcept nogil:
    """Describe a packet that passes all checks; count one that does not."""
    cdef Verdict verdict = TOO_BIG if taken == TOO_LONG else UNDERLAY_OVERRUN
    if taken == TAKEN:
        verdict = open_packet(s, packet, d)
    if verdict != DELIVERED:
        count(s.port.tally, verdict, 1)
        return False
    return True


cdef inline Verdict open_packet(State *s, const Taken *packet, Datagram *d) noexcept nogil:
    cdef Walk w
    cdef Verdict verdict
    w.packet, w.at, w.end = packet.data, 0, packet.length
    w.missing, w.version = 0, 0
    # Verified by the NIC, or partial: then it never was on a wire (or the kernel joined what was right).
    w.verified = packet.vnet.flags & (VX_VNET_NEEDS_CSUM | VX_VNET_DATA_VALID) != 0
    verdict = walk_outer(&w, s.rules, LAYER_ETHERNET)
    if verdict != DELIVERED:
        return verdict
    put_source(d.source, &w)
    d.source_port, d.dstport_be, d.tos = w.source_port, walked_port_be(&w), w.tos
    d.data, d.length, d.step = w.packet + w.at, w.end - w.at, w.end - w.at
    memset(&d.vnet, 0, sizeof(vx_vnet))
    if packet.vnet.gso_type or packet.vnet.flags & VX_VNET_NEEDS_CSUM:
        describe_offload(d, &packet.vnet, w.at)
    return DELIVERED


cdef void describe_offload(Datagram *d, const vx_vnet *vnet, uint32_t at) noexcept nogil:
    """What the kernel left undone: of the outer packet, several joined; or of the inner frame."""
    cdef uint32_t inner = at + VX_VXLAN_LEN
    cdef bint of_inner = vnet.flags & VX_VNET_NEEDS_CSUM and vnet.csum_start >= at + MIN_INNER_L4
    if of_inner:
        d.vnet.flags = VX_VNET_NEEDS_CSUM
        d.vnet.csum_start = <uint16_t>(vnet.csum_start - inner)
        d.vnet.csum_offset = vnet.csum_offset
        d.vnet.gso_type, d.vnet.gso_size = vnet.gso_type, vnet.gso_size
        if vnet.hdr_len > inner:
            d.vnet.hdr_len = <uint16_t>(vnet.hdr_len - inner)
    elif vnet.gso_type == VX_VNET_GSO_UDP_L4 and 0 < vnet.gso_size < d.length:
        d.step = vnet.gso_size


# -- sending ----------------------------------------------------------------------------------------


cdef void send(void *state, const Piece *pieces, uint32_t n, const Heading *heading) noexcept nogil:
    """Queue a run as few super-frames as can carry it."""
    cdef State *s = <State *>state
    cdef Hop *hop = find_hop(&s.view, heading.remote_id)
    cdef uint32_t step = pieces[0].head_len + pieces[0].body_len
    cdef uint32_t longest = 1, i = 0, take
    if hop.name.sll_ifindex == 0:
        want_hop(&s.view, heading.remote_id)
        count(s.port.tally, NO_NEXT_HOP, n)
        return
    if hop.template.header_len - VX_ETH_LEN - VX_VXLAN_LEN + step > hop.mtu:
        too_big(s, pieces, n, hop.mtu, heading.segment)
        return
    if s.gso and n > 1:
        longest = min(<uint32_t>MAX_RUN, max(<uint32_t>1, MAX_RUN_BYTES / step))
    while i < n:
        take = min(longest, n - i)
        if s.queue.n == MAX_MESSAGES or s.queue.n_parts + 1 + 2 * take > MAX_PARTS:
            flush(state)
        enqueue(s, pieces + i, take, hop, heading)
        i += take


cdef void too_big(State *s, const Piece *pieces, uint32_t n, uint32_t mtu, uint32_t segment) noexcept nogil:
    cdef iovec parts[2]
    count(s.port.tally, TOO_BIG, n)
    parts[0] = iovec(pieces[0].head, pieces[0].head_len)
    parts[1] = iovec(<void *>pieces[0].body, pieces[0].body_len)
    note_oversize(s.port.tally, segment, mtu, s.six, parts, 2)


cdef inline void enqueue(State *s, const Piece *pieces, uint32_t n, Hop *hop,
                         const Heading *heading) noexcept nogil:
    cdef Queue *q = s.queue
    cdef Message *message = &q.messages[q.n]
    cdef msghdr *msg = &q.msgs[q.n].msg_hdr
    cdef uint32_t i, payload_len = 0
    cdef iovec *parts = &q.parts[q.n_parts]
    for i in range(n):
        parts[1 + 2 * i] = iovec(pieces[i].head, pieces[i].head_len)
        parts[2 + 2 * i] = iovec(<void *>pieces[i].body, pieces[i].body_len)
        payload_len += pieces[i].head_len + pieces[i].body_len
    message.part, message.n_pieces, message.segment = q.n_parts, n, heading.segment
    message.step = pieces[0].head_len + pieces[0].body_len
    message.n_bytes = payload_len - n * VX_VXLAN_LEN
    message.remote, message.hash = heading.remote_id, heading.hash
    message.tos, message.ttl, message.mtu = heading.tos, heading.ttl, hop.mtu
    message.dstport_be = heading.dstport_be
    parts[0] = iovec(&q.heads[q.n][0], put_head(&q.heads[q.n][0], hop, payload_len, n, message))
    msg.msg_name, msg.msg_namelen = &hop.name, sizeof(sockaddr_ll)
    msg.msg_iov, msg.msg_iovlen = parts, 1 + 2 * n
    q.n += 1
    q.n_parts += 1 + 2 * n


cdef inline uint32_t put_head(uint8_t *head, Hop *hop, uint32_t payload_len, uint32_t n,
                              const Message *message) noexcept nogil:
    """The virtio-net header and the outer headers of a run of n pieces; their length."""
    cdef vx_vnet *vnet = <vx_vnet *>head
    cdef uint32_t length = put_outer(head + VNET_LEN, hop, payload_len, n, message.hash, message.dstport_be,
                                     message.tos, message.ttl)
    memset(vnet, 0, sizeof(vx_vnet))
    if n > 1 or hop.template.flags & UDP_CHECK:
        vnet.flags = VX_VNET_NEEDS_CSUM
        vnet.csum_start, vnet.csum_offset = <uint16_t>(length - VX_UDP_LEN), UDP_CHECK_OFF
        put_partial(head + VNET_LEN, hop, payload_len)
    if n > 1:
        vnet.gso_type, vnet.gso_size = VX_VNET_GSO_UDP_L4, <uint16_t>message.step
        vnet.hdr_len = <uint16_t>length
    return VNET_LEN + length


cdef void flush(void *state) noexcept nogil:
    """Send what is queued. An error with nothing sent concerns the first message alone: go on behind it."""
    cdef State *s = <State *>state
    cdef uint32_t at = 0
    cdef int sent
    s.patience.stuck = False
    while at < s.queue.n:
        sent = send_some(&s.patience, s.send_fd, &s.queue.msgs[at], s.queue.n - at)
        if sent > 0:
            count_messages(s, at, at + sent)
            at += sent
        else:
            refused(s, at, -sent)
            at += 1
    s.queue.n = s.queue.n_parts = 0


cdef void count_messages(State *s, uint32_t at, uint32_t end) noexcept nogil:
    cdef Message *message
    while at < end:
        message = &s.queue.messages[at]
        count(s.port.tally, DELIVERED, message.n_pieces)
        count_sent(s.port.tally, message.segment, message.remote, message.n_pieces, message.n_bytes)
        at += 1


cdef void refused(State *s, uint32_t at, int error) noexcept nogil:
    """Count what the kernel did not take, or, if that was a super-frame, send it packet by packet."""
    cdef Message *message = &s.queue.messages[at]
    if message.n_pieces > 1 and (error == EIO or error == EINVAL):
        send_singly(s, at, error)
        return
    count(s.port.tally, underlay_verdict(error), message.n_pieces)
    if error == EMSGSIZE:
        note_oversize(s.port.tally, message.segment, message.mtu, s.six, &s.queue.parts[message.part + 1], 2)


cdef void send_singly(State *s, uint32_t at, int error) noexcept nogil:
    cdef Message *message = &s.queue.messages[at]
    cdef msghdr *msg = &s.queue.msgs[at].msg_hdr
    cdef Hop *hop = find_hop(&s.view, message.remote)
    cdef iovec parts[3]
    cdef uint32_t i, length
    cdef int failed
    msg.msg_iov, msg.msg_iovlen = parts, 3
    for i in range(message.n_pieces):
        memcpy(&parts[1], &s.queue.parts[message.part + 1 + 2 * i], 2 * sizeof(iovec))
        length = <uint32_t>(parts[1].iov_len + parts[2].iov_len)
        parts[0] = iovec(&s.queue.heads[at][0], put_head(&s.queue.heads[at][0], hop, length, 1, message))
        failed = send_one_now(&s.patience, s.send_fd, msg)
        if failed:
            count(s.port.tally, underlay_verdict(failed), 1)
            continue
        if i == 0:  # the last may fit where none of the others does: that proves nothing
            s.gso, s.gso_error = False, error
        count(s.port.tally, DELIVERED, 1)
        count_sent(s.port.tally, message.segment, message.remote, 1, length - VX_VXLAN_LEN)
