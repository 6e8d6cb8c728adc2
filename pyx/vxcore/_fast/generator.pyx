"""The generator's fast half: frames of a plan into batches, and batches out of a socket at a given pace.

Place in the house: above batch, codec and stamp; vxcore.gen makes the plan and opens the sockets. A stream
is a header that stays alike and how many of its frames were sent; frames come from all streams in turn, so
that a round is one sequence number.
"""

cimport cython
from libc.errno cimport EAGAIN, ECONNREFUSED, EHOSTUNREACH, EINTR, ENETUNREACH, ENOBUFS, ENOMEM, EPERM, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from vxcore._fast.batch cimport PacketBatch, Packets
from vxcore._fast.c_atomic cimport vx_load_acquire, vx_store_release
from vxcore._fast.c_batch cimport TEMPLATE_LEN, Template, VXLAN_AT
from vxcore._fast.c_bytes cimport (
    vx_be16, vx_be64, vx_store16, vx_store16_raw, vx_store32, vx_store64_raw,
)
from vxcore._fast.c_csum cimport vx_csum_add, vx_csum_fold
from vxcore._fast.c_net cimport iovec, mmsghdr, sendmmsg
from vxcore._fast.c_time cimport *
from vxcore._fast.c_wire cimport *
from vxcore._fast.codec cimport LAYER_UDP_PAYLOAD, Tunnel, encap_all
from vxcore._fast.flow cimport PROTO_UDP
from vxcore._fast.stamp cimport *

import numpy as np

cdef enum:
    MAX_BURST = 64
    MAX_STREAMS = 1048576
    MAX_WAYS = 262144
    IP_AT = 14
    UDP_HEAD_AT = 34
    OUTER_LEN4 = 42          # what the kernel puts in front of a UDP socket's payload
    OUTER_LEN6 = 62

cdef double NS = 1e9
cdef int64_t LONGEST_DEBT_NS = 100000000   # who is held up for longer does not catch up on it
cdef int64_t LONGEST_SLEEP_NS = 50000000   # then it looks whether it is to stop
cdef int64_t SHORTEST_SLEEP_NS = 10000     # shorter times are over before the kernel would have slept


cdef struct Stream:
    uint8_t head[50]
    uint32_t ip_sum          # over its IP header but for the length, and over all that its UDP checksum
    uint32_t udp_sum         # covers but for the lengths, the sequence number, the time and the filler
    uint32_t way


