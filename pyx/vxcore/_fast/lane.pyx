"""Lane: one thread's loop between overlay and underlay: receive, decapsulate or encapsulate, send.

Place in the house: highest of the compiled modules. It owns its batch and its counters, holds no lock
and never the GIL: Python starts it, reads its counters, and stops it by an eventfd.
"""

from libc.errno cimport EAGAIN, EINTR, EIO, EMSGSIZE, ENOBUFS, errno
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport close, read, write

import os

from vxcore._fast.batch cimport PacketBatch, Packets
from vxcore._fast.c_bytes cimport vx_load16, vx_load32, vx_load48, vx_store16_raw, vx_store32
from vxcore._fast.c_net cimport *
from vxcore._fast.c_wire cimport *
from vxcore._fast.flow cimport *
from vxcore._fast.table cimport ADDRESS_LEN, NONE, Remote, Segment, Tables
from vxcore._fast.verdict cimport *

cdef enum:
    N_SLOTS = 64             # packets a receive takes
    N_SENDS = 256            # messages a flush sends at the most
    N_ROUNDS = 4             # receives from one port before the others have their turn
    N_EVENTS = 64
    # A datagram of the largest size there is: a kernel peer's tunnel GSO can hand us one whole.
    FRAME_SIZE = 65536 + 192  # the odd 192 bytes keep the slots from sharing cache sets
    VNET_LEN = 10
    SEND_WAIT_MS = 10        # how long a full send queue may hold the lane before packets are dropped
    SWEEP_BUSY = 256         # buckets of the FDB looked over in a second with traffic
    SWEEP_IDLE = 8192        # and in one without: half a megabyte, well under a millisecond
    NOBUFS_TRIES = 3
    STOP_TOKEN = 0
    UNDERLAY_TOKEN = 1
    OVERLAY_TOKEN = 2


cdef struct SegmentCounters:
    uint64_t rx_packets, rx_bytes, tx_packets, tx_bytes


cdef struct Send:
    uint32_t packet          # index in the batch
    uint32_t remote
    uint32_t segment
    uint32_t socket          # index in the pool of the remote's family
    uint8_t tos, ttl
    bint done


cdef struct Overlay:
    int fd
    uint32_t mtu
    uint32_t segment


cdef struct Messages:
    mmsghdr msgs[256]
    iovec iov[256]
    uint8_t control[256][64]
    sockaddr_in6 names[64]
    uint32_t sends[256]


