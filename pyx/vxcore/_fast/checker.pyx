"""What comes of generated frames: by stream lost, doubled, reordered or damaged, and how long they took.

Place in the house: above codec, stamp and packet_ring; vxcore.gen opens the socket and makes the report.
Whoever wrote the frames may wish us ill: each is read within its length, what memory there is was taken at
the start, and a frame that means nothing is counted and forgotten.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memset

import os

from vxcore._fast.batch cimport PacketBatch, Packets, in_slot
from vxcore._fast.c_atomic cimport vx_load_acquire, vx_store_release
from vxcore._fast.c_bytes cimport VX_K0, VX_K1, vx_load16, vx_load16_raw, vx_load32, vx_mix
from vxcore._fast.c_csum cimport vx_csum_add, vx_csum_fold
from vxcore._fast.c_net cimport POLLIN, poll, pollfd
from vxcore._fast.c_time cimport *
from vxcore._fast.c_wire cimport *
from vxcore._fast.codec cimport LAYER_ETHERNET, Rules, Walk, walk_outer
from vxcore._fast.flow cimport PROTO_UDP, Flow, dissect, pseudo_sum
from vxcore._fast.packet_ring cimport *
from vxcore._fast.port cimport SLOT_LEN
from vxcore._fast.stamp cimport *
from vxcore._fast.verdict cimport DELIVERED

import numpy as np

cdef enum:
    MAX_PROBES = 128         # then it counts as untracked: nobody makes us search long
    WINDOW = 1024            # sequence numbers behind the newest of which it is known whether they came
    WINDOW_WORDS = 16
    MAX_STREAMS = 1048576
    # The histogram: each power of two in 64 parts, so that a bucket is 1.6 % wide
    PARTS = 64
    PART_BITS = 6
    N_BUCKETS = 2688         # up to 2^47 ns, the largest latency that a stamp can tell
    ROUND = 256              # packets taken between two looks at the clock's and the caller's wishes
    TICK_MS = 50

cdef uint64_t LARGEST_SEQUENCE = <uint64_t>1 << 62
cdef uint64_t LARGEST_JUMP = <uint64_t>1 << 32    # nobody sends so many of which none comes


# Of one stream; STATE below is the same for NumPy.
cdef struct StreamState:
    uint64_t key             # its run and number, and a bit that says that there is one
    uint64_t first           # the lowest sequence number that came
    uint64_t next            # what follows the highest
    uint64_t received, bytes_, duplicated, reordered, late
    uint64_t latencies       # how many there are: a frame that is early has none
    int64_t least_ns, most_ns
    double sum_ns            # which senders could make as large as they like
    uint32_t vni, unused
    uint64_t seen[16]        # of the last WINDOW sequence numbers, in a ring

STATE = np.dtype(
    [(name, "<u8") for name in ("key", "first", "next", "received", "bytes")]
    + [(name, "<u8") for name in ("duplicated", "reordered", "late", "latencies")]
    + [(name, "<i8") for name in ("least_ns", "most_ns")]
    + [("sum_ns", "<f8"), ("vni", "<u4"), ("unused", "<u4"), ("seen", "<u8", (WINDOW_WORDS,))])
cdef uint64_t USED = <uint64_t>1 << 63


# Of all frames.
cdef struct Totals:
    uint64_t received        # with a stamp, and whole
    uint64_t bytes_
    uint64_t corrupted       # with a stamp, but not as it was sent
    uint64_t untracked       # of these received, those of streams for which there was no room
    uint64_t early           # stamped later than now: the clocks differ
    uint64_t other           # without a stamp
    uint64_t foreign         # on the underlay: no VXLAN packets
    uint64_t tunnelled       # on the underlay: VXLAN packets
    int64_t first_ns, last_ns
    uint64_t latencies       # in the histogram
    int64_t least_ns, most_ns
    double sum_ns


cdef inline uint32_t bucket_of(uint64_t ns) noexcept nogil:
    cdef uint32_t shift = 0
    if ns < PARTS:
        return <uint32_t>ns
    while ns >> shift >= 2 * PARTS:
        shift += 1
    return (shift << PART_BITS) + <uint32_t>(ns >> shift)


def bucket_ends():
    """The largest latency of each bucket of a histogram, in nanoseconds: int64 (n,)."""
    index = np.arange(N_BUCKETS)
    shift = np.maximum(index // PARTS - 1, 0)
    return ((index - shift * PARTS + 1) << shift) - 1


@cython.auto_pickle(False)
cdef class Checker:
    """Takes frames and keeps count of up to `max_streams` streams, in 464 to 928 bytes each.

    A frame is of a stream when it is UDP and its payload begins with a stamp. By sequence numbers: `lost` are
    those between the lowest and the highest that came and that did not come; `reordered` came after a higher
    one of its stream (RFC 4737 section 3.3); `duplicated` came before; `late` came more than 1024 behind the
    highest, so that nobody knows which of both they are. `corrupted` have a stamp and are not as they
    were sent: the UDP checksum or the filler is wrong, the length, or the sequence number impossible.
    They belong to no stream. One thread at a time; calls release the GIL. Never raises for a frame.
    """

    cdef object _states, _histogram
    cdef StreamState *states
    cdef uint64_t *histogram
    cdef uint64_t seed
    cdef uint32_t mask, limit
    cdef readonly uint32_t n_streams
    cdef readonly int clock
    cdef Totals t

    def __init__(self, max_streams: int = 65536, clock: int = CLOCK_MONOTONIC):
        if not 1 <= max_streams <= MAX_STREAMS:
            raise ValueError(f"max_streams {max_streams} is not from 1 to {MAX_STREAMS}")
        n_rows = 1 << (2 * max_streams - 1).bit_length()
        self.limit, self.mask, self.clock = max_streams, n_rows - 1, clock
        self.seed = int.from_bytes(os.urandom(8), "little")
        self._states = np.zeros(n_rows, STATE)
        self._histogram = np.zeros(N_BUCKETS, np.uint64)
        self.states = <StreamState *><uintptr_t>self._states.ctypes.data
        self.histogram = <uint64_t *><uintptr_t>self._histogram.ctypes.data
        memset(&self.t, 0, sizeof(Totals))

    def take(self, PacketBatch batch not None, time_ns: int | None = None) -> int:
        """Check the delivered packets of a batch, which are frames now; how many had a stamp and were whole.

        They were received at `time_ns` of the checker's clock, or now. What leaves its slot is passed over.
        """
        cdef int64_t now = time_of(self.clock) if time_ns is None else time_ns
        cdef const Packets *p = &batch.p
        cdef uint64_t before = self.t.received
        cdef uint32_t i, offset, length
        with nogil:
            for i in range(p.n):
                offset, length = p.offset[i], p.length[i]
                if p.verdict[i] == DELIVERED and in_slot(p, i, offset, length):
                    self._take(p.mem + offset, length, length, False, now, p.vni[i])
        return self.t.received - before

    def take_frame(self, frame, time_ns: int | None = None, vni: int = 0, piece: int = 0) -> bool:
        """The same for one bytes-like frame; `piece`: a UDP super-frame, of payloads of that size."""
        cdef const uint8_t[::1] view = frame
        cdef int64_t now = time_of(self.clock) if time_ns is None else time_ns
        cdef uint64_t before = self.t.received
        cdef uint32_t length = <uint32_t>view.shape[0]
        if length:
            self._take(&view[0], length, piece or length, piece > 0, now, vni)
        return self.t.received > before

    @property
    def totals(self) -> dict[str, int | float]:
        """The counters over all streams, by name."""
        return self.t

    @property
    def histogram(self):
        """Frames by latency, of the buckets that ``bucket_ends`` has: uint64 (n,), a copy."""
        return self._histogram.copy()

    def rows(self):
        """The streams as they are now, in the order of run and number: a copy, of type STATE."""
        used = self._states[self._states["key"] != 0]
        return used[np.argsort(used["key"])]

    # -- one frame -----------------------------------------------------------------------------------

    cdef void _take(self, const uint8_t *frame, uint32_t length, uint32_t step, bint trusted, int64_t now,
                    uint32_t vni) noexcept nogil:
        """Of a super-frame the payload is pieces of `step` bytes, each with a stamp; its checksum is not yet
        one, nor is that of a frame that is `trusted` for another reason."""
        cdef Flow flow
        cdef Stamp stamp
        cdef const uint8_t *payload
        cdef uint32_t at = 0, payload_len
        flow.proto = flow.l4_len = 0
        flow.l4_off = 0
        if length >= VX_ETH_LEN:
            dissect(frame, length, &flow, False)
        if (length < VX_ETH_LEN or flow.proto != PROTO_UDP or flow.l4_off == 0 or flow.l4_len < VX_UDP_LEN
                or flow.l4_len > length - flow.l4_off):
            self.t.other += 1
            return
        payload, payload_len = frame + flow.l4_off + VX_UDP_LEN, flow.l4_len - VX_UDP_LEN
        if not read_stamp(payload, payload_len, &stamp):
            self.t.other += 1
        elif not is_whole(frame, &flow, trusted):
            self.t.corrupted += 1
        else:
            while at < payload_len:
                self._judge(payload + at, min(step, payload_len - at), flow.l4_off + VX_UDP_LEN, now, vni)
                at += min(step, payload_len - at)

    cdef void _judge(self, const uint8_t *payload, uint32_t length, uint32_t headers_len, int64_t now,
                     uint32_t vni) noexcept nogil:
        cdef Stamp stamp
        cdef StreamState *s
        if (not read_stamp(payload, length, &stamp) or stamp.sequence >= LARGEST_SEQUENCE
                or length - STAMP_LEN > FILLER_LEN
                or memcmp(payload + STAMP_LEN, filler(), length - STAMP_LEN) != 0):
            self.t.corrupted += 1
            return
        s = self._find(USED | <uint64_t>stamp.run << 32 | stamp.stream)
        if s != NULL and not note_sequence(s, stamp.sequence):
            self.t.corrupted += 1
            return
        self.t.received += 1
        self.t.bytes_ += headers_len + length
        self.t.last_ns = now
        if self.t.first_ns == 0:
            self.t.first_ns = now
        self._note_latency(s, latency_of(stamp.time, now))
        if s == NULL:
            self.t.untracked += 1
        else:
            s.bytes_ += headers_len + length
            s.vni = vni

    cdef inline StreamState *_find(self, uint64_t key) noexcept nogil:
        """The stream's row, which may be new; NULL when there is no more room."""
        cdef uint32_t row = <uint32_t>(vx_mix(key ^ self.seed ^ VX_K0, VX_K1) >> 32) & self.mask
        cdef int _probe
        cdef StreamState *s
        for _probe in range(MAX_PROBES):
            s = &self.states[row]
            if s.key == key:
                return s
            if s.key == 0:
                if self.n_streams == self.limit:
                    return NULL
                self.n_streams += 1
                s.key = key
                return s
            row = (row + 1) & self.mask
        return NULL

    cdef inline void _note_latency(self, StreamState *s, int64_t ns) noexcept nogil:
        if ns < 0:
            self.t.early += 1
            return
        self.histogram[bucket_of(ns)] += 1
        if self.t.latencies == 0 or ns < self.t.least_ns:
            self.t.least_ns = ns
        self.t.most_ns = max(self.t.most_ns, ns)
        self.t.sum_ns += ns
        self.t.latencies += 1
        if s != NULL:
            if s.latencies == 0 or ns < s.least_ns:
                s.least_ns = ns
            s.most_ns = max(s.most_ns, ns)
            s.sum_ns += ns
            s.latencies += 1


