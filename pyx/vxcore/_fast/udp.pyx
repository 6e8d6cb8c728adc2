"""UDP: the underlay port that is a set of UDP sockets of this host's own stack.

Place in the house: one kind of port; above port, below the lane. One socket receives; a pool of others
sends, for a UDP socket has one source port and RFC 7348 section 5 wants it to vary with the inner flow.
A run goes out as one message that the kernel, or the NIC, cuts (UDP_SEGMENT); what the kernel joined on
receipt comes in as one (UDP_GRO).
"""

from libc.errno cimport EINVAL, EIO, EMSGSIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from vxcore._fast.c_bytes cimport vx_be16, vx_store16_raw
from vxcore._fast.c_net cimport *
from vxcore._fast.c_table cimport VX_NAME_LEN
from vxcore._fast.c_wire cimport *
from vxcore._fast.flow cimport PROTO_UDP, Flow, dissect
from vxcore._fast.port cimport *
from vxcore._fast.table cimport Remote
from vxcore._fast.verdict cimport *

cdef enum:
    MAX_MESSAGES = 256
    MAX_PARTS = 2048         # two for each piece
    MAX_RUN = 63             # UDP_MAX_SEGMENTS of Linux before 6.9, less one; now it is 127
    MAX_RUN_BYTES = 65000    # what fits a datagram, with room for IP options
    RECEIVE_BYTES = 1 << 19  # half of a usual L2 cache: what one receive is to bring, so that it stays near
    MIN_RECEIVE = 4
    UDP_CHECK_OFF = 6
    NOTHING = -1


cdef struct Message:
    const Remote *remote
    uint32_t part, n_pieces, step, last_len, n_bytes, segment, remote_id
    int next                 # of the same source port; NOTHING: the last
    uint16_t dstport_be
    uint8_t tos, ttl


cdef struct Queue:
    Message messages[256]
    iovec parts[2048]
    iovec gathered[2048]     # those of messages that go out as one
    uint32_t n, n_parts, n_gathered
    int first[1024]          # of each source port, or NOTHING
    int last[1024]


cdef struct Buffers:
    mmsghdr msgs[256]
    iovec iov[64]
    uint8_t control[256][96]
    sockaddr_in6 names[64]   # who sent what was received
    sockaddr_in6 ends[256]   # where messages go
    uint32_t first[256]      # which of the queue's messages each is, and how many that follow it
    uint32_t n_merged[256]


cdef struct State:
    Underlay *port
    int route_fd             # a socket that is connected only to ask for the MTU of a route
    int *fds                 # of source port i: [2 * i] for single packets, [2 * i + 1] for runs
    uint32_t n_sources
    uint32_t n_receive
    bint six, gso
    Patience patience        # of this flush
    int gso_error            # why runs are no longer sent as such, an errno
    Queue *queue
    Buffers *b


cdef class UdpPort(UnderlayPort):
    """Sockets of one local address by their descriptors, which the caller keeps open.

    `receiver` is bound to the UDP port `dstport`; `route` is a spare one, like the senders, that sends
    nothing but tells the MTU of routes. `senders` has a pair for each source port: for single packets
    and for runs; the second is -1, in all or none, where the kernel is not to be asked for UDP_SEGMENT.
    Raises ValueError when there are none or more than 1,024.
    """

    cdef State s

    def __cinit__(self):
        self.s.queue = <Queue *>calloc(1, sizeof(Queue))
        self.s.b = <Buffers *>calloc(1, sizeof(Buffers))
        self.s.fds = <int *>calloc(2 * 1024, sizeof(int))
        if not (self.s.queue and self.s.b and self.s.fds):
            raise MemoryError("no memory for a port")

    def __init__(self, name: str, receiver: int, route: int, senders, family: int, dstport: int = 4789):
        if not 1 <= len(senders) <= 1024:
            raise ValueError(f"{len(senders)} source ports: from 1 to 1024")
        self.name = name
        for i, (single, run) in enumerate(senders):
            self.s.fds[2 * i], self.s.fds[2 * i + 1] = single, run
            self.s.queue.first[i] = NOTHING
        self.s.n_sources, self.s.six = len(senders), family == 6
        self.s.gso = self.s.fds[1] >= 0
        self.s.n_receive = MAX_BURST
        self.s.route_fd = route
        self.s.port = &self.port
        self.port.fd, self.port.state, self.port.dstport_be = receiver, &self.s, vx_be16(dstport)
        self.port.receive, self.port.send, self.port.flush = receive, send, flush

    def __dealloc__(self):
        free(self.s.queue)
        free(self.s.b)
        free(self.s.fds)

    @property
    def gso_error(self) -> int:
        """The errno with which the kernel refused UDP_SEGMENT, after which it was not used; else 0."""
        return self.s.gso_error