cdef class Lane:
    """The loop over `underlay` sockets (receiving fds), `pools` (sending fds: IPv4, IPv6) and
    `overlays` ((fd, mtu, segment) of each TAP); the caller keeps all of them open while it runs.

    `tos`, `ttl` are -1 for inherit, `ttl` 0 for the sockets' own; `strict` drops packets with
    reserved header bits; `ecn_linux` sends inner CE as ECT(0).
    """

    cdef Tables tables
    cdef PacketBatch batch
    cdef Packets *p
    cdef Messages *m
    cdef Send *queue
    cdef uint32_t n_queue
    cdef Overlay *overlays
    cdef uint32_t n_overlays
    cdef int *pools[2]
    cdef uint32_t n_pool[2]
    cdef object _underlay
    cdef int epoll_fd, stop_fd, failed_fd
    cdef int tos, ttl
    cdef bint strict, ecn_linux
    cdef uint32_t now_s
    cdef uint64_t swept_s
    cdef uint64_t verdicts[N_VERDICTS]
    cdef uint64_t wakeups
    cdef SegmentCounters *counters

    def __cinit__(self):
        self.epoll_fd = self.stop_fd = -1
        self.m = <Messages *>calloc(1, sizeof(Messages))
        self.queue = <Send *>calloc(N_SENDS, sizeof(Send))
        if not (self.m and self.queue):
            raise MemoryError("no memory for a lane")

    def __init__(self, Tables tables not None, underlay, pools, overlays, *, tos: int = 0, ttl: int = 0,
                 strict: bool = False, ecn_linux: bool = False):
        self.tables = tables
        self.tos, self.ttl, self.strict, self.ecn_linux = tos, ttl, strict, ecn_linux
        self.batch = PacketBatch(N_SLOTS, FRAME_SIZE)
        self.batch.count = N_SLOTS
        self.p = &self.batch.p
        self._take_overlays(overlays)
        for family in range(2):
            self._take_pool(family, pools[family])
        self._underlay = list(underlay)
        self._watch()

    def _take_overlays(self, overlays) -> None:
        self.overlays = <Overlay *>calloc(len(overlays) + 1, sizeof(Overlay))
        self.counters = <SegmentCounters *>calloc(self.tables.n_segments + 1, sizeof(SegmentCounters))
        if not (self.overlays and self.counters):
            raise MemoryError("no memory for a lane")
        for fd, mtu, segment in overlays:
            self.overlays[self.n_overlays] = Overlay(fd, mtu, segment)
            self.n_overlays += 1

    def _take_pool(self, family: int, fds) -> None:
        self.pools[family] = <int *>calloc(len(fds) + 1, sizeof(int))
        if not self.pools[family]:
            raise MemoryError("no memory for a lane")
        for i, fd in enumerate(fds):
            self.pools[family][i] = fd
        self.n_pool[family] = len(fds)

    def _watch(self) -> None:
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        self.stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.epoll_fd < 0 or self.stop_fd < 0:
            raise OSError(errno, f"lane: {os.strerror(errno)}")
        self._watch_one(self.stop_fd, STOP_TOKEN, 0)
        for fd in self._underlay:
            self._watch_one(fd, UNDERLAY_TOKEN, fd)
        for i in range(self.n_overlays):
            self._watch_one(self.overlays[i].fd, OVERLAY_TOKEN, i)

    def _watch_one(self, fd: int, kind: int, number: int) -> None:
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.u64 = <uint64_t>kind << 32 | <uint64_t>number
        if epoll_ctl(self.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0:
            raise OSError(errno, f"lane: watching descriptor {fd}: {os.strerror(errno)}")

    def __dealloc__(self):
        if self.epoll_fd >= 0:
            close(self.epoll_fd)
        if self.stop_fd >= 0:
            close(self.stop_fd)
        free(self.m)
        free(self.queue)
        free(self.overlays)
        free(self.counters)
        free(self.pools[0])
        free(self.pools[1])

    # -- what Python calls ---------------------------------------------------------------------

    def run(self) -> None:
        """Carry packets until ``stop``; raises OSError when a port fails for good. Releases the GIL."""
        cdef int failed
        with nogil:
            failed = self._loop()
        if failed:
            raise OSError(failed, f"{self._name_of(self.failed_fd)}: {os.strerror(failed)}")

    def _name_of(self, fd: int) -> str:
        for i in range(self.n_overlays):
            if self.overlays[i].fd == fd:
                return f"overlay port of VNI {self.tables.segments[self.overlays[i].segment].vni}"
        return "underlay port" if fd in self._underlay else "lane"

    def stop(self) -> None:
        """Make ``run`` return, from any thread."""
        os.eventfd_write(self.stop_fd, 1)

    def drops(self) -> dict[int, int]:
        """How many packets had each verdict but DELIVERED, by its number."""
        return {i: self.verdicts[i] for i in range(1, N_VERDICTS) if self.verdicts[i]}

    def segment_counters(self, segment: int) -> dict[str, int]:
        """Frames and bytes from (rx) and to (tx) the underlay in one segment."""
        if not 0 <= segment < self.tables.n_segments:
            raise IndexError(f"segment {segment} of {self.tables.n_segments}")
        return dict(self.counters[segment])

    def lane_counters(self) -> dict[str, int]:
        """How often the lane was woken."""
        return {"wakeups": self.wakeups}

    # -- the loop ------------------------------------------------------------------------------

    cdef int _loop(self) noexcept nogil:
        cdef epoll_event events[N_EVENTS]
        cdef int n, i, failed
        while True:
            n = epoll_wait(self.epoll_fd, events, N_EVENTS, 1000)
            if n < 0 and errno != EINTR:
                self.failed_fd = self.epoll_fd
                return errno
            self._tick(n == 0)
            for i in range(n):
                failed = self._serve(events[i].data.u64)
                if failed < 0:
                    return 0
                if failed > 0:
                    return failed

    cdef void _tick(self, bint idle) noexcept nogil:
        cdef timespec now
        clock_gettime(CLOCK_MONOTONIC, &now)
        self.now_s = <uint32_t>now.tv_sec
        self.wakeups += 1
        if self.swept_s != <uint64_t>now.tv_sec:
            self.swept_s = now.tv_sec
            self.tables.fdb_sweep(SWEEP_IDLE if idle else SWEEP_BUSY, self.now_s)

    cdef int _serve(self, uint64_t token) noexcept nogil:
        """One port's turn: below 0 to stop, an errno when the port failed, else 0."""
        cdef uint64_t kind = token >> 32
        if kind == STOP_TOKEN:
            return -1
        if kind == UNDERLAY_TOKEN:
            return self._from_underlay(<int>token)
        return self._from_overlay(&self.overlays[<uint32_t>token])

    cdef inline void _drop(self, Verdict verdict) noexcept nogil:
        self.verdicts[<int>verdict] += 1

    # -- underlay to overlay -------------------------------------------------------------------

    cdef int _from_underlay(self, int fd) noexcept nogil:
        cdef int n, i, _round
        for _round in range(N_ROUNDS):
            self._prepare_receive()
            n = recvmmsg(fd, self.m.msgs, N_SLOTS, MSG_DONTWAIT, NULL)
            if n < 0:
                # An ICMP error that came for the socket is told here once; it ends nothing.
                return 0
            for i in range(n):
                self._deliver(i)
            if n < N_SLOTS:
                return 0
        return 0

    cdef void _prepare_receive(self) noexcept nogil:
        cdef msghdr *msg
        cdef int i
        for i in range(N_SLOTS):
            msg = &self.m.msgs[i].msg_hdr
            self.p.offset[i] = self.p.slot[i] + self.batch.headroom
            self.m.iov[i] = iovec(self.p.mem + self.p.offset[i], FRAME_SIZE)
            memset(msg, 0, sizeof(msghdr))
            msg.msg_iov = &self.m.iov[i]
            msg.msg_iovlen = 1
            msg.msg_name = &self.m.names[i]
            msg.msg_namelen = sizeof(sockaddr_in6)
            msg.msg_control = self.m.control[i]
            msg.msg_controllen = VX_CONTROL_LEN

    cdef void _deliver(self, uint32_t i) noexcept nogil:
        """One received datagram, to its overlay port or to a drop counter."""
        cdef uint8_t *packet = self.p.mem + self.p.offset[i]
        cdef uint32_t length = self.m.msgs[i].msg_len
        cdef Flow flow
        cdef int32_t segment
        cdef Verdict verdict = self._check_header(packet, length)
        if verdict == DELIVERED:
            dissect(packet + VX_VXLAN_LEN, length - VX_VXLAN_LEN, &flow, False)
            verdict = self._admit(i, packet, &flow, &segment)
        if verdict == DELIVERED:
            verdict = self._to_overlay(packet + VX_VXLAN_LEN, length - VX_VXLAN_LEN, &flow,
                                       &self.overlays[self.tables.segments[segment].port])
        if verdict == DELIVERED:
            self.counters[segment].rx_packets += 1
            self.counters[segment].rx_bytes += length - VX_VXLAN_LEN
        self._drop(verdict)

    cdef Verdict _check_header(self, const uint8_t *packet, uint32_t length) noexcept nogil:
        if length < VX_VXLAN_LEN:
            return TRUNCATED
        if not packet[0] & VX_VNI_FLAG:
            return NO_VNI_FLAG
        if self.strict and (vx_load32(packet) != <uint32_t>VX_VNI_FLAG << 24 or packet[7]):
            return RESERVED_BITS
        if length < VX_VXLAN_LEN + VX_ETH_LEN:
            return INNER_TOO_SHORT
        return DELIVERED

    cdef Verdict _admit(self, uint32_t i, uint8_t *packet, Flow *flow, int32_t *segment) noexcept nogil:
        """Known VNI, known peer, acceptable frame; then learn where its sender is."""
        cdef uint8_t address[ADDRESS_LEN]
        cdef uint8_t *frame = packet + VX_VXLAN_LEN
        cdef int32_t remote
        cdef Segment *s
        segment[0] = self.tables.find_segment(vx_load32(packet + 4) >> 8)
        if segment[0] == NONE:
            return UNKNOWN_VNI
        s = &self.tables.segments[segment[0]]
        sender_address(&self.m.names[i], address)
        remote = self.tables.find_remote(address)
        if remote == NONE or not self.tables.is_peer(segment[0], remote):
            return SOURCE_REFUSED
        if is_tag(vx_load16(frame + 12)):
            return INNER_VLAN
        if not ecn_decapsulate(frame, flow, vx_received_tos(&self.m.msgs[i].msg_hdr)):
            return ECN
        if s.learning:
            self.tables.fdb_learn(s, vx_load48(frame + 6), remote, self.now_s)
        return DELIVERED

    cdef Verdict _to_overlay(self, uint8_t *frame, uint32_t length, const Flow *flow,
                             const Overlay *port) noexcept nogil:
        """Write one frame to the TAP behind a virtio-net header, which covers the VXLAN header."""
        cdef vx_vnet vnet
        cdef ssize_t written
        describe(frame, length, flow, port.mtu, &vnet)
        memcpy(frame - VNET_LEN, &vnet, VNET_LEN)
        written = write(port.fd, frame - VNET_LEN, length + VNET_LEN)
        while written < 0 and errno == EINTR:
            written = write(port.fd, frame - VNET_LEN, length + VNET_LEN)
        if written >= 0:
            return DELIVERED
        if errno == EIO:  # tun's answer while the device is down
            return OVERLAY_DOWN
        return OVERLAY_FULL if errno == EAGAIN or errno == ENOBUFS else OVERLAY_REFUSED

    # -- overlay to underlay -------------------------------------------------------------------

    cdef int _from_overlay(self, Overlay *port) noexcept nogil:
        cdef uint32_t n
        cdef int _round, failed
        for _round in range(N_ROUNDS):
            failed = self._read_overlay(port, &n)
            for i in range(n):
                self._drop(self._forward(i, port.segment))
            self._flush()
            if failed:
                self.failed_fd = port.fd
                return failed
            if n < N_SLOTS:
                return 0
        return 0

    cdef int _read_overlay(self, Overlay *port, uint32_t *n) noexcept nogil:
        """Read frames until the TAP is empty or the batch full; an errno when it is gone."""
        cdef uint8_t *at
        cdef ssize_t length
        n[0] = 0
        while n[0] < N_SLOTS:
            self.p.offset[n[0]] = self.p.slot[n[0]] + self.batch.headroom
            at = self.p.mem + self.p.offset[n[0]]
            length = read(port.fd, at - VNET_LEN, FRAME_SIZE)
            if length < 0:
                return 0 if errno == EAGAIN or errno == EINTR else errno
            if length >= VNET_LEN:
                self.p.length[n[0]] = <uint32_t>(length - VNET_LEN)
                n[0] += 1
        return 0

    cdef Verdict _forward(self, uint32_t i, uint32_t segment) noexcept nogil:
        """Queue one frame to its remote, or to all of the flood set."""
        cdef uint8_t *frame = self.p.mem + self.p.offset[i]
        cdef Segment *s = &self.tables.segments[segment]
        cdef Flow flow
        cdef int32_t remote
        cdef uint32_t k
        if self.p.length[i] < VX_ETH_LEN:
            return INNER_TOO_SHORT
        if is_tag(vx_load16(frame + 12)):
            return INNER_VLAN
        dissect(frame, self.p.length[i], &flow, False)
        finish_checksum(frame, self.p.length[i], &flow)
        vx_store32(frame - VX_VXLAN_LEN, <uint32_t>VX_VNI_FLAG << 24)
        vx_store32(frame - VX_VXLAN_LEN + 4, s.vni << 8)
        remote = NONE if frame[0] & 1 else self.tables.fdb_find(s, vx_load48(frame), self.now_s)
        if remote != NONE:
            self._queue(i, segment, remote, &flow)
            return DELIVERED
        if s.n_flood == 0:
            return NO_REMOTE
        for k in range(s.n_flood):
            self._queue(i, segment, self.tables.flood[s.flood_at + k], &flow)
        return DELIVERED

    cdef void _queue(self, uint32_t i, uint32_t segment, uint32_t remote, const Flow *flow) noexcept nogil:
        cdef Send *send
        cdef uint32_t family = self.tables.remotes[remote].family == 6
        if self.n_queue == N_SENDS:
            self._flush()
        send = &self.queue[self.n_queue]
        send.packet, send.segment, send.remote, send.done = i, segment, remote, False
        send.socket = family << 16 | <uint32_t>((<uint64_t>flow.hash * self.n_pool[family]) >> 32)
        send.tos = (flow.tos if self.tos < 0 else <uint8_t>self.tos) & 0xFC
        send.tos |= outer_ecn(flow.tos, self.ecn_linux)
        send.ttl = flow.ttl if self.ttl < 0 else 0
        self.n_queue += 1

    cdef void _flush(self) noexcept nogil:
        """Send what is queued, one call for each source port in turn: a flow keeps its order."""
        cdef uint32_t i
        for i in range(self.n_queue):
            if not self.queue[i].done:
                self._send_from(i)
        self.n_queue = 0

    cdef void _send_from(self, uint32_t first) noexcept nogil:
        cdef uint32_t socket = self.queue[first].socket
        cdef uint32_t i, n = 0
        for i in range(first, self.n_queue):
            if not self.queue[i].done and self.queue[i].socket == socket:
                self.queue[i].done = True
                self._compose(n, i)
                n += 1
        self._send_all(self.pools[socket >> 16][socket & 0xFFFF], n)

    cdef void _compose(self, uint32_t at, uint32_t i) noexcept nogil:
        cdef msghdr *msg = &self.m.msgs[at].msg_hdr
        cdef Send *send = &self.queue[i]
        cdef Remote *remote = &self.tables.remotes[send.remote]
        cdef bint six = remote.family == 6
        self.m.sends[at] = i
        self.m.iov[at] = iovec(self.p.mem + self.p.offset[send.packet] - VX_VXLAN_LEN,
                               self.p.length[send.packet] + VX_VXLAN_LEN)
        memset(msg, 0, sizeof(msghdr))
        msg.msg_name = &remote.name
        msg.msg_namelen = remote.name_len
        msg.msg_iov = &self.m.iov[at]
        msg.msg_iovlen = 1
        if send.tos:
            vx_put_control(msg, self.m.control[at], IPPROTO_IPV6 if six else IPPROTO_IP,
                           IPV6_TCLASS if six else IP_TOS, send.tos)
        if send.ttl:
            vx_put_control(msg, self.m.control[at], IPPROTO_IPV6 if six else IPPROTO_IP,
                           IPV6_HOPLIMIT if six else IP_TTL, send.ttl)

    cdef void _send_all(self, int fd, uint32_t n) noexcept nogil:
        """An error with nothing sent concerns the first message alone: drop it and go on."""
        cdef uint32_t at = 0
        cdef int sent, error, tries = 0
        while at < n:
            sent = sendmmsg(fd, &self.m.msgs[at], n - at, MSG_DONTWAIT)
            error = errno
            if sent > 0:
                self._count_sent(at, at + sent)
                at += sent
                tries = 0
            elif error == EINTR or (error == EAGAIN and wait_writable(fd)):
                continue
            elif error == ENOBUFS and tries < NOBUFS_TRIES:
                tries += 1
            else:
                self._drop(send_verdict(error))
                at += 1
                tries = 0

    cdef void _count_sent(self, uint32_t at, uint32_t end) noexcept nogil:
        cdef SegmentCounters *counters
        while at < end:
            counters = &self.counters[self.queue[self.m.sends[at]].segment]
            counters.tx_packets += 1
            counters.tx_bytes += self.m.iov[at].iov_len - VX_VXLAN_LEN
            at += 1


cdef Verdict send_verdict(int error) noexcept nogil:
    if error == EMSGSIZE:
        return TOO_BIG
    return UNDERLAY_FULL if error == EAGAIN or error == ENOBUFS else UNDERLAY_REFUSED


cdef bint wait_writable(int fd) noexcept nogil:
    cdef pollfd wanted = pollfd(fd, POLLOUT, 0)
    return poll(&wanted, 1, SEND_WAIT_MS) > 0


cdef void sender_address(const sockaddr_in6 *name, uint8_t *address) noexcept nogil:
    """The 16-byte form of who sent a datagram, IPv4 as ::ffff:a.b.c.d."""
    if name.sin6_family == AF_INET6:
        memcpy(address, &name.sin6_addr, ADDRESS_LEN)
        return
    memset(address, 0, 10)
    vx_store16_raw(address + 10, 0xFFFF)
    memcpy(address + 12, &(<const sockaddr_in *>name).sin_addr, 4)


cdef void describe(uint8_t *frame, uint32_t length, const Flow *flow, uint32_t mtu,
                   vx_vnet *vnet) noexcept nogil:
    """Tell the TAP of a checksum still to finish, and of a TCP super-frame to be cut to the MTU.

    A kernel peer with tunnel offloads hands us both. Cutting TCP at any size is right, so the MTU
    is as good as the unknown original size.
    """
    cdef uint32_t field_off, header_len
    memset(vnet, 0, sizeof(vx_vnet))
    if not checksum_is_partial(frame, length, flow, &field_off):
        return
    vnet.flags = VX_VNET_NEEDS_CSUM
    vnet.csum_start = <uint16_t>flow.l4_off
    vnet.csum_offset = <uint16_t>field_off
    if flow.proto != PROTO_TCP or length <= mtu + VX_ETH_LEN:
        return
    header_len = flow.l4_off + (frame[flow.l4_off + 12] >> 4) * 4
    if header_len - flow.ip_off >= mtu or header_len < flow.l4_off + 20 or header_len >= length:
        return
    vnet.gso_type = VX_VNET_GSO_TCPV4 if flow.version == 4 else VX_VNET_GSO_TCPV6
    vnet.hdr_len = <uint16_t>header_len
    vnet.gso_size = <uint16_t>(mtu - (header_len - flow.ip_off))