@cython.auto_pickle(False)
cdef class Generator:
    """Makes the frames of a plan, in order, without end.

    `heads` is uint8 (n, 50): of each stream the Ethernet, IPv4 and UDP headers and the stamp up to the
    sequence number, with zeros for what differs from frame to frame (lengths and checksums). `sizes` is
    uint32 (m,): the lengths of frames, in turn, from 64 to 9216 bytes. For packets there are `tunnels`, one
    for each VTEP, `vnis`, uint32, and `ways`, uint32 (n,): stream i goes by tunnel ``ways[i] // len(vnis)``
    in VNI ``vnis[ways[i] % len(vnis)]``. `clock` is the kernel's number of the clock that stamps are of.

    One thread at a time; calls release the GIL. Raises ValueError for arrays that do not fit.
    """

    cdef Stream *streams
    cdef Template *templates
    cdef object _sizes, _filler_sums, _picks
    cdef uint32_t *sizes
    cdef uint32_t *filler_sums
    cdef uint32_t *picks
    cdef readonly uint32_t n_streams
    cdef uint32_t n_sizes, n_templates, largest, stream, size
    cdef uint64_t round
    cdef readonly int clock

    def __init__(self, heads, sizes, *, tunnels=(), vnis=(), ways=None, clock: int = CLOCK_MONOTONIC):
        cdef const uint8_t[:, ::1] view = heads
        if not 1 <= view.shape[0] <= MAX_STREAMS or view.shape[1] != HEAD_LEN:
            raise ValueError(f"heads has shape {heads.shape}, not (n, {HEAD_LEN}), n up to {MAX_STREAMS}")
        if self.streams != NULL:
            raise ValueError("a generator is made once")
        self.clock, self.n_streams = clock, <uint32_t>view.shape[0]
        self.streams = <Stream *>calloc(self.n_streams, sizeof(Stream))
        if self.streams == NULL:
            raise MemoryError("no memory for the streams")
        self._take_sizes(np.ascontiguousarray(sizes, np.uint32))
        self._take_heads(view)
        if len(tunnels):
            self._take_ways(list(tunnels), np.ascontiguousarray(vnis, np.uint32), ways)

    def __dealloc__(self):
        free(self.streams)
        free(self.templates)

    cdef int _take_sizes(self, sizes) except -1:
        if sizes.ndim != 1 or not len(sizes) or sizes.min() < MIN_FRAME or sizes.max() > MAX_FRAME:
            raise ValueError(f"sizes are from {MIN_FRAME} to {MAX_FRAME} bytes, and there is one at least")
        sums = [vx_csum_fold(vx_csum_add(filler(), size - MIN_FRAME, 0)) for size in sizes.tolist()]
        self._sizes, self._filler_sums = sizes, np.array(sums, np.uint32)
        self.sizes = <uint32_t *><uintptr_t>self._sizes.ctypes.data
        self.filler_sums = <uint32_t *><uintptr_t>self._filler_sums.ctypes.data
        self.n_sizes, self.largest = len(sizes), sizes.max()
        return 0

    cdef int _take_heads(self, const uint8_t[:, ::1] heads) except -1:
        cdef uint32_t i
        cdef Stream *s
        for i in range(self.n_streams):
            s = &self.streams[i]
            memcpy(s.head, &heads[i, 0], HEAD_LEN)
            memset(s.head + IP_AT + 2, 0, 2)
            memset(s.head + IP_AT + 10, 0, 2)
            memset(s.head + UDP_HEAD_AT + 4, 0, 4)
            s.ip_sum = vx_csum_fold(vx_csum_add(s.head + IP_AT, VX_IPV4_LEN, 0))
            s.udp_sum = vx_csum_fold(
                vx_csum_add(s.head + IP_AT + 12, HEAD_LEN - IP_AT - 12, vx_be16(PROTO_UDP)))
        return 0

    cdef int _take_ways(self, list tunnels, vnis, ways) except -1:
        """A template for each tunnel in each VNI."""
        cdef const uint32_t[::1] numbers = vnis, way
        cdef uint32_t i, j, n_vnis = len(vnis), n
        if not 1 <= len(tunnels) * n_vnis <= MAX_WAYS:
            raise ValueError(f"{len(tunnels)} tunnels in {n_vnis} VNIs; together from 1 to {MAX_WAYS}")
        n = len(tunnels) * n_vnis
        way = ways = np.ascontiguousarray(ways, np.uint32)
        if ways.shape != (self.n_streams,) or ways.max() >= n:
            raise ValueError(f"ways are {self.n_streams} numbers below {n}")
        self.templates = <Template *>calloc(n, sizeof(Template))
        if self.templates == NULL:
            raise MemoryError("no memory for the tunnels")
        self.n_templates = n
        for i, tunnel in enumerate(tunnels):
            for j in range(n_vnis):
                put_vni(&self.templates[i * n_vnis + j], &(<Tunnel?>tunnel).template, numbers[j])
        for i in range(self.n_streams):
            self.streams[i].way = way[i]
        self._picks = np.zeros(MAX_BURST, np.uint32)
        self.picks = <uint32_t *><uintptr_t>self._picks.ctypes.data
        return 0

    def fill(self, PacketBatch batch not None, count: int | None = None, *, encap: bool = False,
             time_ns: int | None = None) -> int:
        """Replace a batch's content by the next frames, or with `encap` by packets; return how many.

        They are `count`, or as many as the batch has room for. All are stamped with `time_ns`, or the
        present. Raises ValueError when a slot is too small, and for `encap` of a generator without tunnels.
        """
        cdef uint32_t n = batch.capacity if count is None else count
        cdef int64_t now = time_of(self.clock) if time_ns is None else time_ns
        if n > batch.capacity:
            raise ValueError(f"{count} frames; the batch has a capacity of {batch.capacity}")
        if encap and self.n_templates == 0:
            raise ValueError("no tunnels to encapsulate by")
        self._check_room(batch)
        with nogil:
            self._fill(batch, n, now)
            if encap:
                self._encap(&batch.p, -1)
            else:
                self._tell_vnis(&batch.p)
        return n

    cdef int _check_room(self, PacketBatch batch) except -1:
        cdef uint32_t i
        for i in range(batch.capacity):
            if batch.p.slot[i + 1] - batch.p.slot[i] < batch.headroom + self.largest:
                raise ValueError(f"slot {i} has no room for a frame of {self.largest} bytes")
        return 0

    cdef void _fill(self, PacketBatch batch, uint32_t n, int64_t now) noexcept nogil:
        """The slots have room."""
        cdef uint32_t i
        cdef Packets *p = &batch.p
        p.n = n
        for i in range(n):
            batch._reset_packet(i)
            p.length[i] = self.sizes[self.size]
            p.gbp[i] = 0
            if self.n_templates:
                p.vni[i] = self.streams[self.stream].way  # until _encap or _tell_vnis puts the VNI here
            put_frame(p.mem + p.offset[i], &self.streams[self.stream], p.length[i],
                      self.filler_sums[self.size], self.round, now)
            self._advance()

    cdef inline void _advance(self) noexcept nogil:
        """A stream gets another size in each round."""
        self.size += 1
        self.stream += 1
        if self.stream == self.n_streams:
            self.stream = 0
            self.round += 1
            self.size += 1
        if self.size >= self.n_sizes:
            self.size %= self.n_sizes

    cdef void _tell_vnis(self, Packets *p) noexcept nogil:
        cdef uint32_t i
        for i in range(p.n if self.n_templates else 0):
            p.vni[i] = self.templates[p.vni[i]].vni

    cdef void _encap(self, Packets *p, int layer) noexcept nogil:
        """What `_fill` filled; by `vni` it left word which way each frame goes."""
        cdef Packets part = p[0]
        cdef uint32_t at = 0, n = p.n
        while at < n:
            part.n = min(<uint32_t>MAX_BURST, n - at)
            memcpy(self.picks, part.vni, part.n * sizeof(uint32_t))
            encap_all(&part, self.templates, self.n_templates, self.picks, layer)
            at += part.n
            skip(&part, part.n)