# -- receiving --------------------------------------------------------------------------------------


cdef int receive(void *state, Datagram *out, uint32_t max) noexcept nogil:
    cdef State *s = <State *>state
    cdef uint32_t n_bytes = 0
    cdef int n, i
    max = smaller(max, s.n_receive)
    for i in range(<int>max):
        prepare(s.b, i, out[i].data)
    n = recvmmsg(s.port.fd, s.b.msgs, max, MSG_DONTWAIT, NULL)
    if n <= 0:  # an ICMP error that came for the socket is told here once; it ends nothing
        return 0
    for i in range(n):
        n_bytes += s.b.msgs[i].msg_len
        describe(&out[i], &s.b.msgs[i], &s.b.names[i])
        out[i].dstport_be = s.port.dstport_be
    s.n_receive = smaller(MAX_BURST, larger(MIN_RECEIVE, RECEIVE_BYTES / (n_bytes / <uint32_t>n + 1)))
    return n


cdef inline uint32_t larger(uint32_t a, uint32_t b) noexcept nogil:
    return a if a > b else b


cdef inline uint32_t smaller(uint32_t a, uint32_t b) noexcept nogil:
    return a if a < b else b


cdef inline void prepare(Buffers *b, int i, uint8_t *data) noexcept nogil:
    cdef msghdr *msg = &b.msgs[i].msg_hdr
    b.iov[i] = iovec(data, SLOT_LEN)
    msg.msg_iov, msg.msg_iovlen = &b.iov[i], 1
    msg.msg_name, msg.msg_namelen = &b.names[i], sizeof(sockaddr_in6)
    msg.msg_control, msg.msg_controllen = b.control[i], VX_CONTROL_LEN
    msg.msg_flags = 0


cdef inline void describe(Datagram *d, mmsghdr *m, const sockaddr_in6 *name) noexcept nogil:
    cdef uint32_t step = vx_received_step(&m.msg_hdr)
    d.length = m.msg_len
    d.step = step if 0 < step < d.length else d.length
    d.tos = vx_received_tos(&m.msg_hdr)
    d.source_port = vx_be16(name.sin6_port)
    memset(&d.vnet, 0, sizeof(vx_vnet))
    if d.step < d.length:
        describe_superframe(d)
    if name.sin6_family == AF_INET6:
        memcpy(d.source, &name.sin6_addr, 16)
        return
    memset(d.source, 0, 10)
    vx_store16_raw(d.source + 10, 0xFFFF)
    memcpy(d.source + 12, &(<const sockaddr_in *>name).sin_addr, 4)


cdef void describe_superframe(Datagram *d) noexcept nogil:
    """Tell one packet with a UDP super-frame in it from packets that came joined: of both the kernel says
    a size, and a peer on this machine hands us the former (tunnel offload over veth). Its IP header has
    the length of all that came. Taken for joined packets, its payload would be read as VXLAN headers.
    """
    cdef Flow flow
    if d.length < VX_VXLAN_LEN + VX_ETH_LEN:
        return
    dissect(d.data + VX_VXLAN_LEN, d.length - VX_VXLAN_LEN, &flow, False)
    if (flow.l4_off == 0 or flow.proto != PROTO_UDP or flow.l4_len < VX_UDP_LEN
            or flow.l4_off + flow.l4_len != d.length - VX_VXLAN_LEN):
        return
    d.vnet.flags, d.vnet.gso_type = VX_VNET_NEEDS_CSUM, VX_VNET_GSO_UDP_L4
    d.vnet.csum_start, d.vnet.csum_offset = <uint16_t>flow.l4_off, UDP_CHECK_OFF
    d.vnet.hdr_len, d.vnet.gso_size = <uint16_t>(flow.l4_off + VX_UDP_LEN), <uint16_t>d.step
    d.step = d.length