cdef inline bint is_whole(const uint8_t *frame, const Flow *flow, bint trusted) noexcept nogil:
    """Whether the UDP header has the right length and checksum."""
    cdef const uint8_t *udp = frame + flow.l4_off
    if vx_load16(udp + 4) != flow.l4_len:
        return False
    if trusted or vx_load16_raw(udp + 6) == 0:
        return True
    return vx_csum_fold(vx_csum_add(udp, flow.l4_len, pseudo_sum(frame, flow))) == 0xFFFF


cdef inline bint note_sequence(StreamState *s, uint64_t sequence) noexcept nogil:
    """Count the next frame of a stream; False, and nothing is, when it cannot be one."""
    if s.received == 0:
        s.first, s.next = sequence, sequence
    if sequence >= s.next:
        if sequence - s.next >= LARGEST_JUMP:
            return False
        move_window(s, sequence)
        s.next = sequence + 1
    elif s.next - 1 - sequence >= WINDOW:
        s.received += 1
        s.late += 1
        return True  # its place in the window is another number's now
    elif was_seen(s, sequence):
        s.duplicated += 1
    else:
        s.reordered += 1
        s.first = min(s.first, sequence)
    s.received += 1
    s.seen[(sequence % WINDOW) >> 6] |= <uint64_t>1 << (sequence & 63)
    return True