cdef void skip(Packets *p, uint32_t n) noexcept nogil:
    """Begin the view behind its first packets."""
    p.slot += n
    p.offset += n
    p.length += n
    p.vni += n
    p.gbp += n
    p.source_port += n
    p.source += 16 * <size_t>n
    p.tos += n
    p.protocol += n
    p.verdict += n


cdef void put_vni(Template *out, const Template *tunnel, uint32_t vni) noexcept nogil:
    """A template differs from VNI to VNI by three bytes, which no header's checksum covers."""
    memcpy(out, tunnel, sizeof(Template))
    out.vni = vni
    vx_store32(out.header + TEMPLATE_LEN - VXLAN_AT + 4, vni << 8)


cdef void put_frame(uint8_t *frame, const Stream *s, uint32_t length, uint32_t filler_sum, uint64_t sequence,
                    int64_t now) noexcept nogil:
    """Write a frame whose checksums are right; what is summed is what differs from the stream's others."""
    cdef uint8_t *stamp = frame + HEADERS_LEN
    cdef uint64_t sum = <uint64_t>s.udp_sum + filler_sum
    cdef uint16_t check, udp_len = vx_be16(<uint16_t>(length - UDP_HEAD_AT))
    memcpy(frame, s.head, HEAD_LEN)
    vx_store16(frame + IP_AT + 2, <uint16_t>(length - IP_AT))
    vx_store16_raw(frame + IP_AT + 10,
                   ~vx_csum_fold(<uint64_t>s.ip_sum + vx_be16(<uint16_t>(length - IP_AT))))
    vx_store16_raw(frame + UDP_HEAD_AT + 4, udp_len)
    vx_store64_raw(stamp + SEQUENCE_AT, vx_be64(sequence))
    vx_store16(stamp + TIME_AT, <uint16_t>(now >> 32))
    vx_store32(stamp + TIME_AT + 2, <uint32_t>now)
    sum += 2 * <uint64_t>udp_len
    sum = vx_csum_add(stamp + SEQUENCE_AT, STAMP_LEN - SEQUENCE_AT, sum)
    check = ~vx_csum_fold(sum)
    vx_store16_raw(frame + UDP_HEAD_AT + 6, check if check else 0xFFFF)  # RFC 768: zero is none
    memcpy(frame + MIN_FRAME, filler(), length - MIN_FRAME)


# -- sending ------------------------------------------------------------------------------------------


