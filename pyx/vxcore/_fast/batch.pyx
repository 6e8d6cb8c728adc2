"""PacketBatch: the memory of a batch of packets, seen from Python without a copy.

Place in the house: lowest of the compiled modules; knows only memory. The codec and the ports work
on the ``Packets`` view of it.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset

import numpy as np

# Room in front of a frame for the outer headers: Ethernet, two tags, IPv6, UDP and VXLAN are
# 14 + 8 + 40 + 8 + 8 = 78 bytes; two cache lines also hold a virtio-net header in front of them.
cdef enum:
    MIN_HEADROOM = 128
    SLOT_ALIGN = 64
    DESCRIPTION_LEN = 41     # 16 for the source, 5 uint32, 1 uint16 and 3 uint8, see _describe

# Offsets are uint32, so that a batch's bookkeeping stays small beside its packets.
cdef uint64_t MAX_BYTES = 0xFFFFFFFF

cdef object ADDRESS = np.dtype("16u1")


cdef inline uint64_t align_up(uint64_t value) noexcept nogil:
    return (value + SLOT_ALIGN - 1) & ~<uint64_t>(SLOT_ALIGN - 1)


cdef uint8_t *pointer_to(object array) except? NULL:
    """The address of a NumPy array's first byte, which lives as long as the array."""
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_WRITABLE)
    PyBuffer_Release(&view)
    return <uint8_t *>view.buf


cdef object aligned_bytes(uint64_t size):
    """A uint8 array of `size` bytes that starts on a cache line; its content is undefined."""
    raw = np.empty(size + SLOT_ALIGN, np.uint8)
    start = -<uintptr_t>pointer_to(raw) % SLOT_ALIGN
    return raw[start : start + size]