cdef inline bint was_seen(const StreamState *s, uint64_t sequence) noexcept nogil:
    return s.seen[(sequence % WINDOW) >> 6] >> (sequence & 63) & 1


cdef inline void move_window(StreamState *s, uint64_t sequence) noexcept nogil:
    """Forget what the numbers from `s.next` to `sequence` stood for a window before."""
    cdef uint64_t at
    if sequence - s.next >= WINDOW:
        memset(s.seen, 0, sizeof(s.seen))
        return
    for at in range(s.next, sequence + 1):
        s.seen[(at % WINDOW) >> 6] &= ~(<uint64_t>1 << (at & 63))


# -- receiving ----------------------------------------------------------------------------------------


@cython.auto_pickle(False)
cdef class Taker:
    """Gives a checker what a packet socket receives, from the ring that was set up on it.

    `receiver`, whose caller keeps it open, has a ring of `blocks` (number, bytes) with slots of `slot_len`
    bytes and virtio-net headers. Without `rules` it gets frames; with them VXLAN packets, those that the
    rules take. Raises OSError when the ring cannot be mapped.
    """

    cdef Checker checker
    cdef Ring ring
    cdef uint8_t *room
    cdef Rules rules
    cdef uint32_t stopped
    cdef readonly int error

    def __cinit__(self):
        self.room = <uint8_t *>malloc(SLOT_LEN)
        if not self.room:
            raise MemoryError("no memory for a packet")

    def __init__(self, Checker checker not None, receiver: int, blocks: tuple[int, int], slot_len: int,
                 Rules rules=None):
        self.checker, self.rules = checker, rules
        ring_open(&self.ring, receiver, blocks[1], blocks[0], slot_len, True)

    def __dealloc__(self):
        ring_close(&self.ring)
        free(self.room)

    def run(self, count: int = 0, seconds: float = 0.0, idle: float = 0.0) -> None:
        """Receive until `count` frames with a stamp have come, `seconds` are over, none has come for `idle`
        seconds after the first (0: none of these), or ``stop``; `error` is then the errno that ended it, or
        0.
        """
        cdef uint64_t n = count
        cdef int64_t most_ns = <int64_t>(seconds * 1e9), idle_ns = <int64_t>(idle * 1e9)
        with nogil:
            self._run(n, most_ns, idle_ns)

    def stop(self) -> None:
        """From any thread: end `run` soon; it cannot begin again."""
        vx_store_release(&self.stopped, 1)

    cdef void _run(self, uint64_t count, int64_t most_ns, int64_t idle_ns) noexcept nogil:
        cdef Totals *t = &self.checker.t
        cdef int64_t start = time_of(CLOCK_MONOTONIC), now = start, last = start
        cdef uint64_t received = t.received, begun = received
        cdef pollfd wait
        while not vx_load_acquire(&self.stopped) and not self.error:
            if t.received != received:
                received, last = t.received, now
            if ((most_ns and now - start >= most_ns) or (count and received - begun >= count)
                    or (idle_ns and received != begun and now - last >= idle_ns)):
                break
            if self._take_some(count, begun) == 0:
                wait.fd, wait.events = self.ring.fd, POLLIN
                if poll(&wait, 1, TICK_MS) > 0:
                    self.error = self._failure(wait.revents)
            now = time_of(CLOCK_MONOTONIC)

    cdef int _failure(self, short events) noexcept nogil:
        """Woken by no packet: why."""
        return 0 if events & POLLIN else ring_error(&self.ring)

    cdef uint32_t _take_some(self, uint64_t count, uint64_t begun) noexcept nogil:
        cdef uint32_t n = 0
        cdef Taken packet
        cdef Take taken
        while n < ROUND and not (count and self.checker.t.received - begun >= count):
            taken = ring_take(&self.ring, &packet, self.room)
            if taken == NO_PACKET:
                break
            n += 1
            if taken != TAKEN:
                self.checker.t.other += 1
            elif self.rules is None:
                self._take_frame(&packet)
            else:
                self._take_packet(&packet)
        ring_release(&self.ring)
        return n

    cdef inline void _take_frame(self, const Taken *packet) noexcept nogil:
        cdef uint32_t step = packet.length
        if packet.vnet.gso_type == VX_VNET_GSO_UDP_L4 and packet.vnet.gso_size:
            step = packet.vnet.gso_size
        self.checker._take(packet.data, packet.length, step, is_unfinished(packet),
                           time_of(self.checker.clock), 0)

    cdef inline void _take_packet(self, const Taken *packet) noexcept nogil:
        """Datagrams that the kernel joined are pieces of the first's size, with a VXLAN header each."""
        cdef Walk w
        cdef uint32_t step
        cdef bint inner_unfinished
        w.packet, w.at, w.end, w.missing, w.version = packet.data, 0, packet.length, 0, 0
        w.verified = is_unfinished(packet)
        if walk_outer(&w, &self.rules.bits, LAYER_ETHERNET) != DELIVERED:
            self.checker.t.foreign += 1
            return
        inner_unfinished = w.verified and packet.vnet.csum_start > w.at
        step = w.end - w.at
        if packet.vnet.gso_type == VX_VNET_GSO_UDP_L4 and packet.vnet.gso_size and not inner_unfinished:
            step = min(step, <uint32_t>packet.vnet.gso_size)
        while w.at < w.end:
            step = min(step, w.end - w.at)
            self._take_payload(w.packet + w.at, step, inner_unfinished)
            w.at += step

    cdef inline void _take_payload(self, const uint8_t *vxlan, uint32_t length,
                                   bint unfinished) noexcept nogil:
        if length < VX_VXLAN_LEN or not vxlan[0] & VX_VNI_FLAG:
            self.checker.t.foreign += 1
            return
        self.checker.t.tunnelled += 1
        self.checker._take(vxlan + VX_VXLAN_LEN, length - VX_VXLAN_LEN, length, unfinished,
                           time_of(self.checker.clock), vx_load32(vxlan + 4) >> 8)


cdef inline bint is_unfinished(const Taken *packet) noexcept nogil:
    """Whether its transport checksum is yet to be computed, or was verified below us."""
    return packet.partial or packet.vnet.flags & (VX_VNET_NEEDS_CSUM | VX_VNET_DATA_VALID) != 0