# -- sending ----------------------------------------------------------------------------------------


cdef void send(void *state, const Piece *pieces, uint32_t n, const Heading *heading) noexcept nogil:
    """Queue a run as few messages as can carry it."""
    cdef State *s = <State *>state
    cdef uint32_t step = pieces[0].head_len + pieces[0].body_len
    cdef uint32_t longest = 1
    cdef uint32_t i = 0, take
    if s.gso and n > 1:
        longest = smaller(MAX_RUN, larger(1, MAX_RUN_BYTES / step))
    while i < n:
        take = smaller(longest, n - i)
        if s.queue.n == MAX_MESSAGES or s.queue.n_parts + 2 * take > MAX_PARTS:
            flush(state)
        enqueue(s, pieces + i, take, heading)
        i += take


cdef inline void enqueue(State *s, const Piece *pieces, uint32_t n, const Heading *heading) noexcept nogil:
    cdef Queue *q = s.queue
    cdef uint32_t source = <uint32_t>((<uint64_t>heading.hash * s.n_sources) >> 32)
    cdef Message *message = &q.messages[q.n]
    cdef uint32_t i
    message.remote, message.remote_id, message.segment = heading.remote, heading.remote_id, heading.segment
    message.tos, message.ttl, message.dstport_be = heading.tos, heading.ttl, heading.dstport_be
    message.part, message.n_pieces, message.n_bytes = q.n_parts, n, 0
    message.step = pieces[0].head_len + pieces[0].body_len
    message.last_len = pieces[n - 1].head_len + pieces[n - 1].body_len
    for i in range(n):
        q.parts[q.n_parts] = iovec(pieces[i].head, pieces[i].head_len)
        q.parts[q.n_parts + 1] = iovec(<void *>pieces[i].body, pieces[i].body_len)
        q.n_parts += 2
        message.n_bytes += pieces[i].head_len + pieces[i].body_len - VX_VXLAN_LEN
    message.next = NOTHING
    if q.first[source] == NOTHING:
        q.first[source] = <int>q.n
    else:
        q.messages[q.last[source]].next = <int>q.n
    q.last[source] = <int>q.n
    q.n += 1


cdef void flush(void *state) noexcept nogil:
    """Send what is queued, source port by source port: a flow has one, and so keeps its order."""
    cdef State *s = <State *>state
    cdef uint32_t source
    if s.queue.n == 0:
        return
    s.patience.stuck = False
    for source in range(s.n_sources):
        if s.queue.first[source] != NOTHING:
            send_from(s, source)
            s.queue.first[source] = NOTHING
    s.queue.n = s.queue.n_parts = s.queue.n_gathered = 0


cdef void send_from(State *s, uint32_t source) noexcept nogil:
    """What one source port has to send: as few messages, and calls, as its two sockets allow."""
    cdef int at = s.queue.first[source]
    cdef uint32_t n = 0
    cdef int fd, last_fd = NOTHING
    while at != NOTHING:
        at = compose(s, n, at)
        fd = s.fds[2 * source + is_run(s, n)]
        if n and fd != last_fd:
            send_all(s, last_fd, source, n)
            to_front(s.b, n)
            n = 0
        last_fd = fd
        n += 1
    send_all(s, last_fd, source, n)