cdef class PacketBatch:
    """Packet memory and what is known of each packet, for one call after another.

    ``PacketBatch(capacity, frame_size=2048, headroom=128)`` makes `capacity` empty slots that each
    hold a frame of up to `frame_size` bytes behind `headroom` bytes (at least 128). Fill it with
    ``fill``, ``append``, by ``from_frames``, or in place: set ``count``, write the
    bytes into ``data`` at ``offset[i]`` and the number of bytes into ``length[i]``.

    Every array property is a view of the batch's own memory over its ``count`` packets, valid for
    as long as anything refers to it; writing to it changes the batch. Shapes and types:

    ==============  ==============  =====================================================
    ``data``        uint8 (bytes,)  all packet memory
    ``offset``      uint32 (n,)     where packet i starts in ``data``
    ``length``      uint32 (n,)     its length in bytes
    ``verdict``     uint8 (n,)      see ``vxcore.Verdict``; a call skips all but DELIVERED
    ``vni``         uint32 (n,)     VXLAN network identifier
    ``source``      uint8 (n, 16)   outer source address; IPv4 as ::ffff:a.b.c.d
    ``source_port`` uint16 (n,)     outer UDP source port
    ``tos``         uint8 (n,)      outer TOS / traffic class
    ``gbp``         uint32 (n,)     group policy word, laid out as Linux's VXLAN_GBP
    ``protocol``    uint8 (n,)      payload: 0 Ethernet, 4 bare IPv4, 6 bare IPv6 (VXLAN-GPE)
    ==============  ==============  =====================================================

    A batch belongs to one thread at a time; calls on it release the GIL.
    Raises ValueError for sizes that are not positive or add up to 4 GiB or more.
    """

    def __init__(self, capacity: int, frame_size: int = 2048, headroom: int = MIN_HEADROOM):
        if capacity < 1 or frame_size < 1:
            raise ValueError(f"capacity {capacity} and frame_size {frame_size} must be at least 1")
        self.headroom = check_headroom(headroom)
        cdef uint64_t stride = align_up(self.headroom + frame_size)
        cdef uint32_t i
        cdef uint32_t *slots
        check_total(capacity * stride)
        self._describe(capacity)
        slots = <uint32_t *>self.p.slot
        for i in range(self.capacity):
            slots[i + 1] = <uint32_t>((i + 1) * stride)
        self._hold(capacity * stride)
        self.reset()

    cdef int _describe(self, uint32_t capacity) except -1:
        """Make the arrays that describe packets, all zero, in one piece of memory, widest first."""
        cdef uint8_t *at
        self.capacity = capacity
        self._described = np.zeros(DESCRIPTION_LEN * <uint64_t>(capacity + 1), np.uint8)
        self._arrays = {}
        self.p.source = at = pointer_to(self._described)
        self.p.slot = <const uint32_t *>(at + 16 * <size_t>capacity)
        self.p.offset = <uint32_t *>self.p.slot + capacity + 1
        self.p.length = self.p.offset + capacity
        self.p.vni = self.p.length + capacity
        self.p.gbp = self.p.vni + capacity
        self.p.source_port = <uint16_t *>(self.p.gbp + capacity)
        self.p.tos = <uint8_t *>(self.p.source_port + capacity)
        self.p.protocol = self.p.tos + capacity
        self.p.verdict = self.p.protocol + capacity
        self.p.n = 0
        return 0

    cdef int _hold(self, uint64_t size) except -1:
        """Make the packets' memory."""
        self._data = aligned_bytes(size)
        self.p.mem = pointer_to(self._data)
        return 0

    @classmethod
    def from_frames(cls, frames, headroom: int = MIN_HEADROOM):
        """A batch that holds a copy of each bytes-like object in the sequence `frames`.

        Each slot is as large as its frame needs, so a few large frames cost no room for the small.
        Raises TypeError for an element without a buffer, ValueError for an empty sequence.
        """
        cdef PacketBatch batch = cls.__new__(cls)
        frames = tuple(frames)  # a list may change under a buffer's __buffer__
        if not frames:
            raise ValueError("frames is empty: a batch holds at least one packet")
        batch.headroom = check_headroom(headroom)
        batch._describe(len(frames))
        batch._hold(lay_slots(<uint32_t *>batch.p.slot, frames, batch.headroom))
        batch.fill(frames)
        return batch

    # -- filling and reading -------------------------------------------------------------------

    def fill(self, frames) -> None:
        """Replace the content by a copy of each bytes-like object in `frames`.

        Raises ValueError, naming the frame, when one does not fit its slot or there are more than
        `capacity`; the batch is then empty.
        """
        cdef uint32_t i = 0
        self.p.n = 0
        if len(frames) > self.capacity:
            raise ValueError(f"{len(frames)} frames do not fit a batch of capacity {self.capacity}")
        for frame in frames:
            if i == self.capacity:
                raise ValueError(f"frames grew beyond the batch's capacity, {self.capacity}")
            put_object(self, i, frame)
            i += 1
        self.p.n = i

    def append(self, frame) -> int:
        """Copy one bytes-like frame behind the others and return its index.

        Raises ValueError when the batch is full or the frame is larger than the slot.
        """
        if self.p.n == self.capacity:
            raise ValueError(f"the batch is full: capacity {self.capacity}")
        put_object(self, self.p.n, frame)
        self.p.n += 1
        return self.p.n - 1

    def reset(self) -> None:
        """Make the batch empty: every packet at its headroom, of length 0, not yet judged."""
        cdef uint32_t i
        self.p.n = 0
        with nogil:
            for i in range(self.capacity):
                self._reset_packet(i)

    cdef void _reset_packet(self, uint32_t i) noexcept nogil:
        cdef Packets *p = &self.p
        p.offset[i] = p.slot[i] + self.headroom
        p.length[i] = 0
        p.vni[i] = 0
        p.gbp[i] = 0
        p.source_port[i] = 0
        memset(p.source + 16 * <size_t>i, 0, 16)
        p.tos[i] = 0
        p.protocol[i] = 0
        p.verdict[i] = 0

    cdef int _put(self, uint32_t i, const uint8_t *frame, size_t length) except -1:
        cdef uint32_t room = self.p.slot[i + 1] - self.p.slot[i] - self.headroom
        if length > room:
            raise ValueError(f"frame {i} has {length} bytes, its slot has room for {room}")
        self._reset_packet(i)
        self.p.length[i] = <uint32_t>length
        memcpy(self.p.mem + self.p.offset[i], frame, length)
        return 0

    def to_frames(self, verdict: int | None = None) -> list[bytes]:
        """A copy of each packet as it now is; only those with `verdict` when one is given.

        Raises ValueError when an offset or length set from outside leaves its slot.
        """
        cdef Packets *p = &self.p
        cdef uint32_t i
        cdef int wanted = -1 if verdict is None else verdict
        cdef list frames = []
        for i in range(p.n):
            if wanted < 0 or p.verdict[i] == wanted:
                if not in_slot(p, i, p.offset[i], p.length[i]):
                    self._check(i)
                frames.append(PyBytes_FromStringAndSize(<char *>p.mem + p.offset[i], p.length[i]))
        return frames

    def _check(self, i: int) -> None:
        if not in_slot(&self.p, i, self.p.offset[i], self.p.length[i]):
            raise ValueError(
                f"packet {i}: offset {self.p.offset[i]}, length {self.p.length[i]} leave its slot"
                f" [{self.p.slot[i]}, {self.p.slot[i + 1]})")

    def __len__(self) -> int:
        return self.p.n

    def __getitem__(self, i: int) -> memoryview:
        """The bytes of packet i, as a writable view."""
        i = int(i)
        if i < 0:
            i += self.p.n
        if not 0 <= i < self.p.n:
            raise IndexError(f"packet {i} of {self.p.n}")
        self._check(i)
        return memoryview(self._data)[self.p.offset[i] : self.p.offset[i] + self.p.length[i]]

    def __repr__(self) -> str:
        return f"<PacketBatch {self.p.n} of {self.capacity} packets, {len(self._data)} bytes>"

    # -- views ---------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many packets the batch holds; settable up to `capacity`, to fill it in place."""
        return self.p.n

    @count.setter
    def count(self, value: int):
        if not 0 <= value <= self.capacity:
            raise ValueError(f"count {value} is not from 0 to the capacity, {self.capacity}")
        self.p.n = value

    cdef object _array(self, str name, const void *start, object dtype):
        """A NumPy array over one of the arrays that `_describe` laid out, made when first asked for."""
        array = self._arrays.get(name)
        if array is None:
            where = <uintptr_t>start - <uintptr_t>self.p.source
            array = self._arrays[name] = np.ndarray(self.capacity, dtype, self._described, where)
        return array[: self.p.n]

    @property
    def data(self):
        return self._data[:]

    @property
    def offset(self):
        return self._array("offset", self.p.offset, np.uint32)

    @property
    def length(self):
        return self._array("length", self.p.length, np.uint32)

    @property
    def verdict(self):
        return self._array("verdict", self.p.verdict, np.uint8)

    @property
    def vni(self):
        return self._array("vni", self.p.vni, np.uint32)

    @property
    def source(self):
        return self._array("source", self.p.source, ADDRESS)

    @property
    def source_port(self):
        return self._array("source_port", self.p.source_port, np.uint16)

    @property
    def tos(self):
        return self._array("tos", self.p.tos, np.uint8)

    @property
    def gbp(self):
        return self._array("gbp", self.p.gbp, np.uint32)

    @property
    def protocol(self):
        return self._array("protocol", self.p.protocol, np.uint8)


