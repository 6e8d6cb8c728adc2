"""Lane: one thread's loop between overlay and underlay: receive, decapsulate or encapsulate, send.

Place in the house: highest of the compiled modules. It owns its ports, its memory and its counters,
holds no lock and never the GIL: Python starts it, reads its counters, and stops it by an eventfd.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport close

import os

from vxcore._fast.c_bytes cimport vx_be32, vx_load16, vx_load32, vx_load48, vx_store64_raw
from vxcore._fast.c_net cimport *
from vxcore._fast.c_table cimport *
from vxcore._fast.c_wire cimport *
from vxcore._fast.flow cimport *
from vxcore._fast.gro cimport Joins, gro_add, gro_flush
from vxcore._fast.gso cimport HEADS_LEN, MAX_PIECES, Cuts, Whole, finish_partial, gso_begin, gso_cut
from vxcore._fast.icmp cimport MAX_ANSWER_LEN, too_big_answer
from vxcore._fast.port cimport *
from vxcore._fast.table cimport NONE, Reader, Seat, Segment, Tables
from vxcore._fast.verdict cimport *

cdef enum:
    N_ROUNDS = 4             # bursts from one port before the others have their turn
    N_EVENTS = 64
    BURST_BYTES = 1 << 18    # read from an overlay port before it is sent on: what stays in a usual L2 cache
    SWEEP_BUSY = 256         # buckets of the FDB looked over in a second with traffic
    SWEEP_IDLE = 8192        # and in one without: half a megabyte, well under a millisecond
    IDLE_MS = 1000
    ANSWERS_PER_S = 100      # to senders of frames that are too large for the underlay
    STOP_TOKEN = 0
    UNDERLAY_TOKEN = 1
    OVERLAY_TOKEN = 2


# What one burst has found out already; the next packet most often asks the same.
cdef struct Recent:
    uint32_t vni
    int32_t segment          # of `vni`; NONE: nothing is known yet
    int32_t peer             # a remote that `segment` admits
    uint64_t mac             # the last source learned, from `peer` in `segment`


cdef class Lane:
    """The loop over `underlays` (at most one for each IP family) and `overlays`.

    Each underlay comes with the families it sends: ``(port, (4, 6))``. The ports are used by this lane
    alone. `tos`, `ttl` are -1 for inherit, `ttl` 0 for the port's own;
    `strict` drops packets with reserved header bits; `ecn_linux` sends inner CE as ECT(0);
    `join_tcp` and `join_udp` let frames of one flow reach the overlay as super-frames;
    `busy_poll_us` is how long the lane looks for more before it sleeps.
    """

    cdef Tables tables
    cdef Reader reader
    cdef Seat *seat          # in the tables: between vx_enter and vx_leave what is looked up stays valid
    cdef list _overlay_ports, _underlay_ports
    cdef Overlay **overlays
    cdef Underlay **underlays
    cdef Underlay *by_family[2]
    cdef uint32_t n_overlays, n_underlays
    cdef uint8_t *slots
    cdef Frame *frames
    cdef Datagram *datagrams
    cdef Cuts cuts
    cdef Joins *joins
    cdef Recent recent
    cdef Tally tally
    cdef int epoll_fd, stop_fd, failed_fd
    cdef int tos, ttl
    cdef bint strict, ecn_linux, superframes
    cdef uint32_t now_s, answers_left
    cdef uint64_t busy_poll_ns, swept_s
    cdef uint64_t wakeups, bursts

    def __cinit__(self):
        self.epoll_fd = self.stop_fd = -1
        self.slots = <uint8_t *>malloc(MAX_BURST * <size_t>SLOT_STRIDE)
        self.frames = <Frame *>calloc(MAX_BURST, sizeof(Frame))
        self.datagrams = <Datagram *>calloc(MAX_BURST, sizeof(Datagram))
        self.cuts.heads = <uint8_t *>malloc(HEADS_LEN)
        self.cuts.pieces = <Piece *>malloc(MAX_PIECES * sizeof(Piece))
        self.joins = <Joins *>calloc(1, sizeof(Joins))
        if not (self.slots and self.frames and self.datagrams and self.cuts.heads and self.cuts.pieces
                and self.joins):
            raise MemoryError("no memory for a lane")

    def __init__(self, Tables tables not None, underlays, overlays, *, tos: int = 0, ttl: int = 0,
                 strict: bool = False, ecn_linux: bool = False, join_tcp: bool = True, join_udp: bool = True,
                 busy_poll_us: int = 0):
        self.tables = tables
        self.reader = Reader(tables)
        self.seat = self.reader.seat
        self.tos, self.ttl, self.strict, self.ecn_linux = tos, ttl, strict, ecn_linux
        self.joins.tcp, self.joins.udp = join_tcp, join_udp
        self.busy_poll_ns = 1000 * <uint64_t>busy_poll_us
        self.tally.segments = <SegmentCounters *>calloc(tables.max_segments + 1, sizeof(SegmentCounters))
        if not self.tally.segments:
            raise MemoryError("no memory for a lane")
        self._take_overlays(list(overlays))
        self._take_underlays(list(underlays))
        self._watch()

    def _take_overlays(self, list ports) -> None:
        self._overlay_ports, self.n_overlays = ports, len(ports)
        self.overlays = <Overlay **>calloc(len(ports) + 1, sizeof(Overlay *))
        if not self.overlays:
            raise MemoryError("no memory for a lane")
        for i, port in enumerate(ports):
            self.overlays[i] = &(<OverlayPort?>port).port
            self.overlays[i].tally = &self.tally

    def _take_underlays(self, list ports) -> None:
        cdef Underlay *underlay
        self._underlay_ports, self.n_underlays = [port for port, _ in ports], len(ports)
        self.underlays = <Underlay **>calloc(len(ports) + 1, sizeof(Underlay *))
        if not self.underlays:
            raise MemoryError("no memory for a lane")
        for i, (port, families) in enumerate(ports):
            underlay = self.underlays[i] = &(<UnderlayPort?>port).port
            underlay.tally = &self.tally
            for family in families:
                self.by_family[family == 6] = underlay

    def _watch(self) -> None:
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        self.stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.epoll_fd < 0 or self.stop_fd < 0:
            raise OSError(errno, f"lane: {os.strerror(errno)}")
        self._watch_one(self.stop_fd, STOP_TOKEN, 0)
        for i in range(self.n_underlays):
            self._watch_one(self.underlays[i].fd, UNDERLAY_TOKEN, i)
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
        free(self.slots)
        free(self.frames)
        free(self.datagrams)
        free(self.cuts.heads)
        free(self.cuts.pieces)
        free(self.joins)
        free(self.overlays)
        free(self.underlays)
        free(self.tally.segments)

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
                return f"overlay port {self._overlay_ports[i].name}"
        for i in range(self.n_underlays):
            if self.underlays[i].fd == fd:
                return f"underlay port {self._underlay_ports[i].name}"
        return "lane"

    def stop(self) -> None:
        """Make ``run`` return, from any thread."""
        os.eventfd_write(self.stop_fd, 1)

    def drops(self) -> dict[int, int]:
        """How many packets had each verdict but DELIVERED, by its number."""
        return {i: self.tally.verdicts[i] for i in range(1, N_VERDICTS) if self.tally.verdicts[i]}

    def segment_counters(self, segment: int) -> dict[str, int]:
        """Frames and bytes accepted from (rx) and sent to (tx) the underlay in one segment."""
        if not 0 <= segment < self.tables.max_segments:
            raise IndexError(f"segment {segment} of {self.tables.max_segments}")
        return dict(self.tally.segments[segment])

    def lane_counters(self) -> dict[str, int]:
        """How often the lane was woken, and how many bursts it has received."""
        return {"wakeups": self.wakeups, "bursts": self.bursts}

    # -- the loop ------------------------------------------------------------------------------

    cdef int _loop(self) noexcept nogil:
        """Below 0 never; 0 when told to stop, else the errno of what failed."""
        cdef epoll_event events[N_EVENTS]
        cdef uint64_t busy_until = 0
        cdef int n, i, failed
        while True:
            vx_leave(self.seat)
            n = epoll_wait(self.epoll_fd, events, N_EVENTS, 0 if busy_until else IDLE_MS)
            vx_enter(self.seat)
            if n < 0 and errno != EINTR:
                self.failed_fd = self.epoll_fd
                return errno
            busy_until = self._tick(n, busy_until)
            for i in range(n):
                failed = self._serve(events[i].data.u64)
                if failed < 0:
                    return 0
                if failed > 0:
                    return failed

    cdef uint64_t _tick(self, int n_events, uint64_t busy_until) noexcept nogil:
        """Keep the time, and age the FDB; until when to look for more without sleeping, 0: not at all."""
        cdef timespec now
        cdef uint64_t now_ns
        clock_gettime(CLOCK_MONOTONIC, &now)
        now_ns = <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec
        self.now_s = <uint32_t>now.tv_sec
        self.recent.segment = NONE
        self.wakeups += busy_until == 0
        if self.swept_s != <uint64_t>now.tv_sec:
            self.swept_s = now.tv_sec
            self.answers_left = ANSWERS_PER_S
            vx_fdb_sweep(self.seat, SWEEP_IDLE if n_events == 0 else SWEEP_BUSY, self.now_s)
        if n_events > 0 and self.busy_poll_ns:
            return now_ns + self.busy_poll_ns
        return busy_until if now_ns < busy_until else 0

    cdef int _serve(self, uint64_t token) noexcept nogil:
        """One port's turn: below 0 to stop, an errno when the port failed, else 0."""
        cdef uint64_t kind = token >> 32
        if kind == STOP_TOKEN:
            return -1
        if kind == UNDERLAY_TOKEN:
            return self._from_underlay(self.underlays[<uint32_t>token])
        return self._from_overlay(self.overlays[<uint32_t>token])

    # -- underlay to overlay -------------------------------------------------------------------

    cdef int _from_underlay(self, Underlay *port) noexcept nogil:
        cdef int n, i, _round
        for _round in range(N_ROUNDS):
            for i in range(MAX_BURST):
                self.datagrams[i].data = self.slots + i * <size_t>SLOT_STRIDE + SLOT_ROOM
            n = port.receive(port.state, self.datagrams, MAX_BURST)
            if n < 0:
                self.failed_fd = port.fd
                return -n
            if n == 0:
                return 0
            self.bursts += 1
            for i in range(n):
                self._deliver(&self.datagrams[i])
            gro_flush(self.joins)
            self._flush_overlays()
            if n < MAX_BURST:
                return 0
        return 0

    cdef void _flush_overlays(self) noexcept nogil:
        cdef uint32_t i
        for i in range(self.n_overlays):
            self.overlays[i].flush(self.overlays[i].state)
        self.cuts.n = self.cuts.used = 0

    cdef void _deliver(self, const Datagram *d) noexcept nogil:
        """Each of the packets that came joined in one datagram, to its overlay port or a drop counter."""
        cdef int32_t remote = vx_find_remote(self.seat, d.source)
        cdef uint32_t at = d.step
        cdef Verdict verdict = self._deliver_one(d, d.data, min(d.step, d.length), remote)
        count_drop(&self.tally, verdict)
        while at < d.length:
            verdict = self._deliver_one(d, d.data + at, min(d.step, d.length - at), remote)
            count_drop(&self.tally, verdict)
            at += d.step

    cdef inline Verdict _deliver_one(self, const Datagram *d, uint8_t *packet, uint32_t length,
                                     int32_t remote) noexcept nogil:
        cdef uint8_t *frame = packet + VX_VXLAN_LEN
        cdef Flow flow
        cdef const Segment *segment
        cdef Verdict verdict = self._check_header(packet, length)
        if verdict != DELIVERED:
            return verdict
        length -= VX_VXLAN_LEN
        if not self._admit(vx_load32(packet + 4) >> 8, remote, &verdict):
            return verdict
        segment = vx_segment_at(self.seat, self.recent.segment)
        if is_tag(vx_load16(frame + 12)):
            return INNER_VLAN
        dissect(frame, length, &flow, False)
        if d.tos & 3 and not ecn_decapsulate(frame, &flow, d.tos):
            return ECN
        if segment.flags & VX_SEGMENT_LEARNS:
            self._learn(segment, vx_load48(frame + 6), remote)
        self.tally.segments[self.recent.segment].rx_packets += 1
        self.tally.segments[self.recent.segment].rx_bytes += length
        if d.vnet.gso_type:
            return self._deliver_superframe(self.overlays[segment.port], frame, length, &flow, &d.vnet)
        gro_add(self.joins, self.overlays[segment.port], frame, length, &flow)
        return DELIVERED

    cdef Verdict _deliver_superframe(self, Overlay *port, uint8_t *frame, uint32_t length, const Flow *flow,
                                     const vx_vnet *vnet) noexcept nogil:
        """One that came whole: as it is to a port that takes its kind, else in pieces."""
        cdef iovec parts[2]
        cdef Frame whole
        cdef Whole w
        gro_flush(self.joins)  # of its flow some may wait
        if port.superframes and (self.joins.udp if flow.proto == PROTO_UDP else self.joins.tcp):
            parts[1] = iovec(frame, length)
            port.send(port.state, parts, 2, vnet, 1)
            return DELIVERED
        whole.data, whole.length, whole.vnet = frame, length, vnet[0]
        if not gso_begin(&w, &whole, flow):
            return BAD_OFFLOAD
        self._deliver_cut(port, &w)
        return DELIVERED

    cdef void _deliver_cut(self, Overlay *port, Whole *w) noexcept nogil:
        cdef iovec parts[3]
        cdef vx_vnet nothing
        cdef Piece *piece
        cdef uint32_t i, n
        memset(&nothing, 0, sizeof(vx_vnet))
        while w.done < w.payload_len:
            n = gso_cut(w, &self.cuts, 0)
            for i in range(self.cuts.n - n, self.cuts.n):
                piece = &self.cuts.pieces[i]
                parts[1] = iovec(piece.head + VX_VXLAN_LEN, piece.head_len - VX_VXLAN_LEN)
                parts[2] = iovec(<void *>piece.body, piece.body_len)
                port.send(port.state, parts, 3, &nothing, piece.body == w.data + w.header_len)
            if w.done < w.payload_len:
                self._flush_overlays()

    cdef inline Verdict _check_header(self, const uint8_t *packet, uint32_t length) noexcept nogil:
        if length < VX_VXLAN_LEN:
            return TRUNCATED
        if not packet[0] & VX_VNI_FLAG:
            return NO_VNI_FLAG
        if self.strict and (vx_load32(packet) != <uint32_t>VX_VNI_FLAG << 24 or packet[7]):
            return RESERVED_BITS
        if length < VX_VXLAN_LEN + VX_ETH_LEN:
            return INNER_TOO_SHORT
        return DELIVERED

    cdef inline bint _admit(self, uint32_t vni, int32_t remote, Verdict *verdict) noexcept nogil:
        """Whether the VNI is known and the remote is a peer of its segment, which then is `recent`."""
        if self.recent.segment == NONE or self.recent.vni != vni:
            self.recent.segment = vx_find_segment(self.seat, vni)
            self.recent.vni, self.recent.peer, self.recent.mac = vni, NONE, 0
        if self.recent.segment == NONE:
            verdict[0] = UNKNOWN_VNI
            return False
        if remote != NONE and remote == self.recent.peer:
            return True
        if remote == NONE or not vx_is_peer(self.seat, self.recent.segment, remote):
            verdict[0] = SOURCE_REFUSED
            return False
        self.recent.peer, self.recent.mac = remote, 0
        return True

    cdef inline void _learn(self, const Segment *segment, uint64_t mac, int32_t remote) noexcept nogil:
        if mac != self.recent.mac:
            vx_fdb_learn(self.seat, segment, mac, remote, self.now_s)
            self.recent.mac = mac

    # -- overlay to underlay -------------------------------------------------------------------

    cdef int _from_overlay(self, Overlay *port) noexcept nogil:
        cdef int n, i, _round
        for _round in range(N_ROUNDS):
            for i in range(MAX_BURST):
                self.frames[i].data = self.slots + i * <size_t>SLOT_STRIDE + SLOT_ROOM
            n = port.receive(port.state, self.frames, MAX_BURST, BURST_BYTES)
            if n < 0:
                self.failed_fd = port.fd
                return -n
            if n == 0:
                return 0
            self.bursts += 1
            self.superframes = self._take_superframes()
            for i in range(n):
                self._forward(&self.frames[i], port.segment)
            self._flush()
            if n < MAX_BURST:
                return 0
        return 0

    cdef bint _take_superframes(self) noexcept nogil:
        """Whether all underlays do; one that finds the kernel refuses them no longer does."""
        cdef uint32_t i
        for i in range(self.n_underlays):
            if not self.underlays[i].superframes:
                return False
        return True

    cdef void _flush(self) noexcept nogil:
        cdef uint32_t i
        for i in range(self.n_underlays):
            self.underlays[i].flush(self.underlays[i].state)
        self.cuts.n = self.cuts.used = 0
        if self.tally.n_oversize:
            self._answer_oversize()

    cdef void _answer_oversize(self) noexcept nogil:
        """Tell senders of what fits, so many of them in a second."""
        cdef uint8_t answer[MAX_ANSWER_LEN]
        cdef iovec parts[2]
        cdef vx_vnet vnet
        cdef Oversize *o
        cdef Overlay *port
        cdef uint32_t i
        memset(&vnet, 0, sizeof(vx_vnet))
        for i in range(self.tally.n_oversize):
            o = &self.tally.oversize[i]
            port = self.overlays[vx_segment_at(self.seat, o.segment).port]
            parts[1] = iovec(&answer[0], too_big_answer(answer, o))
            if parts[1].iov_len and self.answers_left:
                self.answers_left -= 1
                port.send(port.state, parts, 2, &vnet, 1)
                port.flush(port.state)
        self.tally.n_oversize = 0

    cdef void _forward(self, Frame *frame, uint32_t number) noexcept nogil:
        """Send one frame to its remote, or to all of the flood set."""
        cdef const Segment *segment = vx_segment_at(self.seat, number)
        cdef Heading heading
        cdef Flow flow
        cdef int32_t remote
        if is_tag(vx_load16(frame.data + 12)):
            count(&self.tally, INNER_VLAN, 1)
            return
        dissect(frame.data, frame.length, &flow, False)
        remote = NONE
        if not frame.data[0] & 1:
            remote = vx_fdb_find(self.seat, segment, vx_load48(frame.data), self.now_s)
        if remote == NONE and segment.n_flood == 0:
            count(&self.tally, NO_REMOTE, 1)
            return
        heading.segment, heading.hash, heading.vnet = number, flow.hash, frame.vnet
        heading.tos = (flow.tos if self.tos < 0 else <uint8_t>self.tos) & 0xFC
        heading.tos |= outer_ecn(flow.tos, self.ecn_linux)
        heading.ttl = flow.ttl if self.ttl < 0 else 0
        if frame.vnet.gso_type and not self.superframes:
            self._send_cut(frame, &flow, segment, remote, &heading)
        else:
            self._send_whole(frame, segment, remote, &heading)

    cdef inline uint64_t _vxlan(self, const Segment *segment) noexcept nogil:
        """The header of the segment, in memory order."""
        return (<uint64_t>vx_be32(segment.vni << 8) << 32 | vx_be32(<uint32_t>VX_VNI_FLAG << 24)
                if vx_be32(1) != 1 else <uint64_t>VX_VNI_FLAG << 56 | <uint64_t>segment.vni << 8)

    cdef void _send_whole(self, Frame *frame, const Segment *segment, int32_t remote,
                          Heading *heading) noexcept nogil:
        """As it is, with its header in the room in front of it."""
        cdef Piece *piece
        if (frame.vnet.flags & VX_VNET_NEEDS_CSUM and not self.superframes
                and not finish_partial(frame.data, frame.length, &frame.vnet)):
            count(&self.tally, BAD_OFFLOAD, 1)
            return
        if self.cuts.n == MAX_PIECES:
            self._flush()
        piece = &self.cuts.pieces[self.cuts.n]
        self.cuts.n += 1
        piece.head, piece.head_len = frame.data - VX_VXLAN_LEN, VX_VXLAN_LEN + frame.length
        piece.body, piece.body_len = NULL, 0
        vx_store64_raw(piece.head, self._vxlan(segment))
        self._send(piece, 1, segment, remote, heading)

    cdef void _send_cut(self, Frame *frame, const Flow *flow, const Segment *segment, int32_t remote,
                        Heading *heading) noexcept nogil:
        """A super-frame, in pieces; in several goes if there is not room for all of them at once."""
        cdef Whole whole
        cdef uint32_t n
        if not gso_begin(&whole, frame, flow):
            count(&self.tally, BAD_OFFLOAD, 1)
            return
        while whole.done < whole.payload_len:
            n = gso_cut(&whole, &self.cuts, self._vxlan(segment))
            if n:
                self._send(&self.cuts.pieces[self.cuts.n - n], n, segment, remote, heading)
            if whole.done < whole.payload_len:
                self._flush()

    cdef void _send(self, const Piece *pieces, uint32_t n, const Segment *segment, int32_t remote,
                    Heading *heading) noexcept nogil:
        cdef uint32_t k
        if remote != NONE:
            self._send_to(pieces, n, remote, heading)
            return
        for k in range(segment.n_flood):
            self._send_to(pieces, n, vx_flood(segment)[k], heading)

    cdef inline void _send_to(self, const Piece *pieces, uint32_t n, uint32_t remote,
                              Heading *heading) noexcept nogil:
        cdef Underlay *port
        heading.remote_id, heading.remote = remote, vx_remote_at(self.seat, remote)
        port = self.by_family[heading.remote.family == 6]
        if port == NULL:
            count(&self.tally, UNDERLAY_REFUSED, n)
        else:
            port.send(port.state, pieces, n, heading)
