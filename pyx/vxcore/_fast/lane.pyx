"""Lane: one thread's loop between overlay and underlay: receive, decapsulate or encapsulate, send.

Place in the house: highest of the compiled modules. It owns its ports, its memory and its counters,
holds no lock and never the GIL: Python starts it, reads its counters, and stops it by an eventfd.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec
from posix.unistd cimport close, write

import os

from vxcore._fast.c_atomic cimport (
    vx_load_acquire, vx_load_acquire_p, vx_store_release, vx_store_release_p,
)
from vxcore._fast.c_bytes cimport (
    vx_be16, vx_be32, vx_load16, vx_load16_raw, vx_load32, vx_load48, vx_store16_raw, vx_store64_raw,
)
from vxcore._fast.c_events cimport *
from vxcore._fast.c_net cimport *
from vxcore._fast.c_table cimport *
from vxcore._fast.c_watch cimport *
from vxcore._fast.c_wire cimport *
from vxcore._fast.events cimport Ring
from vxcore._fast.flow cimport *
from vxcore._fast.gro cimport Joins, describe_undone, gro_add, gro_flush
from vxcore._fast.gso cimport (
    HEADS_LEN, MAX_PIECES, PIECE_ROOM, Cuts, Whole, finish_partial, gso_begin, gso_cut,
)
from vxcore._fast.hold cimport (
    N_HELD, Held, Store, store_close, store_has, store_open, store_put, store_remove,
)
from vxcore._fast.hops cimport SharedHop, is_known
from vxcore._fast.icmp cimport MAX_ANSWER_LEN, too_big_answer
from vxcore._fast.port cimport *
from vxcore._fast.repeats cimport N_REPEATS, NEW_ENOUGH, ONCE_TOO_OFTEN, Repeat, Repeated, note_repeat
from vxcore._fast.suppress cimport MAX_REPLY_LEN, Question, read_question, write_reply
from vxcore._fast.table cimport NONE, Reader, Seat, Segment, Tables
from vxcore._fast.trunk cimport claim
from vxcore._fast.verdict cimport *
from vxcore._fast.watch cimport Watch

cdef uint32_t NOWHERE = 0xFFFFFFFF
cdef uint64_t BROADCAST_MAC = 0xFFFFFFFFFFFF
cdef uint64_t NS_PER_S = 1000000000
cdef uint32_t FROM_UNDERLAY = 0x80000000  # beside a VNI
cdef uint64_t NS_PER_MS = 1000000

cdef enum:
    STAYS = -2               # the target of what a spoke sends to nobody but hosts here
    N_ROUNDS = 4             # bursts from one port before the others have their turn
    N_EVENTS = 64
    SHORT_HEAD = 32          # room for a VXLAN and an Ethernet header
    BURST_BYTES = 1 << 18    # read from an overlay port before it is sent on: what stays in a usual L2 cache
    SWEEP_BUSY = 256         # buckets of the FDB looked over in a second with traffic
    SWEEP_IDLE = 8192        # and in one without: half a megabyte, well under a millisecond
    IDLE_MS = 1000
    HELD_MS = 1              # while frames wait for addresses that were asked for
    ANSWERS_PER_S = 100      # to senders of frames that are too large for the underlay
    MAX_WATCHES = 4
    LOOPED_PER_S = 10        # to more than one host, from addresses that a loop seems to bring round
    N_TOLD = 64              # addresses told of to Python in a second, remembered to tell each once
    KIND_SHIFT = 48          # in a token of epoll's: what it names, and its number
    STOP_TOKEN = 0
    UNDERLAY_TOKEN = 1
    OVERLAY_TOKEN = 2
    SOCKET_TOKEN = 3         # its number is a descriptor, and above it a UDP port in network order


# What one burst has found out already; the next packet most often asks the same.
cdef struct Recent:
    uint32_t vni
    uint16_t dstport_be
    int32_t segment          # of `vni` and the UDP port; NONE: nothing is known yet
    int32_t peer             # a remote that `segment` admits
    uint8_t spoke            # whether it is one
    uint64_t mac             # the last source learned, from `peer` in `segment`


# When the limited frames of a segment that were let through so far would all have been due.
cdef struct Due:
    uint64_t ns[3]


# A packet that is watched: as it came, and the verdicts counted so far.
cdef struct Watched:
    vx_sight *sights[MAX_WATCHES]
    vx_watch *watches[MAX_WATCHES]
    uint32_t n
    uint64_t verdicts[N_VERDICTS]
    uint64_t learned[5]


cdef class Lane:
    """The loop over `underlays` (at most one for each IP family) and `overlays`, whose places are their
    numbers in the tables; `max_overlays` is how many there may be when others are attached later.

    Each underlay comes with the families it sends: ``(port, (4, 6))``. The ports are used by this lane
    alone. `tos`, `ttl` are -1 for inherit, `ttl` 0 for the port's own;
    `strict` drops packets with reserved header bits; `ecn_linux` sends inner CE as ECT(0);
    `join_tcp` and `join_udp` let frames of one flow reach the overlay as super-frames;
    `busy_poll_us` is how long the lane looks for more before it sleeps; `n_lanes` shares a segment's rates,
    of which this lane gets its part; `ring` is where it tells Python what happens; `lost_fd` is an eventfd
    that is told of an overlay port that failed for good. Without it the lane ends then. A lane that
    `rehearses` never runs and learns nothing; its ports are those of rehearsal.pyx.
    """

    cdef Tables tables
    cdef Reader reader
    cdef Seat *seat          # in the tables: between vx_enter and vx_leave what is looked up stays valid
    cdef list _overlay_ports, _underlay_ports, _watches
    cdef vx_watch *watches   # changed by Python
    cdef vx_watch *watching  # the same, as of this burst
    cdef Overlay closed      # in the place of a port that is not there
    cdef Overlay **overlays  # changed by Python, one place at a time
    cdef Underlay **underlays
    cdef Underlay *by_family[2]
    cdef const SharedHop *hops  # of all underlays, or NULL
    cdef uint32_t n_overlays, n_underlays, max_overlays, n_lanes
    cdef Due *due            # by segment
    cdef Carried *remotes    # the memory of tally.remotes
    cdef size_t due_len, remotes_len
    cdef uint64_t told[N_TOLD]
    cdef uint8_t *slots
    cdef Frame *frames
    cdef Datagram *datagrams
    cdef Cuts cuts
    cdef Joins *joins
    cdef Repeat *repeats
    cdef Store store
    cdef Recent recent
    cdef Tally tally
    cdef int epoll_fd, stop_fd, lost_fd, failed_fd
    cdef int tos, ttl
    cdef bint strict, ecn_linux, superframes, rehearses
    cdef bint switched       # frames of this burst went to other overlay ports
    cdef uint8_t dstports[8192]  # ours, a bit for each
    cdef uint8_t locals[2][16]   # our addresses, of IPv4 and of IPv6; zeros: none
    cdef bint relaying       # some of what came from the underlay waits in it again
    cdef int32_t relayed_from  # the spoke whose frame is sent on; NONE: a host's here is sent
    cdef uint32_t now_s, answers_left, looped_left
    cdef uint64_t busy_poll_ns, swept_s, now_ns
    cdef uint64_t wakeups, bursts

    def __cinit__(self):
        self.epoll_fd = self.stop_fd = -1
        self.slots = <uint8_t *>malloc(MAX_BURST * <size_t>SLOT_STRIDE)
        self.frames = <Frame *>calloc(MAX_BURST, sizeof(Frame))
        self.datagrams = <Datagram *>calloc(MAX_BURST, sizeof(Datagram))
        self.cuts.heads = <uint8_t *>malloc(HEADS_LEN)
        self.cuts.pieces = <Piece *>malloc(MAX_PIECES * sizeof(Piece))
        self.joins = <Joins *>calloc(1, sizeof(Joins))
        self.repeats = <Repeat *>calloc(N_REPEATS, sizeof(Repeat))
        if not (self.slots and self.frames and self.datagrams and self.cuts.heads and self.cuts.pieces
                and self.joins and self.repeats and store_open(&self.store)):
            raise MemoryError("no memory for a lane")

    def __init__(self, Tables tables not None, underlays, overlays, *, tos: int = 0, ttl: int = 0,
                 strict: bool = False, ecn_linux: bool = False, join_tcp: bool = True, join_udp: bool = True,
                 busy_poll_us: int = 0, max_overlays: int = 0, n_lanes: int = 1, Ring ring = None,
                 lost_fd: int = -1, rehearses: bool = False):
        self.tables, self.lost_fd, self._watches = tables, lost_fd, []
        self.reader = Reader(tables, ring)
        self.seat = self.reader.seat
        self.tos, self.ttl, self.strict, self.ecn_linux = tos, ttl, strict, ecn_linux
        self.joins.tcp, self.joins.udp = join_tcp, join_udp
        self.relayed_from = NONE
        self.busy_poll_ns = 1000 * <uint64_t>busy_poll_us
        self.tally.segments = <Carried *>calloc(tables.max_segments + 1, sizeof(Carried))
        self.remotes_len = (tables.max_remotes + 1) * sizeof(Carried)
        self.remotes = <Carried *>vx_map(self.remotes_len, False)
        self.tally.remotes = self.remotes + 1
        self.due_len = (tables.max_segments + 1) * sizeof(Due)
        self.due = <Due *>vx_map(self.due_len, False)
        self.n_lanes = n_lanes
        if not self.tally.segments or not self.remotes or not self.due:
            raise MemoryError("no memory for a lane")
        self._take_overlays(list(overlays), max_overlays)
        self._take_underlays(list(underlays))
        self.rehearses = rehearses
        if not rehearses:
            self._watch()

    def _take_overlays(self, list ports, max_overlays: int) -> None:
        self.max_overlays = max(len(ports), max_overlays)
        self._overlay_ports = [None] * self.max_overlays
        self.overlays = <Overlay **>calloc(self.max_overlays + 1, sizeof(Overlay *))
        if not self.overlays:
            raise MemoryError("no memory for a lane")
        self.closed.tally = &self.tally
        self.closed.state, self.closed.fd = &self.closed, -1
        self.closed.receive, self.closed.send, self.closed.flush = receive_closed, send_closed, flush_closed
        for i in range(self.max_overlays):
            self.overlays[i] = &self.closed
        for i, port in enumerate(ports):
            self._place(i, port)

    def _place(self, number: int, OverlayPort port not None) -> None:
        port.port.tally, port.port.number = &self.tally, number
        self._overlay_ports[number] = port
        vx_store_release_p(<void **>&self.overlays[number], &port.port)
        vx_store_release(&self.n_overlays, max(self.n_overlays, <uint32_t>number + 1))

    def _take_underlays(self, list ports) -> None:
        cdef Underlay *underlay
        self._underlay_ports, self.n_underlays = [port for port, _ in ports], len(ports)
        self.underlays = <Underlay **>calloc(len(ports) + 1, sizeof(Underlay *))
        if not self.underlays:
            raise MemoryError("no memory for a lane")
        for i, (port, families) in enumerate(ports):
            underlay = self.underlays[i] = &(<UnderlayPort?>port).port
            underlay.tally = &self.tally
            self.hops = underlay.hops
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

    def _watch_one(self, fd: int, kind: int, number: int, how: int = EPOLL_CTL_ADD, events: int = EPOLLIN):
        cdef epoll_event event
        event.events = <uint32_t>events
        event.data.u64 = <uint64_t>kind << KIND_SHIFT | <uint64_t>number
        if epoll_ctl(self.epoll_fd, how, fd, &event) < 0:
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
        free(self.repeats)
        store_close(&self.store)
        vx_unmap(self.due, self.due_len)
        vx_unmap(self.remotes, self.remotes_len)
        free(self.overlays)
        free(self.underlays)
        free(self.tally.segments)

    # -- what Python calls ---------------------------------------------------------------------

    def run(self) -> None:
        """Carry packets until ``stop``; raises OSError when a port fails for good. Releases the GIL."""
        cdef int failed
        with nogil:
            failed = self._loop()
            vx_leave(self.seat)  # nobody shall wait for a lane that has ended
        if failed:
            raise OSError(failed, f"{self._name_of(self.failed_fd)}: {os.strerror(failed)}")

    def _name_of(self, fd: int) -> str:
        for port in self._overlay_ports:
            if port is not None and (<OverlayPort>port).port.fd == fd:
                return f"overlay port {port.name}"
        for i in range(self.n_underlays):
            if self.underlays[i].fd == fd:
                return f"underlay port {self._underlay_ports[i].name}"
        return "lane"

    def stop(self) -> None:
        """Make ``run`` return, from any thread."""
        os.eventfd_write(self.stop_fd, 1)

    def again(self) -> None:
        """Let it ``run`` again that was stopped."""
        os.eventfd_read(self.stop_fd)

    def rest(self) -> list[bytes]:
        """Of a lane that stands, where its underlay ports ``resume``, in another process too."""
        return [port.rest() for port in self._underlay_ports]

    def resume(self, where) -> None:
        """Begin where others came to rest, before it runs."""
        for port, each in zip(self._underlay_ports, where, strict=True):
            port.resume(each)

    def attach(self, number: int, OverlayPort port not None) -> None:
        """Take an overlay port while the lane runs, under a number that is free. Frames may go to it at once;
        those that wait there are read from ``watch`` on, if it has a descriptor. Raises ValueError, OSError.
        """
        if not 0 <= number < self.max_overlays or self._overlay_ports[number] is not None:
            raise ValueError(f"overlay port {number}: a free one below {self.max_overlays} is right")
        if port.port.fd >= 0:
            self._watch_one(port.port.fd, OVERLAY_TOKEN, number, EPOLL_CTL_ADD, 0)
        self._place(number, port)

    def watch(self, number: int) -> None:
        """Begin to read from an attached overlay port: when lanes see its segment in the tables."""
        cdef OverlayPort port = self._overlay_ports[number]
        self._watch_one(port.port.fd, OVERLAY_TOKEN, number, EPOLL_CTL_MOD, EPOLLIN)

    def detach(self, number: int) -> OverlayPort:
        """Give an overlay port up and return it. It is no longer used when ``Tables.wait_for_lanes`` returns,
        called after this; until then the caller keeps a reference and the descriptor open.
        """
        cdef OverlayPort port = self._overlay_ports[number]
        if port.port.fd >= 0:  # it may be gone with its device
            epoll_ctl(self.epoll_fd, EPOLL_CTL_DEL, port.port.fd, NULL)
        vx_store_release_p(<void **>&self.overlays[number], &self.closed)
        self._overlay_ports[number] = None
        return port

    def know(self, locals_, dstports) -> None:
        """What this VTEP's own packets look like, so that none enters it again: from one of these addresses
        (packed, at most one of each family) to one of these UDP ports. At any time.
        """
        cdef const uint8_t *raw
        bits = bytearray(sizeof(self.dstports))
        for port in dstports:
            bits[port >> 3] |= 1 << (port & 7)
        raw = bits
        memcpy(self.dstports, raw, sizeof(self.dstports))
        for local in locals_:
            raw = local
            memcpy(self.locals[len(local) == 16], raw, len(local))

    def lost(self, number: int) -> int:
        """The errno for which an overlay port is read from no more; 0: it is well, or not there."""
        return vx_load_acquire(&self._overlay_at(number).lost)

    def revive(self, number: int) -> None:
        """Read from an overlay port again whose descriptor stands for something new."""
        cdef OverlayPort port = self._overlay_ports[number]
        vx_store_release(&port.port.lost, 0)
        epoll_ctl(self.epoll_fd, EPOLL_CTL_DEL, port.port.fd, NULL)  # if this lane has not noticed
        self._watch_one(port.port.fd, OVERLAY_TOKEN, number)

    def listen(self, fd: int, dstport: int) -> None:
        """Read from one more UDP socket too, bound to this port and an IP multicast group or an address of
        ours, while the lane runs.
        """
        self._watch_one(fd, SOCKET_TOKEN, <uint32_t>fd | <uint64_t>vx_be16(dstport) << 32)

    def ignore(self, fd: int) -> None:
        """Read from it no more, once ``Tables.wait_for_lanes`` returns; until then it stays open."""
        epoll_ctl(self.epoll_fd, EPOLL_CTL_DEL, fd, NULL)

    def show(self, Watch watch not None) -> None:
        """Show it packets from now on. Raises ValueError when there are four watches already."""
        if len(self._watches) == MAX_WATCHES:
            raise ValueError(f"{MAX_WATCHES} watches are there; end one first")
        self._watches.append(watch)
        self._link_watches()

    def hide(self, Watch watch not None) -> None:
        """Show it no more, when ``Tables.wait_for_lanes`` returns; until then the caller keeps it."""
        self._watches.remove(watch)
        self._link_watches()

    def _link_watches(self) -> None:
        """A lane that follows the list meanwhile finds its end all the same."""
        cdef vx_watch *following = NULL
        for each in reversed(self._watches):
            vx_store_release_p(<void **>&(<Watch>each).watch.next, following)
            following = (<Watch>each).watch
        vx_store_release_p(<void **>&self.watches, following)

    def rehearse_out(self, segment: int, frame: bytes) -> None:
        """Do with a frame from a segment's overlay port what would be done; a watch sees what that is."""
        cdef Frame *first = &self.frames[0]
        cdef Overlay *port
        self._begin_rehearsal(frame)
        port = self._overlay_at(vx_segment_at(self.seat, segment).port)
        memset(&first.vnet, 0, sizeof(vx_vnet))
        first.data, first.length = self.slots + SLOT_ROOM, <uint32_t>len(frame)
        self.superframes = True
        try:
            self._forward_watched(first, port, segment)
        finally:
            vx_leave(self.seat)

    def rehearse_in(self, packet: bytes, source: bytes, source_port: int = 0, tos: int = 0,
                    dstport: int = 4789) -> None:
        """The same of a packet from the underlay, from its VXLAN header on; `source` has 16 bytes."""
        cdef Datagram *first = &self.datagrams[0]
        cdef const uint8_t *address = source
        if len(source) != sizeof(first.source):
            raise ValueError(f"{len(source)} address bytes")
        self._begin_rehearsal(packet)
        memset(first, 0, sizeof(Datagram))
        first.data, first.length = self.slots + SLOT_ROOM, <uint32_t>len(packet)
        first.step, first.source_port, first.tos = first.length, <uint16_t>source_port, <uint8_t>tos
        first.dstport_be = vx_be16(dstport)
        memcpy(first.source, address, sizeof(first.source))
        try:
            self._deliver_watched(first)
        finally:
            vx_leave(self.seat)

    def _begin_rehearsal(self, packet: bytes) -> None:
        cdef const uint8_t *data = packet
        if not self.rehearses or len(packet) > SLOT_LEN:
            raise ValueError(f"{len(packet)} bytes, or a lane that does not rehearse")
        memcpy(self.slots + SLOT_ROOM, data, len(packet))
        self.relaying = False
        vx_enter(self.seat)
        self._tick(0, 0)

    def drops(self) -> dict[int, int]:
        """How many packets had each verdict but DELIVERED, by its number."""
        return {i: self.tally.verdicts[i] for i in range(1, N_VERDICTS) if self.tally.verdicts[i]}

    def segment_counters(self, segment: int) -> dict[str, int]:
        """Frames and bytes accepted from (rx) and sent to (tx) the underlay in one segment."""
        if not 0 <= segment < self.tables.max_segments:
            raise IndexError(f"segment {segment} of {self.tables.max_segments}")
        return dict(self.tally.segments[segment])

    def segment_words(self) -> bytes:
        """A copy of what ``segment_counters`` gives of all segments, by number: four uint64 for each."""
        cdef size_t size = self.tables.max_segments * sizeof(Carried)
        return (<char *>self.tally.segments)[:size]

    def remote_words(self, first: int, n: int) -> bytes:
        """The same of `n` remotes from a number on: what was accepted from each, and sent to it."""
        if first < 0 or n < 0 or first + n > self.tables.max_remotes:
            raise IndexError(f"{n} remotes from {first}, of {self.tables.max_remotes}")
        return (<char *>(self.tally.remotes + <size_t>first))[:n * sizeof(Carried)]

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
            self._wake_watchers()
            vx_leave(self.seat)
            if self.seat.ring:
                vx_wake_reader(self.seat.ring)
            n = epoll_wait(self.epoll_fd, events, N_EVENTS, 0 if busy_until else self._nap_ms())
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

    cdef inline int _nap_ms(self) noexcept nogil:
        return HELD_MS if self.store.n else IDLE_MS

    cdef uint64_t _tick(self, int n_events, uint64_t busy_until) noexcept nogil:
        """Keep the time, and age the FDB; until when to look for more without sleeping, 0: not at all."""
        cdef timespec now
        cdef uint64_t now_ns
        clock_gettime(CLOCK_MONOTONIC, &now)
        now_ns = <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec
        self.now_s, self.now_ns = <uint32_t>now.tv_sec, now_ns
        self.recent.segment = NONE
        self.watching = <vx_watch *>vx_load_acquire_p(<void **>&self.watches)
        self.wakeups += busy_until == 0
        if self.swept_s != <uint64_t>now.tv_sec and not self.rehearses:
            self.swept_s = now.tv_sec
            self.answers_left, self.looped_left = ANSWERS_PER_S, LOOPED_PER_S
            memset(self.told, 0, sizeof(self.told))
            vx_fdb_sweep(self.seat, SWEEP_IDLE if n_events == 0 else SWEEP_BUSY, self.now_s)
        if self.store.n:
            self._release()
        if n_events > 0 and self.busy_poll_ns:
            return now_ns + self.busy_poll_ns
        return busy_until if now_ns < busy_until else 0

    cdef int _serve(self, uint64_t token) noexcept nogil:
        """One port's turn: below 0 to stop, an errno when the port failed, else 0."""
        cdef uint64_t kind = token >> KIND_SHIFT
        if kind == STOP_TOKEN:
            return -1
        if kind == UNDERLAY_TOKEN:
            return self._from_underlay(self.underlays[<uint32_t>token])
        if kind == SOCKET_TOKEN:
            return self._from_socket(<int>token, <uint16_t>(token >> 32))
        return self._from_overlay(self._overlay_at(<uint32_t>token))

    cdef inline Overlay *_overlay_at(self, uint32_t number) noexcept nogil:
        return <Overlay *>vx_load_acquire_p(<void **>&self.overlays[number])

    # -- underlay to overlay -------------------------------------------------------------------

    cdef int _from_socket(self, int fd, uint16_t dstport_be) noexcept nogil:
        """The UDP port reads from another socket for once: what comes says its family by itself."""
        cdef Underlay *port = self.underlays[0]
        cdef int own = port.fd
        cdef uint16_t own_port_be = port.dstport_be
        cdef int failed
        port.fd, port.dstport_be = fd, dstport_be
        failed = self._from_underlay(port)
        port.fd, port.dstport_be = own, own_port_be
        return failed

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
                if self.watching == NULL:
                    self._deliver(&self.datagrams[i])
                else:
                    self._deliver_watched(&self.datagrams[i])
            gro_flush(self.joins)
            self._flush_overlays()
            self.relaying = False
            if n < MAX_BURST:
                return 0
        return 0

    cdef void _flush_overlays(self) noexcept nogil:
        self._push_overlays()
        if self.relaying:
            self._push_underlays()
        self._clear_cuts()

    cdef void _push_overlays(self) noexcept nogil:
        cdef Overlay *port
        cdef uint32_t i
        for i in range(vx_load_acquire(&self.n_overlays)):
            port = self._overlay_at(i)
            port.flush(port.state)

    cdef void _push_underlays(self) noexcept nogil:
        cdef uint32_t i
        for i in range(self.n_underlays):
            self.underlays[i].flush(self.underlays[i].state)

    cdef inline void _clear_cuts(self) noexcept nogil:
        """The memory of pieces is free again: nothing waits anywhere."""
        self.cuts.n = self.cuts.used = 0
        if self.tally.n_oversize:
            self._answer_oversize()

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
        cdef const Segment *segment
        cdef Flow flow
        cdef Verdict verdict = self._check_header(packet, length)
        if verdict != DELIVERED:
            return verdict
        length -= VX_VXLAN_LEN
        if not self._admit(vx_load32(packet + 4) >> 8, d, remote, &verdict):
            return verdict
        segment = vx_segment_at(self.seat, self.recent.segment)
        if segment.flags & VX_SEGMENT_COLLECTS:
            return self._collect(d, segment, frame, length)
        verdict = self._accept(d, segment, frame, length, remote, &flow)
        if verdict != DELIVERED:
            return verdict
        if segment.flags & VX_SEGMENT_SWITCHES | self.recent.spoke:
            if self.recent.spoke:
                return self._deliver_from_spoke(d, segment, frame, length, &flow)
            return self._deliver_here(d, segment, frame, length, &flow)
        return self._hand_over(d, self._overlay_at(segment.port), frame, length, &flow)

    cdef inline Verdict _accept(self, const Datagram *d, const Segment *segment, uint8_t *frame,
                                uint32_t length, int32_t remote, Flow *flow) noexcept nogil:
        """Whether a frame of an admitted packet is for hosts here; then it is learned from, and counted."""
        if is_tag(vx_load16(frame + 12)):
            return INNER_VLAN
        dissect(frame, length, flow, False)
        if d.tos & 3 and not ecn_decapsulate(frame, flow, d.tos):
            return ECN
        if segment.flags & VX_SEGMENT_LEARNS and not self._learn(segment, vx_load48(frame + 6), remote,
                                                                 d.source):
            return LOOP
        if frame[0] & 1 and self._comes_round(segment.vni | FROM_UNDERLAY, segment.port, frame, length):
            return LOOP
        count_received(&self.tally, self.recent.segment, remote, length)
        return DELIVERED

    cdef inline Verdict _hand_over(self, const Datagram *d, Overlay *port, uint8_t *frame, uint32_t length,
                                   const Flow *flow) noexcept nogil:
        if d.vnet.gso_type:
            return self._deliver_superframe(port, frame, length, flow, &d.vnet)
        gro_add(self.joins, port, frame, length, flow)
        return DELIVERED

    cdef Verdict _deliver_here(self, const Datagram *d, const Segment *segment, uint8_t *frame,
                               uint32_t length, const Flow *flow) noexcept nogil:
        """To the port of the segment; of one that has several, to that behind which the destination is, or to
        all of them.
        """
        cdef Frame whole
        cdef int32_t target = NONE
        if not segment.flags & VX_SEGMENT_SWITCHES:
            return self._hand_over(d, self._overlay_at(segment.port), frame, length, flow)
        if not frame[0] & 1:
            target = vx_fdb_find(self.seat, segment, vx_load48(frame), self.now_s)
        if is_port(target):
            return self._hand_over(d, self._overlay_of(target), frame, length, flow)
        gro_flush(self.joins)  # of its flow some may wait
        whole.data, whole.length, whole.vnet = frame, length, d.vnet
        if not d.vnet.gso_type:
            describe_undone(frame, length, flow, self._overlay_at(segment.port).mtu, &whole.vnet)
        self._flood_here(&whole, flow, self.recent.segment, NULL)
        return DELIVERED

    cdef Verdict _deliver_from_spoke(self, const Datagram *d, const Segment *segment, uint8_t *frame,
                                     uint32_t length, const Flow *flow) noexcept nogil:
        """To hosts here, to other spokes, to both, or to one spoke alone."""
        cdef int32_t target = self._target(segment, frame)
        cdef Verdict verdict = DELIVERED
        if target < 0:
            verdict = self._deliver_here(d, segment, frame, length, flow)
        if target == NONE:  # whoever is here is done with the frame before it is changed
            gro_flush(self.joins)
            self._push_overlays()
        if target != STAYS:
            self._relay(d, segment, frame, length, target)
        return verdict

    cdef Verdict _collect(self, const Datagram *d, const Segment *segment, uint8_t *frame,
                          uint32_t length) noexcept nogil:
        """As it came: tags, marks and all; one by one, and finished, to a port that asks for its origin."""
        cdef Overlay *port = self._overlay_at(segment.port)
        cdef iovec parts[2]
        cdef vx_vnet vnet = d.vnet
        cdef Flow flow
        count_received(&self.tally, self.recent.segment, NONE, length)
        dissect(frame, length, &flow, False)
        if port.origin == NULL and not vnet.gso_type:
            gro_add(self.joins, port, frame, length, &flow)
            return DELIVERED
        if port.origin:
            tell_origin(port, self.recent.vni, d.source)
        if not vnet.gso_type:
            describe_undone(frame, length, &flow, port.mtu, &vnet)
        if vnet.gso_type:
            return self._deliver_superframe(port, frame, length, &flow, &vnet)
        if vnet.flags & VX_VNET_NEEDS_CSUM:
            finish_partial(frame, length, &vnet)
        parts[1] = iovec(frame, length)
        port.send(port.state, parts, 2, &vnet, 1)
        return DELIVERED

    cdef Verdict _deliver_superframe(self, Overlay *port, uint8_t *frame, uint32_t length, const Flow *flow,
                                     const vx_vnet *vnet) noexcept nogil:
        """One that came whole: as it is to a port that takes its kind, else in pieces."""
        cdef iovec parts[2]
        cdef Frame whole
        cdef Whole w
        gro_flush(self.joins)  # of its flow some may wait
        if self._takes_whole(port, flow):
            parts[1] = iovec(frame, length)
            port.send(port.state, parts, 2, vnet, 1)
            return DELIVERED
        whole.data, whole.length, whole.vnet = frame, length, vnet[0]
        if not gso_begin(&w, &whole, flow):
            return BAD_OFFLOAD
        self._deliver_cut(port, &w)
        return DELIVERED

    cdef inline bint _takes_whole(self, const Overlay *port, const Flow *flow) noexcept nogil:
        """Whether a port takes super-frames of that kind."""
        return port.superframes and (self.joins.udp if flow.proto == PROTO_UDP else self.joins.tcp)

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

    cdef inline bint _admit(self, uint32_t vni, const Datagram *d, int32_t remote,
                            Verdict *verdict) noexcept nogil:
        """Whether the VNI is known and takes packets from the source; its segment then is `recent`."""
        if (self.recent.segment == NONE or self.recent.vni != vni
                or self.recent.dstport_be != d.dstport_be):
            verdict[0] = self._find_segment(vni, d.dstport_be)
            if verdict[0] != DELIVERED:
                return False
        if remote != NONE and remote == self.recent.peer:
            return True
        verdict[0] = self._check_source(remote, d.source)
        self.recent.peer, self.recent.mac = remote if verdict[0] == DELIVERED else NONE, 0
        self.recent.spoke = self.recent.peer != NONE and self._is_spoke(remote)
        return verdict[0] == DELIVERED

    cdef Verdict _find_segment(self, uint32_t vni, uint16_t dstport_be) noexcept nogil:
        """Of a packet that came to one of our UDP ports; it becomes the recent one."""
        self.recent.segment = vx_find_segment(self.seat, vni)
        self.recent.vni, self.recent.dstport_be = vni, dstport_be
        self.recent.peer, self.recent.mac = NONE, 0
        if self.recent.segment == NONE:
            return UNKNOWN_VNI
        if not vx_takes_port(self.seat, self.recent.segment, dstport_be):
            self.recent.segment = NONE
            return WRONG_PORT
        return DELIVERED

    cdef Verdict _check_source(self, int32_t remote, const uint8_t *source) noexcept nogil:
        """Of a packet in the recent segment, from a remote or (NONE) a stranger."""
        cdef uint32_t segment = self.recent.segment
        if remote != NONE:
            if not vx_may_speak(self.seat, segment, remote):
                return VNI_REFUSED
            if vx_is_peer(self.seat, segment, remote):
                return DELIVERED
        return DELIVERED if vx_is_welcome(self.seat, segment, source) else SOURCE_REFUSED

    cdef inline bint _learn(self, const Segment *segment, uint64_t mac, int32_t remote,
                            const uint8_t *source) noexcept nogil:
        """False when the address is held to a port of ours, and so the frame is nobody's."""
        if self.rehearses:
            return True
        if remote == NONE:
            self._tell_once(VX_STRANGER_EVENT, segment.vni, mac, source)
        elif mac != self.recent.mac:
            if self.hops != NULL and not is_known(self.hops, remote):
                # What is flooded arrives; what was learned would be dropped for want of a next hop.
                return vx_fdb_notice(self.seat, segment, mac, remote, self.now_s) != VX_SEEN_ELSEWHERE
            if vx_fdb_learn(self.seat, segment, mac, remote, self.now_s) == VX_SEEN_ELSEWHERE:
                return False
            self.recent.mac = mac
        return True

    cdef void _tell_once(self, vx_event_kind kind, uint32_t vni, uint64_t mac,
                         const uint8_t *source) noexcept nogil:
        """Tell Python of an address, each that lately came up once a second."""
        cdef uint64_t key = (mac << 16 ^ vni << 3 ^ <uint64_t>kind) * <uint64_t>0x9E3779B97F4A7C15 | 1
        if vx_is_wanted(self.seat.ring, kind) and self.told[key >> 58] != key:
            self.told[key >> 58] = key
            vx_tell(self.seat.ring, kind, vni, mac, NOWHERE, NOWHERE, source)

    # -- from spoke to spoke -------------------------------------------------------------------

    cdef inline bint _is_spoke(self, uint32_t remote) noexcept nogil:
        return vx_remote_at(self.seat, remote).flags & VX_REMOTE_SPOKE != 0

    cdef int32_t _target(self, const Segment *segment, const uint8_t *frame) noexcept nogil:
        """The spoke that a frame from the recent one is for, NONE: all others, and who is here; or STAYS."""
        cdef int32_t target = NONE
        if not frame[0] & 1:
            target = vx_fdb_find(self.seat, segment, vx_load48(frame), self.now_s)
        if target == NONE:
            return NONE if segment.flags & VX_SEGMENT_RELAYS else <int32_t>STAYS
        if target & VX_TARGET_PORT or target == self.recent.peer or not self._is_spoke(target):
            return STAYS
        return target

    cdef void _relay(self, const Datagram *d, const Segment *segment, uint8_t *data, uint32_t length,
                     int32_t target) noexcept nogil:
        """Send the recent spoke's frame on, to one other, or (NONE) to all others of the flood set."""
        cdef uint32_t number = self.recent.segment
        cdef Frame frame
        cdef Flow flow
        dissect(data, length, &flow, False)  # anew: a mark may have been carried into it
        frame.data, frame.length, frame.vnet = data, length, d.vnet
        if not frame.vnet.gso_type:
            describe_undone(data, length, &flow, self._overlay_at(segment.port).mtu, &frame.vnet)
        if frame.vnet.flags and not frame.vnet.gso_type:
            finish_partial(data, length, &frame.vnet)
            memset(&frame.vnet, 0, sizeof(vx_vnet))
        if self.cuts.used + PIECE_ROOM + SHORT_HEAD > HEADS_LEN:
            self._flush()
        self.relayed_from, self.relaying = self.recent.peer, True
        self.superframes = self._take_superframes()
        if target != NONE or self._may_flood(segment, number, &frame):
            self._send_frame(&frame, &flow, segment, number, target)
        self.relayed_from = NONE

    cdef void _answer_spoke(self, const Segment *segment, uint32_t number, const uint8_t *answer,
                            uint32_t length) noexcept nogil:
        """Send a frame of our own to a host behind a spoke."""
        cdef int32_t remote = vx_fdb_find(self.seat, segment, vx_load48(answer), self.now_s)
        cdef int32_t relayed_from = self.relayed_from
        cdef Frame frame
        cdef Flow flow
        if <uint32_t>remote >= VX_TARGET_PORT or not self._is_spoke(remote):
            return
        self.relayed_from = NONE
        frame.data, frame.length = self.cuts.heads + PIECE_ROOM + VX_VXLAN_LEN, length
        memcpy(frame.data, answer, length)
        memset(&frame.vnet, 0, sizeof(vx_vnet))
        dissect(frame.data, length, &flow, False)
        self._send_frame(&frame, &flow, segment, number, remote)
        self._push_underlays()
        self.cuts.n, self.relayed_from = 0, relayed_from

    # -- overlay to underlay -------------------------------------------------------------------

    cdef int _from_overlay(self, Overlay *port) noexcept nogil:
        cdef int n, i, _round
        for _round in range(N_ROUNDS):
            for i in range(MAX_BURST):
                self.frames[i].data = self.slots + i * <size_t>SLOT_STRIDE + SLOT_ROOM
            n = port.receive(port.state, self.frames, MAX_BURST, BURST_BYTES)
            if n < 0:
                return self._lose(port, -n)
            if n == 0:
                return 0
            self.bursts += 1
            self.superframes = self._take_superframes()
            self._enter(port, vx_load_acquire(&port.segment), n)
            self._flush()
            if self.switched:
                self._flush_overlays()
                self.switched = False
            if n < MAX_BURST:
                return 0
        return 0

    cdef int _lose(self, Overlay *port, int error) noexcept nogil:
        """Read from a port no more that failed for good, and have Python see to it; the errno without it."""
        cdef uint64_t one = 1
        self.failed_fd = port.fd
        if self.lost_fd < 0:
            return error
        epoll_ctl(self.epoll_fd, EPOLL_CTL_DEL, port.fd, NULL)
        vx_store_release(&port.lost, error)
        return 0 if write(self.lost_fd, &one, sizeof(one)) > 0 else error

    cdef void _enter(self, Overlay *port, uint32_t segment, int n) noexcept nogil:
        """A burst of frames into the port's segment, or into those whose VLANs the port has."""
        cdef uint16_t flags
        cdef int i
        if port.vlans != NULL or segment == NO_SEGMENT:
            self._enter_by_tag(port, n)
            return
        flags = vx_segment_at(self.seat, segment).flags
        if flags & VX_SEGMENT_COLLECTS:
            count(&self.tally, RECEIVE_ONLY, n)
            return
        for i in range(n):
            self._enter_one(&self.frames[i], port, segment, flags)

    cdef void _enter_by_tag(self, Overlay *trunk, int n) noexcept nogil:
        cdef Verdict why = DELIVERED
        cdef Overlay *port = trunk
        cdef uint32_t segment
        cdef int i
        for i in range(n):
            segment = claim(trunk, &self.frames[i], &port, &why)
            if segment == NO_SEGMENT:
                count(&self.tally, why, 1)
            else:
                self._enter_one(&self.frames[i], port, segment, vx_segment_at(self.seat, segment).flags)

    cdef inline void _enter_one(self, Frame *frame, Overlay *port, uint32_t segment,
                                uint16_t flags) noexcept nogil:
        if flags & VX_SEGMENT_SWITCHES and not self._learn_here(frame, port, segment):
            return
        if self.watching == NULL:
            self._forward(frame, port, segment)
        else:
            self._forward_watched(frame, port, segment)

    cdef bint _learn_here(self, const Frame *frame, const Overlay *port, uint32_t number) noexcept nogil:
        """Learn behind which of a segment's ports a host is; False: it is held to another, and the frame is
        nobody's.
        """
        cdef const Segment *segment = vx_segment_at(self.seat, number)
        if not segment.flags & VX_SEGMENT_LEARNS or is_tag(vx_load16(frame.data + 12)):
            return True
        if vx_fdb_learn(self.seat, segment, vx_load48(frame.data + 6), VX_TARGET_PORT | port.number,
                        self.now_s) != VX_SEEN_ELSEWHERE:
            return True
        count(&self.tally, LOOP, 1)
        return False

    cdef bint _take_superframes(self) noexcept nogil:
        """Whether all underlays do; one that finds the kernel refuses them no longer does."""
        cdef uint32_t i
        for i in range(self.n_underlays):
            if not self.underlays[i].superframes:
                return False
        return True

    cdef void _flush(self) noexcept nogil:
        self._push_underlays()
        if self.relaying:
            self._push_overlays()
        self._clear_cuts()

    cdef void _answer_oversize(self) noexcept nogil:
        """Tell senders of what fits, so many of them in a second."""
        cdef uint8_t answer[MAX_ANSWER_LEN]
        cdef Oversize *o
        cdef uint32_t i, length
        for i in range(self.tally.n_oversize):
            o = &self.tally.oversize[i]
            length = too_big_answer(answer, o)
            if length and self.answers_left:
                self.answers_left -= 1
                if self.relaying:
                    self._answer_spoke(vx_segment_at(self.seat, o.segment), o.segment, answer, length)
                else:
                    self._reply(self._port_to(o.segment, vx_load48(answer)), answer, length)
        self.tally.n_oversize = 0

    cdef Overlay *_port_to(self, uint32_t number, uint64_t mac) noexcept nogil:
        """The port of a segment behind which a host is that has just sent something."""
        cdef const Segment *segment = vx_segment_at(self.seat, number)
        cdef int32_t target = NONE
        if segment.flags & VX_SEGMENT_SWITCHES:
            target = vx_fdb_find(self.seat, segment, mac, self.now_s)
        return self._overlay_of(target) if is_port(target) else self._overlay_at(segment.port)

    cdef void _reply(self, Overlay *port, uint8_t *frame, uint32_t length) noexcept nogil:
        """Send a frame of our own to a segment's hosts."""
        cdef iovec parts[2]
        cdef vx_vnet vnet
        memset(&vnet, 0, sizeof(vx_vnet))
        parts[1] = iovec(frame, length)
        port.send(port.state, parts, 2, &vnet, 1)
        port.flush(port.state)

    cdef void _forward(self, Frame *frame, Overlay *port, uint32_t number) noexcept nogil:
        """Send one frame that came by a port to its remote, or to all of the flood set."""
        cdef const Segment *segment = vx_segment_at(self.seat, number)
        cdef Flow flow
        cdef int32_t remote
        if is_tag(vx_load16(frame.data + 12)):
            count(&self.tally, INNER_VLAN, 1)
            return
        dissect(frame.data, frame.length, &flow, False)
        if flow.proto == PROTO_UDP and self._is_own(frame, &flow):
            count(&self.tally, TUNNEL_LOOP, 1)
            return
        remote = NONE
        if not frame.data[0] & 1:
            remote = vx_fdb_find(self.seat, segment, vx_load48(frame.data), self.now_s)
        if segment.flags & VX_SEGMENT_RELAYS:
            self._note_host(segment, vx_load48(frame.data + 6))
        if (<uint32_t>remote >= VX_TARGET_PORT or self.store.n) and not self._leaves(
                frame, &flow, port, number, remote):
            return
        self._send_frame(frame, &flow, segment, number, remote)

    cdef inline bint _is_own(self, const Frame *frame, const Flow *flow) noexcept nogil:
        """Whether a frame is a packet of our tunnels: a route leads into the overlay."""
        cdef uint16_t port
        if flow.l4_off == 0 or flow.l4_off + VX_UDP_LEN > frame.length:
            return False
        port = vx_load16(frame.data + flow.l4_off + 2)
        if not self.dstports[port >> 3] >> (port & 7) & 1:
            return False
        if flow.version == 4:
            return memcmp(frame.data + flow.ip_off + 12, self.locals[0], 4) == 0
        return memcmp(frame.data + flow.ip_off + 8, self.locals[1], 16) == 0

    cdef void _note_host(self, const Segment *segment, uint64_t mac) noexcept nogil:
        """Learn who is here, so that what a spoke sends to them does not go to all other spokes, too."""
        if (segment.flags & (VX_SEGMENT_LEARNS | VX_SEGMENT_SWITCHES) == VX_SEGMENT_LEARNS
                and not self.rehearses):  # one that switches has learned it
            vx_fdb_learn(self.seat, segment, mac, VX_TARGET_PORT | segment.port, self.now_s)

    cdef void _send_frame(self, Frame *frame, const Flow *flow, const Segment *segment, uint32_t number,
                          int32_t remote) noexcept nogil:
        """To one remote, or (NONE) to the flood set."""
        cdef Heading heading
        heading.segment, heading.hash, heading.vnet = number, flow.hash, frame.vnet
        heading.dstport_be = segment.dstport_be
        heading.tos = (flow.tos if self.tos < 0 else <uint8_t>self.tos) & 0xFC
        heading.tos |= outer_ecn(flow.tos, self.ecn_linux)
        heading.ttl = flow.ttl if self.ttl < 0 else 0
        if frame.vnet.gso_type and not self.superframes:
            self._send_cut(frame, flow, segment, remote, &heading)
        else:
            self._send_whole(frame, segment, remote, &heading)

    cdef bint _leaves(self, Frame *frame, const Flow *flow, Overlay *port, uint32_t number,
                      int32_t target) noexcept nogil:
        """Whether a frame goes to its remote, before which others may wait, or to the flood set. Hosts behind
        other ports of the segment have got it then, if it is for them.
        """
        cdef const Segment *segment = vx_segment_at(self.seat, number)
        if <uint32_t>target < VX_TARGET_PORT:
            if store_has(&self.store, segment.vni, vx_load48(frame.data)):
                self._release()
            return True
        if target != NONE:
            self._pass_on(frame, flow, port, segment, target)
            return False
        if self._loops(frame, port, segment):
            count(&self.tally, LOOP, 1)
            return False
        if segment.flags & VX_SEGMENT_ANSWERS and self._answer(port, number, frame):
            return False
        if not self._may_flood(segment, number, frame):
            return False
        if segment.flags & VX_SEGMENT_SWITCHES:
            self._flood_here(frame, flow, number, port)
        return segment.n_flood != 0

    cdef bint _loops(self, const Frame *frame, const Overlay *port, const Segment *segment) noexcept nogil:
        """Whether a loop seems to bring round a frame to more than one host: it came too often, or its source
        is seen here and elsewhere by turns. Of such a source's frames few may pass, so that few go round, and
        yet its hosts find each other.
        """
        cdef uint64_t mac = vx_load48(frame.data + 6)
        cdef int seen = VX_SEEN_WELL
        if self._comes_round(segment.vni, port.number, frame.data, frame.length):
            return True
        if segment.flags & VX_SEGMENT_LEARNS and not self.rehearses:
            seen = vx_fdb_notice(self.seat, segment, mac, VX_TARGET_PORT | port.number, self.now_s)
            self.recent.mac = 0  # it may have moved
        if seen == VX_SEEN_LOOPING and self.looped_left:
            self.looped_left -= 1
            return False
        return seen != VX_SEEN_WELL

    cdef bint _comes_round(self, uint32_t key, uint32_t port, const uint8_t *frame,
                           uint32_t length) noexcept nogil:
        """Whether a frame to more than one host came too often by this way: `key` names it, with its VNI."""
        cdef Repeated often = NEW_ENOUGH
        if self.seat.tables.fdb.max_moves and not self.rehearses:
            often = note_repeat(self.repeats, key, frame, length, self.now_s)
        if often == ONCE_TOO_OFTEN:
            vx_tell(self.seat.ring, VX_LOOP_EVENT, key & ~FROM_UNDERLAY, vx_load48(frame + 6),
                    VX_TARGET_PORT | port, NOWHERE, NULL)
        return often != NEW_ENOUGH

    # -- overlay to overlay: segments with several ports -----------------------------------------

    cdef inline Overlay *_overlay_of(self, int32_t target) noexcept nogil:
        cdef uint32_t number = target & ~<uint32_t>VX_TARGET_PORT
        return self._overlay_at(number) if number < self.max_overlays else &self.closed

    cdef void _pass_on(self, Frame *frame, const Flow *flow, const Overlay *port, const Segment *segment,
                       int32_t target) noexcept nogil:
        """To the port behind which the destination is, unless the frame came from there."""
        cdef Overlay *other = self._overlay_of(target)
        if other == port or not segment.flags & VX_SEGMENT_SWITCHES:
            count(&self.tally, SAME_PORT, 1)
        else:
            self._to_port(frame, flow, other)

    cdef void _flood_here(self, Frame *frame, const Flow *flow, uint32_t number,
                          const Overlay *origin) noexcept nogil:
        """To all ports of a segment but the one that the frame came from. It is sent at once, for it may be
        changed for the next one.
        """
        cdef const vx_policy *policy = vx_policy_of(self.seat, number)
        cdef Overlay *port
        cdef uint32_t i
        for i in range(policy.n_ports):
            port = self._overlay_at(policy.ports[i])
            if port != origin:
                self._to_port(frame, flow, port)
                port.flush(port.state)

    cdef void _to_port(self, Frame *frame, const Flow *flow, Overlay *port) noexcept nogil:
        """As it is, or with done what the port does not do."""
        cdef iovec parts[2]
        self.switched = True
        if frame.vnet.gso_type and not self._takes_whole(port, flow):
            self._cut_to_port(frame, flow, port)
            return
        if frame.vnet.flags & VX_VNET_NEEDS_CSUM and not port.superframes:
            if not finish_partial(frame.data, frame.length, &frame.vnet):
                count(&self.tally, BAD_OFFLOAD, 1)
                return
            memset(&frame.vnet, 0, sizeof(vx_vnet))
        parts[1] = iovec(frame.data, frame.length)
        port.send(port.state, parts, 2, &frame.vnet, 1)

    cdef void _cut_to_port(self, Frame *frame, const Flow *flow, Overlay *port) noexcept nogil:
        """In pieces, at once; the frame then is as it was, for others get it, too."""
        cdef uint8_t *ip_check = frame.data + flow.ip_off + 10
        cdef uint8_t *check = frame.data + flow.l4_off + (6 if flow.proto == PROTO_UDP else 16)
        cdef uint16_t ip_sum, l4_sum
        cdef Whole whole
        if flow.l4_off == 0 or check + 2 > frame.data + frame.length:
            count(&self.tally, BAD_OFFLOAD, 1)
            return
        ip_sum, l4_sum = vx_load16_raw(ip_check), vx_load16_raw(check)
        self._flush()
        self._flush_overlays()  # pieces that wait there go first, for ours take their room
        if gso_begin(&whole, frame, flow):
            self._deliver_cut(port, &whole)
            self._flush_overlays()
        else:
            count(&self.tally, BAD_OFFLOAD, 1)
        if flow.version == 4:
            vx_store16_raw(ip_check, ip_sum)
        vx_store16_raw(check, l4_sum)

    # -- overlay to underlay, continued ----------------------------------------------------------

    cdef bint _answer(self, Overlay *port, uint32_t number, const Frame *frame) noexcept nogil:
        """Whether a frame asks for the link address of a known neighbour, and so is answered here."""
        cdef uint8_t reply[MAX_REPLY_LEN]
        cdef Question question
        cdef uint64_t mac
        cdef uint32_t length
        if not read_question(frame.data, frame.length, &question):
            return False
        mac = vx_find_neighbour(self.seat, number, question.target)
        if mac == 0 or mac & BROADCAST_MAC == question.asker:  # who asks for itself tells all others
            return False
        length = write_reply(reply, frame.data, &question, mac & BROADCAST_MAC,
                             mac & VX_NEIGHBOUR_ROUTER != 0)
        self._reply(port, reply, length)
        count(&self.tally, ANSWERED, 1)
        return True

    cdef bint _may_flood(self, const Segment *segment, uint32_t number, const Frame *frame) noexcept nogil:
        """Whether a frame to more than one, or to nobody that is known, goes to the flood set."""
        cdef uint64_t mac = vx_load48(frame.data)
        cdef const vx_policy *policy
        cdef bint alone = segment.n_flood == 0 and not segment.flags & VX_SEGMENT_SWITCHES
        cdef Verdict verdict = NO_REMOTE if alone else DELIVERED
        cdef int kind = VX_UNKNOWN_UNICAST
        if frame.data[0] & 1:
            kind = VX_BROADCAST if mac == BROADCAST_MAC else VX_MULTICAST
        elif segment.flags:
            self._tell_once(VX_MISS_EVENT, segment.vni, mac, NULL)
        if segment.flags & VX_SEGMENT_HAS_POLICY:
            policy = vx_policy_of(self.seat, number)
            if policy.rate[kind] == <uint32_t>VX_ASK:
                if self.relayed_from == NONE and self._hold(segment.vni, number, frame, policy.hold_ms):
                    return False
                verdict = ASKED
            else:
                verdict = self._check_rate(policy, number, kind, frame, verdict)
        if verdict != DELIVERED:
            count(&self.tally, verdict, 1)
        return verdict == DELIVERED

    cdef bint _hold(self, uint32_t vni, uint32_t number, const Frame *frame,
                    uint32_t hold_ms) noexcept nogil:
        """Whether a frame waits until it is known where its address is: there is time for that, and room."""
        cdef Held *held = store_put(&self.store, frame) if hold_ms and not self.rehearses else NULL
        if held == NULL:
            return False
        held.vni, held.segment, held.mac = vni, number, vx_load48(frame.data)
        held.until_ns = self.now_ns + NS_PER_MS * hold_ms
        return True

    cdef void _release(self) noexcept nogil:
        """Send what waits for addresses that are known now, and drop what has waited long enough."""
        cdef uint8_t gone[N_HELD]
        cdef uint32_t i, n_gone = 0
        self.superframes = self._take_superframes()
        for i in range(self.store.n):
            gone[i] = self._release_one(&self.store.held[i])
            n_gone += gone[i]
        if n_gone:
            self._flush()
            if self.switched:
                self._flush_overlays()
                self.switched = False
            store_remove(&self.store, gone)

    cdef bint _release_one(self, Held *held) noexcept nogil:
        """Whether it waits no longer."""
        cdef int32_t number = vx_find_segment(self.seat, held.vni), remote = NONE
        cdef const Segment *segment
        cdef Flow flow
        if number == <int32_t>held.segment:
            segment = vx_segment_at(self.seat, number)
            remote = vx_fdb_find(self.seat, segment, held.mac, self.now_s)
            if is_port(remote) and segment.flags & VX_SEGMENT_SWITCHES:
                dissect(held.frame.data, held.frame.length, &flow, False)
                self._to_port(&held.frame, &flow, self._overlay_of(remote))
                return True
            if <uint32_t>remote >= VX_TARGET_PORT and self.now_ns < held.until_ns:
                return False
        if <uint32_t>remote >= VX_TARGET_PORT:  # or its segment is gone
            count(&self.tally, ASKED, 1)
            return True
        dissect(held.frame.data, held.frame.length, &flow, False)
        self._send_frame(&held.frame, &flow, segment, number, remote)
        return True

    cdef Verdict _check_rate(self, const vx_policy *policy, uint32_t number, int kind, const Frame *frame,
                             Verdict verdict) noexcept nogil:
        """Hold a segment to the rate of a kind of frames, each piece of a super-frame counting as one: a
        token bucket, kept as the time when all that was let through would have been due.
        """
        cdef uint64_t cost, room, n = 1
        cdef uint64_t *due = &self.due[number].ns[kind]
        if policy.rate[kind] == 0:
            return FLOOD_REFUSED
        if verdict != DELIVERED or policy.rate[kind] == <uint32_t>VX_UNLIMITED:
            return verdict
        if frame.vnet.gso_type and frame.vnet.gso_size:
            n = (frame.length + frame.vnet.gso_size - 1) / frame.vnet.gso_size
        cost = NS_PER_S * self.n_lanes / policy.rate[kind]
        room = cost * max(policy.burst[kind] / self.n_lanes, <uint32_t>1)
        if due[0] < self.now_ns:
            due[0] = self.now_ns
        if due[0] + min(cost * n, room) > self.now_ns + room:
            return RATE_LIMIT
        due[0] += cost * n
        return DELIVERED

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
        if self.relayed_from != NONE and not frame.vnet.gso_type:
            self._spare_what_is_in_front(piece)
        vx_store64_raw(piece.head, self._vxlan(segment))
        self._send(piece, 1, segment, remote, heading)

    cdef void _spare_what_is_in_front(self, Piece *piece) noexcept nogil:
        """Of packets that came joined, the one before, which may still wait: let an underlay that writes
        outer headers in front of a piece do so in other memory.
        """
        cdef uint32_t head_len = VX_VXLAN_LEN + VX_ETH_LEN
        piece.body, piece.body_len = piece.head + head_len, piece.head_len - head_len
        piece.head, piece.head_len = self.cuts.heads + self.cuts.used + PIECE_ROOM, head_len
        memcpy(piece.head, piece.body - head_len, head_len)
        self.cuts.used += PIECE_ROOM + SHORT_HEAD

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
            if self.relayed_from == NONE or self._relays_to(vx_flood(segment)[k]):
                self._send_to(pieces, n, vx_flood(segment)[k], heading)

    cdef inline bint _relays_to(self, uint32_t remote) noexcept nogil:
        return <int32_t>remote != self.relayed_from and self._is_spoke(remote)

    cdef inline void _send_to(self, const Piece *pieces, uint32_t n, uint32_t remote,
                              Heading *heading) noexcept nogil:
        cdef Underlay *port
        heading.remote_id, heading.remote = remote, vx_remote_at(self.seat, remote)
        port = self.by_family[heading.remote.family == 6]
        if port == NULL:
            count(&self.tally, UNDERLAY_REFUSED, n)
        else:
            port.send(port.state, pieces, n, heading)

    # -- packets that are watched --------------------------------------------------------------

    cdef void _forward_watched(self, Frame *frame, Overlay *port, uint32_t number) noexcept nogil:
        cdef const Segment *segment = vx_segment_at(self.seat, number)
        cdef uint32_t n_held = self.store.n
        cdef Watched seen
        cdef vx_sight sight
        if not self._begin_watched(&seen, VX_OUT, segment.vni, frame.data, frame.data, frame.length):
            self._forward(frame, port, number)
            return
        self._flush()
        memset(&sight, 0, sizeof(vx_sight))
        sight.remote = NONE
        if not frame.data[0] & 1:
            sight.remote = vx_fdb_find(self.seat, segment, vx_load48(frame.data), self.now_s)
        if is_port(sight.remote):
            sight.remote = NONE
        sight.port, sight.gso_size = port.number, frame.vnet.gso_size if frame.vnet.gso_type else 0
        self._note_counts(&seen)
        self._forward(frame, port, number)
        self._flush()
        if self.store.n > n_held:
            sight.verdict = ASKED  # so far
        self._end_watched(&seen, VX_OUT, segment.vni, &sight)

    cdef void _deliver_watched(self, const Datagram *d) noexcept nogil:
        """Each packet of a datagram by itself."""
        cdef Datagram one = d[0]
        cdef uint32_t at = 0
        while at < d.length or at == 0:
            one.data, one.length = d.data + at, min(d.step, d.length - at)
            one.step = one.length
            self._deliver_one_watched(&one)
            at += max(d.step, <uint32_t>1)

    cdef void _deliver_one_watched(self, const Datagram *d) noexcept nogil:
        cdef uint32_t vni = vx_load32(d.data + 4) >> 8 if d.length >= VX_VXLAN_LEN else 0
        cdef uint8_t nothing[VX_ETH_LEN]
        cdef const uint8_t *frame = nothing
        cdef Watched seen
        cdef vx_sight sight
        memset(nothing, 0, VX_ETH_LEN)
        if d.length >= VX_VXLAN_LEN + VX_ETH_LEN:
            frame = d.data + VX_VXLAN_LEN
        if not self._begin_watched(&seen, VX_IN, vni, frame, d.data, d.length):
            self._deliver(d)
            return
        gro_flush(self.joins)
        self._flush_overlays()
        memset(&sight, 0, sizeof(vx_sight))
        sight.port, sight.remote = NOWHERE, vx_find_remote(self.seat, d.source)
        sight.source_port, sight.tos = d.source_port, d.tos
        sight.gso_size = d.vnet.gso_size if d.vnet.gso_type else 0
        memcpy(sight.source, d.source, sizeof(sight.source))
        self._note_counts(&seen)
        self._deliver(d)
        gro_flush(self.joins)
        self._flush_overlays()
        sight.learned = self._learned_since(&seen)
        if self.recent.segment != NONE and self.recent.vni == vni:
            sight.port = vx_segment_at(self.seat, self.recent.segment).port
            if self.recent.spoke and self._target(vx_segment_at(self.seat, self.recent.segment), frame) >= 0:
                sight.port = NOWHERE  # it was sent on, to another spoke
        self._end_watched(&seen, VX_IN, vni, &sight)

    cdef bint _begin_watched(self, Watched *seen, vx_way way, uint32_t vni, const uint8_t *frame,
                             const uint8_t *packet, uint32_t length) noexcept nogil:
        """Copy a packet for those that want it, as far as they have room; whether there are any."""
        cdef vx_watch *watch = self.watching
        seen.n = 0
        while watch != NULL and seen.n < MAX_WATCHES:
            if vx_is_watched(watch, way, vni, vx_load48(frame), vx_load48(frame + 6)):
                seen.sights[seen.n] = vx_sight_begin(watch, packet, length)
                seen.watches[seen.n] = watch
                seen.n += 1
            watch = <vx_watch *>vx_load_acquire_p(<void **>&watch.next)
        return seen.n != 0

    cdef void _note_counts(self, Watched *seen) noexcept nogil:
        memcpy(seen.verdicts, self.tally.verdicts, sizeof(seen.verdicts))
        seen.learned[:] = [self.seat.counters.learned, self.seat.counters.moves, self.seat.counters.held,
                           self.seat.counters.refused, self.seat.counters.overflow]

    cdef uint8_t _learned_since(self, const Watched *seen) noexcept nogil:
        """An index of watch.pyx's LEARNED."""
        cdef uint64_t now[5]
        cdef int i
        now[:] = [self.seat.counters.learned, self.seat.counters.moves, self.seat.counters.held,
                  self.seat.counters.refused, self.seat.counters.overflow]
        for i in range(5):
            if now[i] != seen.learned[i]:
                return <uint8_t>(i + 1)
        return 0

    cdef void _end_watched(self, Watched *seen, vx_way way, uint32_t vni, vx_sight *known) noexcept nogil:
        """Say what became of it: the verdict that was counted, but for DELIVERED."""
        cdef timespec now
        cdef uint32_t i
        cdef int verdict
        clock_gettime(CLOCK_REALTIME, &now)
        for verdict in range(1, N_VERDICTS):
            if self.tally.verdicts[verdict] != seen.verdicts[verdict]:
                known.verdict = <uint8_t>verdict
        known.way, known.vni = <uint8_t>way, vni
        known.time_ns = <uint64_t>now.tv_sec * NS_PER_S + <uint64_t>now.tv_nsec
        for i in range(seen.n):
            vx_sight_end(seen.watches[i], seen.sights[i], known)

    cdef void _wake_watchers(self) noexcept nogil:
        cdef vx_watch *watch = self.watching
        while watch != NULL:
            vx_wake_watcher(watch)
            watch = <vx_watch *>vx_load_acquire_p(<void **>&watch.next)


cdef inline bint is_port(int32_t target) noexcept nogil:
    """Whether an entry of the FDB is of a host behind an overlay port."""
    return target >= <int32_t>VX_TARGET_PORT


cdef int receive_closed(void *state, Frame *out, uint32_t max, uint32_t budget) noexcept nogil:
    """A port that is not there has nothing."""
    return 0


cdef void send_closed(void *state, iovec *parts, uint32_t n, const vx_vnet *vnet,
                      uint32_t n_packets) noexcept nogil:
    """Its segment was removed while the packets were on their way."""
    count((<Overlay *>state).tally, OVERLAY_DOWN, n_packets)


cdef void flush_closed(void *state) noexcept nogil:
    """Nothing waits."""