@cython.auto_pickle(False)
cdef class Transmitter:
    """Sends a generator's frames from a socket, whose descriptor the caller keeps open.

    `kind` says what goes in: 0, frames by a packet socket; 4 or 6, VXLAN payloads by a UDP socket of that
    family; 1, whole packets by a packet socket. `rate` is in packets in a second, or in bits with `bits`,
    which then are those of all that is sent, from the (outer) Ethernet header on; 0: as fast as it goes. No
    more than `burst` packets go out together (0: what comes in 250 us, 64 at most). `stop`, from any thread,
    ends `run`.
    """

    cdef Generator generator
    cdef PacketBatch batch
    cdef iovec iov[64]
    cdef mmsghdr msgs[64]
    cdef double rate
    cdef bint bits
    cdef int fd, kind, layer
    cdef uint32_t burst, stopped, extra
    cdef readonly uint64_t sent, sent_bytes, refused
    cdef readonly int64_t started_ns, ended_ns
    cdef readonly int error

    def __init__(self, Generator generator not None, fd: int, kind: int = 0, *, rate: float = 0.0,
                 bits: bool = False, burst: int = 0):
        if kind and generator.n_templates == 0:
            raise ValueError("no tunnels to encapsulate by")
        if kind not in (0, 1, 4, 6) or not rate >= 0 or not 0 <= burst <= MAX_BURST:
            raise ValueError(f"kind {kind}, rate {rate}, burst {burst}: not possible")
        self.generator, self.fd, self.kind, self.rate, self.bits = generator, fd, kind, rate, bits
        self.layer = -1 if kind == 1 else LAYER_UDP_PAYLOAD
        self.extra = {4: OUTER_LEN4, 6: OUTER_LEN6}.get(kind, 0)
        self.burst = burst or self._usual_burst()
        self.batch = PacketBatch(MAX_BURST, generator.largest)

    cdef uint32_t _usual_burst(self) noexcept:
        """What comes in 250 us, as from a NIC that gathers."""
        cdef double in_time = self.rate / 4000
        if self.rate == 0:
            return MAX_BURST
        if self.bits:
            in_time /= 8 * <double>self.generator.largest
        return max(<uint32_t>1, min(<uint32_t>MAX_BURST, <uint32_t>in_time))

    def run(self, count: int = 0, seconds: float = 0.0) -> None:
        """Send `count` packets (0: no end) for so many seconds (0: no end), or until `stop`.

        `sent`, `sent_bytes` and `refused` count, of what the socket took and what it did not; `error` is the
        errno that ended it, or 0.
        """
        cdef uint64_t n = count
        cdef int64_t most_ns = <int64_t>(seconds * NS)
        with nogil:
            self._run(n, most_ns)

    def stop(self) -> None:
        """End `run` soon; it cannot begin again."""
        vx_store_release(&self.stopped, 1)

    cdef void _run(self, uint64_t count, int64_t most_ns) noexcept nogil:
        cdef int64_t start = time_of(CLOCK_MONOTONIC), now
        cdef double spent = 0, debt, most_debt
        cdef uint64_t tried = 0
        cdef uint32_t n
        prctl(PR_SET_TIMERSLACK, 1)  # of this thread: to wake when it is time
        self.started_ns = self.ended_ns = start
        while not vx_load_acquire(&self.stopped) and not self.error:
            now = time_of(CLOCK_MONOTONIC)
            if (most_ns and now - start >= most_ns) or (count and tried == count):
                break
            if self.rate:
                debt = (now - start) * self.rate / NS - spent
                if debt < 0:
                    self._wait(now, now + <int64_t>(-debt / self.rate * NS) + 1,
                               start + most_ns if most_ns else 0)
                    continue
                most_debt = LONGEST_DEBT_NS * self.rate / NS
                if debt > most_debt:
                    spent += debt - most_debt
            n = self.burst if count == 0 else <uint32_t>min(<uint64_t>self.burst, count - tried)
            spent += self._send(n)
            tried += n
        self.ended_ns = time_of(CLOCK_MONOTONIC)

    cdef void _wait(self, int64_t now, int64_t until, int64_t end) noexcept nogil:
        cdef timespec when
        if end:
            until = min(until, end)
        if until - now < SHORTEST_SLEEP_NS:
            return
        until = min(until, now + LONGEST_SLEEP_NS)
        when.tv_sec, when.tv_nsec = until / 1000000000, until % 1000000000
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL)

    cdef double _send(self, uint32_t n) noexcept nogil:
        """A burst; what it costs, in the rate's unit."""
        cdef Packets *p = &self.batch.p
        cdef uint32_t i
        cdef double n_bytes = 0
        self.generator._fill(self.batch, n, time_of(self.generator.clock))
        if self.kind:
            self.generator._encap(p, self.layer)
        for i in range(n):
            self.iov[i].iov_base, self.iov[i].iov_len = p.mem + p.offset[i], p.length[i]
            memset(&self.msgs[i], 0, sizeof(mmsghdr))
            self.msgs[i].msg_hdr.msg_iov, self.msgs[i].msg_hdr.msg_iovlen = &self.iov[i], 1
            n_bytes += p.length[i] + self.extra
        self._flush(n)
        return 8 * n_bytes if self.bits else n

    cdef void _flush(self, uint32_t n) noexcept nogil:
        """An error with nothing sent concerns the first message alone: go on behind it."""
        cdef uint32_t at = 0
        cdef int done
        while at < n and not vx_load_acquire(&self.stopped):
            done = sendmmsg(self.fd, self.msgs + at, n - at, 0)
            if done > 0:
                self._count(at, at + done)
                at += done
            elif errno != EINTR:
                self.refused += 1
                at += 1
                if not is_passing(errno):
                    self.error = errno
                    return

    cdef void _count(self, uint32_t at, uint32_t end) noexcept nogil:
        self.sent += end - at
        while at < end:
            self.sent_bytes += self.batch.p.length[at] + self.extra
            at += 1


cdef inline bint is_passing(int error) noexcept nogil:
    """Whether another packet may still go: queues are full, or somebody on the way refuses this one."""
    return (error == ENOBUFS or error == EAGAIN or error == ENOMEM or error == ECONNREFUSED
            or error == EHOSTUNREACH or error == ENETUNREACH or error == EPERM)