cdef void to_front(Buffers *b, uint32_t at) noexcept nogil:
    """Make a composed message the first, with what belongs to it and the next one would overwrite."""
    b.msgs[0], b.first[0], b.n_merged[0] = b.msgs[at], b.first[at], b.n_merged[at]
    b.ends[0] = b.ends[at]
    b.msgs[0].msg_hdr.msg_name = &b.ends[0]
    memcpy(b.control[0], b.control[at], VX_CONTROL_LEN)
    if b.msgs[0].msg_hdr.msg_control != NULL:
        b.msgs[0].msg_hdr.msg_control = b.control[0]


cdef inline bint is_run(State *s, uint32_t at) noexcept nogil:
    return s.b.n_merged[at] > 1 or s.queue.messages[s.b.first[at]].n_pieces > 1


cdef int compose(State *s, uint32_t at, int first) noexcept nogil:
    """Make a message for the kernel of a queued one and those behind it that can go in one run with it;
    the next that cannot, or NOTHING.
    """
    cdef Message *message = &s.queue.messages[first]
    cdef msghdr *msg = &s.b.msgs[at].msg_hdr
    cdef int next = message.next
    fill(s, msg, &s.b.ends[at], s.b.control[at], message)
    msg.msg_iov, msg.msg_iovlen = &s.queue.parts[message.part], 2 * message.n_pieces
    s.b.first[at], s.b.n_merged[at] = <uint32_t>first, 1
    if s.gso and next != NOTHING:
        next = merge(s, at, message)
    if is_run(s, at):
        vx_put_control16(msg, s.b.control[at], IPPROTO_UDP, UDP_SEGMENT, <uint16_t>message.step)
    return next


cdef int merge(State *s, uint32_t at, const Message *first) noexcept nogil:
    """Let the packets of more messages go in one run: the kernel does its work once for all of them."""
    cdef const Message *last = first
    cdef const Message *message
    cdef uint32_t n_pieces = first.n_pieces
    cdef int next = first.next
    while next != NOTHING:
        message = &s.queue.messages[next]
        n_pieces += message.n_pieces
        if (last.last_len != first.step or not goes_with(first, message) or n_pieces > MAX_RUN
                or n_pieces * first.step > MAX_RUN_BYTES):
            break
        if s.b.n_merged[at] == 1:
            s.b.msgs[at].msg_hdr.msg_iov = &s.queue.gathered[s.queue.n_gathered]
            gather(s.queue, first)
        gather(s.queue, message)
        s.b.n_merged[at] += 1
        last, next = message, message.next
    if s.b.n_merged[at] > 1:
        s.b.msgs[at].msg_hdr.msg_iovlen = (
            &s.queue.gathered[s.queue.n_gathered] - s.b.msgs[at].msg_hdr.msg_iov)
    return next


cdef inline bint goes_with(const Message *a, const Message *b) noexcept nogil:
    """Whether b can follow a in a run: same outer headers, no packet longer than a's."""
    return (a.remote == b.remote and a.dstport_be == b.dstport_be and a.tos == b.tos and a.ttl == b.ttl
            and (a.step == b.step or (b.n_pieces == 1 and b.step < a.step)))


cdef inline void gather(Queue *q, const Message *message) noexcept nogil:
    cdef uint32_t i
    for i in range(message.part, message.part + 2 * message.n_pieces):
        if q.parts[i].iov_len:
            q.gathered[q.n_gathered] = q.parts[i]
            q.n_gathered += 1


cdef void fill(State *s, msghdr *msg, sockaddr_in6 *end, void *control,
               const Message *message) noexcept nogil:
    """Where to, and what the outer header is to say."""
    memset(msg, 0, sizeof(msghdr))
    memcpy(end, message.remote.name, VX_NAME_LEN)
    end.sin6_port = message.dstport_be  # in a sockaddr_in it stands in the same place
    msg.msg_name, msg.msg_namelen = end, message.remote.name_len
    if message.tos:
        vx_put_control(msg, control, IPPROTO_IPV6 if s.six else IPPROTO_IP,
                       IPV6_TCLASS if s.six else IP_TOS, message.tos)
    if message.ttl:
        vx_put_control(msg, control, IPPROTO_IPV6 if s.six else IPPROTO_IP,
                       IPV6_HOPLIMIT if s.six else IP_TTL, message.ttl)