cdef PacketBatch batch_over(uint64_t size, uint32_t capacity):
    """A batch whose owner lays packets into `size` bytes as it likes: it sets the slots, too."""
    cdef PacketBatch batch = PacketBatch.__new__(PacketBatch)
    check_total(size)
    batch._describe(capacity)
    batch._hold(size)
    return batch


@cython.auto_pickle(False)
cdef class Spread:
    """Copies packets apart: from a batch without headroom into one with it, again and again.

    ``Spread(size, capacity, headroom=128)`` has room for any batch of up to `capacity` packets that
    have `size` bytes together. ``batch`` is what ``take`` fills, valid until it fills it again.
    """

    cdef readonly PacketBatch batch
    cdef uint64_t size

    def __init__(self, size: int, capacity: int, headroom: int = MIN_HEADROOM):
        room = check_headroom(headroom) + SLOT_ALIGN
        self.size = size
        self.batch = batch_over(size + capacity * room, capacity)
        self.batch.headroom = check_headroom(headroom)

    def take(self, PacketBatch source not None) -> PacketBatch:
        """Replace ``batch`` by a copy of `source`'s packets, and return it; verdicts are copied, too.

        Raises ValueError when a packet leaves its slot or they are more than there is room for.
        """
        cdef uint32_t i
        cdef uint64_t total = 0
        if source.p.n > self.batch.capacity:
            raise ValueError(f"{source.p.n} packets, but room for {self.batch.capacity}")
        for i in range(source.p.n):
            if not in_slot(&source.p, i, source.p.offset[i], source.p.length[i]):
                source._check(i)
            total += source.p.length[i]
        if total > self.size:
            raise ValueError(f"the packets have {total} bytes, but there is room for {self.size}")
        with nogil:
            spread_all(&source.p, self.batch)
        return self.batch