cdef void send_all(State *s, int fd, uint32_t source, uint32_t n) noexcept nogil:
    """An error with nothing sent concerns the first message alone: deal with it and go on."""
    cdef uint32_t at = 0
    cdef int sent
    while at < n:
        sent = send_some(&s.patience, fd, &s.b.msgs[at], n - at)
        if sent > 0:
            count_messages(s, at, at + sent)
            at += sent
        else:
            refused(s, at, source, -sent)
            at += 1


cdef inline const Message *following(Queue *q, const Message *message) noexcept nogil:
    return &q.messages[message.next] if message.next != NOTHING else NULL


cdef void count_messages(State *s, uint32_t at, uint32_t end) noexcept nogil:
    cdef const Message *message
    cdef uint32_t _i
    while at < end:
        message = &s.queue.messages[s.b.first[at]]
        for _i in range(s.b.n_merged[at]):
            count(s.port.tally, DELIVERED, message.n_pieces)
            count_sent(s.port.tally, message.segment, message.remote_id, message.n_pieces, message.n_bytes)
            message = following(s.queue, message)
        at += 1


cdef void refused(State *s, uint32_t at, uint32_t source, int error) noexcept nogil:
    """Count what the kernel did not take. A run that it cannot cut, or one of several messages of which
    some may be small enough, goes packet by packet.
    """
    cdef const Message *message = &s.queue.messages[s.b.first[at]]
    cdef bint singly = is_run(s, at) and (error == EIO or error == EINVAL)
    cdef uint32_t _i
    if s.b.n_merged[at] > 1 and error == EMSGSIZE:
        singly, error = True, 0
    for _i in range(s.b.n_merged[at]):
        if singly:
            send_singly(s, message, source, error)
            error = 0
        else:
            count(s.port.tally, underlay_verdict(error), message.n_pieces)
            if error == EMSGSIZE:
                too_big(s, message, &s.queue.parts[message.part])
        message = following(s.queue, message)


cdef void too_big(State *s, const Message *message, const iovec *parts) noexcept nogil:
    if s.port.tally.n_oversize < MAX_OVERSIZE:
        note_oversize(s.port.tally, message.segment, route_mtu(s, message.remote), s.six, parts, 2)


cdef uint32_t route_mtu(State *s, const Remote *remote) noexcept nogil:
    """The MTU that the kernel knows for the way to a remote, learned by ICMP or of the device; or 0."""
    cdef int mtu = 0
    cdef unsigned int length = sizeof(mtu)
    if connect(s.route_fd, <const sockaddr *>&remote.name, remote.name_len) < 0:
        return 0
    if getsockopt(s.route_fd, IPPROTO_IPV6 if s.six else IPPROTO_IP, IPV6_MTU if s.six else IP_MTU,
                  &mtu, &length) < 0 or mtu < 0:
        return 0
    return <uint32_t>mtu


cdef void send_singly(State *s, const Message *message, uint32_t source, int error) noexcept nogil:
    """Its packets as messages of their own. With the errno of a refused run: if its first packet goes, the
    kernel cannot cut, and is asked no more.
    """
    cdef uint8_t control[96]
    cdef sockaddr_in6 end
    cdef msghdr msg
    cdef uint32_t i
    cdef int failed
    fill(s, &msg, &end, control, message)
    msg.msg_iovlen = 2
    for i in range(message.n_pieces):
        msg.msg_iov = &s.queue.parts[message.part + 2 * i]
        failed = send_one_now(&s.patience, s.fds[2 * source], &msg)
        if failed:
            count(s.port.tally, underlay_verdict(failed), 1)
            if failed == EMSGSIZE:
                too_big(s, message, msg.msg_iov)
            continue
        if i == 0 and error:  # the last may fit where no other does: that proves nothing
            s.gso, s.gso_error = False, error
        count(s.port.tally, DELIVERED, 1)
        count_sent(s.port.tally, message.segment, message.remote_id, 1,
                   msg.msg_iov[0].iov_len + msg.msg_iov[1].iov_len - VX_VXLAN_LEN)