cdef void spread_all(const Packets *source, PacketBatch batch) noexcept nogil:
    cdef Packets *p = &batch.p
    cdef uint32_t *slot = <uint32_t *>p.slot
    cdef uint32_t i
    slot[0] = 0
    for i in range(source.n):
        batch._reset_packet(i)
        p.verdict[i], p.length[i] = source.verdict[i], source.length[i]
        memcpy(p.mem + p.offset[i], source.mem + source.offset[i], source.length[i])
        slot[i + 1] = <uint32_t>align_up(p.offset[i] + source.length[i])
    p.n = source.n
    for i in range(source.n, batch.capacity):
        slot[i + 1] = slot[source.n]  # whoever raises count finds empty slots


cdef uint32_t check_headroom(object headroom) except? 0:
    if not MIN_HEADROOM <= headroom <= 65536:
        raise ValueError(f"headroom {headroom} is not from {MIN_HEADROOM} to 65536 bytes")
    return <uint32_t>align_up(headroom)


cdef int check_total(object size) except -1:
    if size > MAX_BYTES:
        raise ValueError(f"the batch would take {size} bytes; offsets are 32 bits: at most {MAX_BYTES}")
    return 0


cdef uint64_t lay_slots(uint32_t *slot, tuple frames, uint32_t headroom) except? 0:
    """Write the slot boundaries that fit each frame; return the bytes that all take."""
    cdef Py_ssize_t i
    cdef uint64_t end = 0
    for i in range(len(frames)):
        slot[i] = <uint32_t>end
        end += align_up(headroom + buffer_len(frames[i]))
        if end > MAX_BYTES:
            check_total(end)
    slot[len(frames)] = <uint32_t>end
    return end


cdef Py_ssize_t buffer_len(object frame) except -1:
    if PyBytes_CheckExact(frame):
        return PyBytes_GET_SIZE(frame)
    return memoryview(frame).nbytes


cdef int put_object(PacketBatch batch, uint32_t i, object frame) except -1:
    cdef Py_buffer view
    if PyBytes_CheckExact(frame):
        return batch._put(i, <const uint8_t *>PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame))
    PyObject_GetBuffer(frame, &view, PyBUF_SIMPLE)
    try:
        return batch._put(i, <const uint8_t *>view.buf, view.len)
    finally:
        PyBuffer_Release(&view)
