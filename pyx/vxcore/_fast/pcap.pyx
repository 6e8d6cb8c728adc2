"""Capture files: pcap and pcapng, read block by block into a batch and written from one.

Place in the house: above batch, beside codec. A Reader's batch lies in the file's bytes as they were
read: no packet is copied, and what stood in front of it in the file is its headroom. Whatever a file
holds, nothing outside the block is touched; what is wrong with it ends the reading with a sentence
that says where. A Writer assembles records in a block that stays in the cache, and hands it on whole.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memmove, memset

import struct

import numpy as np

from vxcore._fast.batch cimport PacketBatch, Packets, batch_over, in_slot
from vxcore._fast.c_bytes cimport (
    vx_be32, vx_binary_ns, vx_load16_raw, vx_load32_raw, vx_store32_raw, vx_swap16, vx_swap32,
)
from vxcore._fast.verdict cimport *

from vxcore.errors import CaptureError

cdef enum:
    # pcap (draft-ietf-opsawg-pcap)
    FILE_HEADER_LEN = 24
    RECORD_HEADER_LEN = 16
    # pcapng (draft-ietf-opsawg-pcapng)
    BLOCK_SECTION = 0x0A0D0D0A
    BLOCK_INTERFACE = 1
    BLOCK_OLD_PACKET = 2
    BLOCK_SIMPLE = 3
    BLOCK_PACKET = 6
    BLOCK_MIN_LEN = 12
    PACKET_HEADER_LEN = 28    # of an enhanced packet block, in front of the packet
    OPTION_END = 0
    OPTION_COMMENT = 1
    OPTION_NAME = 2           # of an interface
    OPTION_APPLICATION = 4    # of a section
    OPTION_TSRESOL = 9
    OPTION_TSOFFSET = 14
    MAX_INTERFACES = 65536

cdef uint32_t MAGIC_MICRO = 0xA1B2C3D4
cdef uint32_t MAGIC_NANO = 0xA1B23C4D
cdef uint32_t MAGIC_ORDER = 0x1A2B3C4D
cdef bint IS_LITTLE = vx_be32(1) != 1

BLOCK_SIZE = 8 << 20
READ_SIZE = 512 << 10   # what is read at a time, so that it is still near when it is looked at
WRITE_SIZE = 256 << 10
SNAP_LEN = 262144       # what tcpdump says, too: the largest packet to expect
MAX_PACKETS = 65536
LINK_ETHERNET = 1


cdef struct Interface:
    uint16_t link
    uint32_t snap_len
    bint binary              # resolution is 2^-exponent, else 10^-exponent seconds
    uint8_t exponent
    int64_t offset_s


cdef class Reader:
    """Reads a capture from a binary file object that has ``readinto``, which may give less than asked.

    ``read()`` fills ``batch`` with the next packets and returns how many, 0 at the end. They, and the
    arrays ``time_ns`` (int64, since 1970), ``original_len`` (uint32, on the wire) and ``link``
    (uint16, LINKTYPE_ number), all of shape (n,), are valid until the next call. ``problem`` is then
    None, or says what is wrong with the file and at which byte; all before that was read.

    Raises CaptureError when the file is no capture at all; OSError from the file.
    """

    cdef object _file, _buffer, _view, _time, _original, _link
    cdef readonly PacketBatch batch
    cdef readonly object problem
    cdef readonly bint nanoseconds
    cdef readonly bint pcapng
    cdef uint8_t *bytes_
    cdef size_t size, start, end
    cdef uint64_t position, skip
    cdef bint eof, swapped
    cdef Interface *interfaces
    cdef object _interfaces
    cdef uint32_t n_interfaces, n_slots
    cdef uint32_t *slot
    cdef int64_t *time
    cdef uint32_t *original
    cdef uint16_t *link_

    def __init__(self, file, block_size: int = BLOCK_SIZE, max_packets: int = MAX_PACKETS):
        self._file = file
        self.size = block_size
        self.batch = batch_over(block_size, max_packets)
        self._buffer = self.batch.data
        self._view = memoryview(self._buffer)
        self.bytes_ = self.batch.p.mem
        self.slot = <uint32_t *>self.batch.p.slot
        self._time = np.zeros(max_packets, np.int64)
        self._original = np.zeros(max_packets, np.uint32)
        self._link = np.zeros(max_packets, np.uint16)
        self.time = <int64_t *><uintptr_t>self._time.ctypes.data
        self.original = <uint32_t *><uintptr_t>self._original.ctypes.data
        self.link_ = <uint16_t *><uintptr_t>self._link.ctypes.data
        self._interfaces = np.zeros(MAX_INTERFACES * sizeof(Interface), np.uint8)
        self.interfaces = <Interface *><uintptr_t>self._interfaces.ctypes.data
        self._begin()

    @property
    def time_ns(self):
        return self._time[: self.batch.p.n]

    @property
    def original_len(self):
        return self._original[: self.batch.p.n]

    @property
    def link(self):
        return self._link[: self.batch.p.n]

    # -- filling the block ---------------------------------------------------------------------

    cdef int _refill(self) except -1:
        """Move what is left to the front and read on: as much as there is by now, from a pipe."""
        cdef size_t n_read
        memmove(self.bytes_, self.bytes_ + self.start, self.end - self.start)
        self.position += self.start
        self.end -= self.start
        self.start = 0
        n_read = self._file.readinto(self._view[self.end : min(self.end + <size_t>READ_SIZE, self.size)])
        self.eof = n_read == 0
        self.end += n_read
        return 0

    def _begin(self) -> None:
        while self.end < FILE_HEADER_LEN and not self.eof:
            self._refill()
        if self.end < 4:
            raise CaptureError(f"not a capture file: {self.end} bytes long")
        magic = vx_load32_raw(self.bytes_)
        if magic == BLOCK_SECTION:
            self.pcapng = True
            return
        self.swapped = magic not in (MAGIC_MICRO, MAGIC_NANO)
        magic = self._u32(self.bytes_)
        if magic not in (MAGIC_MICRO, MAGIC_NANO):
            raise CaptureError(f"not a capture file: it starts with {bytes(self._view[:4]).hex()},"
                               " neither pcap's nor pcapng's first bytes")
        if self.end < FILE_HEADER_LEN:
            raise CaptureError(f"the pcap header is cut short: {self.end} of {FILE_HEADER_LEN} bytes")
        self.nanoseconds = magic == MAGIC_NANO
        self.interfaces[0].link = self._u32(self.bytes_ + 20) & 0xFFFF
        self.interfaces[0].exponent = 9 if self.nanoseconds else 6
        self.n_interfaces = 1
        self.start = FILE_HEADER_LEN

    def read(self) -> int:
        """Fill ``batch`` with the next packets; return how many there are."""
        self.batch.p.n = 0
        while self.problem is None:
            self._drop_skipped()
            with nogil:
                self._scan()
            if self.batch.p.n or self.problem is not None:
                break
            if self.skip and self.start < self.end:
                continue
            if self.eof or (self.start == 0 and self.end == self.size):
                self._complain()
                break
            self._refill()
        return self.batch.p.n

    cdef void _drop_skipped(self) noexcept:
        cdef uint64_t n = min(self.skip, <uint64_t>(self.end - self.start))
        self.start += n
        self.skip -= n

    def _complain(self) -> None:
        """Nothing could be taken from the block, and there is no more to read for it."""
        left = self.end - self.start
        if self.eof and self.skip:
            self._stop(f"the file ends inside a block, of which {self.skip} bytes are missing")
        elif self.eof and left:
            self._stop(f"the file ends inside a record, of which {left} bytes are there")
        elif left:
            self._stop(f"a record claims more than the {self.size} bytes that a record may have")

    def _stop(self, what: str) -> None:
        self.problem = f"at byte {self.position + self.start}: {what}"

    # -- records -------------------------------------------------------------------------------

    cdef inline uint32_t _u32(self, const uint8_t *p) noexcept nogil:
        cdef uint32_t value = vx_load32_raw(p)
        return vx_swap32(value) if self.swapped else value

    cdef inline uint16_t _u16(self, const uint8_t *p) noexcept nogil:
        cdef uint16_t value = vx_load16_raw(p)
        return vx_swap16(value) if self.swapped else value

    cdef inline int64_t _s64(self, const uint8_t *p) noexcept nogil:
        cdef uint64_t first = self._u32(p), second = self._u32(p + 4)
        # Two words in their own order: which is the high one depends on the file's order, not on ours.
        if self.swapped == IS_LITTLE:
            return <int64_t>(first << 32 | second)
        return <int64_t>(second << 32 | first)

    cdef void _scan(self) noexcept nogil:
        """Take records while there are whole ones and room for them."""
        cdef uint32_t i, n = 0
        self.slot[0] = <uint32_t>self.start
        while n < self.batch.capacity and not self.skip:
            if not (self._block(&n) if self.pcapng else self._record(&n)):
                break
        self.batch.p.n = n
        for i in range(n, max(n, self.n_slots)):
            self.slot[i + 1] = <uint32_t>self.start  # whoever raises count finds no packets of before
        self.n_slots = n

    cdef bint _record(self, uint32_t *n) noexcept nogil:
        cdef const uint8_t *record = self.bytes_ + self.start
        cdef size_t left = self.end - self.start
        cdef uint32_t length
        if left < RECORD_HEADER_LEN:
            return False
        length = self._u32(record + 8)
        if length > left - RECORD_HEADER_LEN:
            return False
        self._take(n, 0, RECORD_HEADER_LEN, length, self._u32(record + 12),
                   RECORD_HEADER_LEN + <size_t>length)
        self.time[n[0] - 1] = (self._u32(record) * <int64_t>1000000000
                               + self._u32(record + 4) * <int64_t>(1 if self.nanoseconds else 1000))
        return True

    cdef void _take(self, uint32_t *n, uint32_t interface, uint32_t header_len, uint32_t length,
                    uint32_t original, size_t whole) noexcept nogil:
        """Enter a packet of `length` bytes, `header_len` behind the start of a record of `whole` bytes."""
        cdef uint32_t i = n[0]
        self.slot[i] = <uint32_t>self.start
        self.batch._reset_packet(i)
        self.batch.p.offset[i] = <uint32_t>self.start + header_len
        self.batch.p.length[i] = length
        self.original[i] = original
        self.link_[i] = self.interfaces[interface].link
        self.start += whole
        self.slot[i + 1] = <uint32_t>self.start
        n[0] = i + 1

    cdef bint _block(self, uint32_t *n) noexcept nogil:
        """One pcapng block; False when it is not whole, or wrong."""
        cdef const uint8_t *block = self.bytes_ + self.start
        cdef size_t left = self.end - self.start
        cdef uint32_t kind, length
        if left < BLOCK_MIN_LEN:
            return False
        kind = vx_load32_raw(block)
        if kind == BLOCK_SECTION and not self._section(block):
            return False
        kind = self._u32(block)
        length = self._u32(block + 4)
        if length < BLOCK_MIN_LEN or length % 4:
            with gil:
                self._stop(f"a block of {length} bytes: a multiple of 4 from {BLOCK_MIN_LEN} up is needed")
            return False
        if length > left:
            return self._beyond(kind, length)
        if self._u32(block + length - 4) != length:
            with gil:
                self._stop(f"a block of {length} bytes that ends with another length")
            return False
        return self._whole_block(block, kind, length, n)

    cdef bint _beyond(self, uint32_t kind, uint32_t length) noexcept nogil:
        """A block that is not whole: wait for the rest of it, or pass over what is no packet."""
        if length <= self.size or kind == BLOCK_PACKET or kind == BLOCK_OLD_PACKET or kind == BLOCK_SIMPLE:
            return False
        self.skip = length
        return False

    cdef bint _section(self, const uint8_t *block) noexcept nogil:
        """A section starts: its byte order holds from here on, and its interfaces are yet to come."""
        cdef uint32_t order = vx_load32_raw(block + 8)
        self.n_interfaces = 0
        if order == MAGIC_ORDER or vx_swap32(order) == MAGIC_ORDER:
            self.swapped = order != MAGIC_ORDER
            return True
        with gil:
            self._stop("a section header without pcapng's byte-order mark")
        return False

    cdef bint _whole_block(self, const uint8_t *block, uint32_t kind, uint32_t length,
                           uint32_t *n) noexcept nogil:
        cdef bint ok = True
        if kind == BLOCK_PACKET or kind == BLOCK_OLD_PACKET:
            return self._packet_block(block, kind, length, n)
        if kind == BLOCK_SIMPLE:
            return self._simple_block(block, length, n)
        if kind == BLOCK_INTERFACE:
            ok = self._interface_block(block, length)
        if ok:
            self.start += length
        return ok

    cdef bint _packet_block(self, const uint8_t *block, uint32_t kind, uint32_t length,
                            uint32_t *n) noexcept nogil:
        cdef uint32_t interface, caught
        cdef uint64_t stamp
        if length < 32:
            with gil:
                self._stop(f"a packet block of {length} bytes: at least 32 are needed")
            return False
        interface = self._u32(block + 8) if kind == BLOCK_PACKET else self._u16(block + 8)
        caught = self._u32(block + 20)
        if interface >= self.n_interfaces or caught > length - 32:
            with gil:
                self._stop(f"{caught} bytes on interface {interface} in a block of {length} bytes,"
                           f" in a section with {self.n_interfaces} interfaces")
            return False
        stamp = <uint64_t>self._u32(block + 12) << 32 | self._u32(block + 16)
        self._take(n, interface, PACKET_HEADER_LEN, caught, self._u32(block + 24), length)
        self.time[n[0] - 1] = nanoseconds_of(stamp, &self.interfaces[interface])
        return True

    cdef bint _simple_block(self, const uint8_t *block, uint32_t length, uint32_t *n) noexcept nogil:
        cdef uint32_t original, caught
        if length < 16 or self.n_interfaces == 0:
            with gil:
                self._stop("a simple packet block that is too short or belongs to no interface")
            return False
        original = self._u32(block + 8)
        caught = min(original, length - 16)
        if self.interfaces[0].snap_len:
            caught = min(caught, self.interfaces[0].snap_len)
        self._take(n, 0, 12, caught, original, length)
        self.time[n[0] - 1] = 0
        return True

    cdef bint _interface_block(self, const uint8_t *block, uint32_t length) noexcept nogil:
        cdef Interface *interface = &self.interfaces[self.n_interfaces]
        if length < 20 or self.n_interfaces == MAX_INTERFACES:
            with gil:
                self._stop("an interface block that is too short, or one too many")
            return False
        memset(interface, 0, sizeof(Interface))
        interface.link = self._u16(block + 8)
        interface.snap_len = self._u32(block + 12)
        interface.exponent = 6
        self._interface_options(block + 16, block + length - 4, interface)
        self.nanoseconds = self.nanoseconds or interface.binary or interface.exponent > 6
        self.n_interfaces += 1
        return True

    cdef void _interface_options(self, const uint8_t *option, const uint8_t *end,
                                 Interface *interface) noexcept nogil:
        cdef uint16_t code, length
        while end - option >= 4:
            code, length = self._u16(option), self._u16(option + 2)
            option += 4
            if code == 0 or length > end - option:
                return
            if code == OPTION_TSRESOL and length >= 1:
                interface.binary = option[0] >> 7
                interface.exponent = option[0] & 127
            elif code == OPTION_TSOFFSET and length >= 8:
                interface.offset_s = self._s64(option)
            option += min(<uint32_t>(length + 3) & ~<uint32_t>3, <uint32_t>(end - option))


cdef int64_t nanoseconds_of(uint64_t stamp, const Interface *interface) noexcept nogil:
    """A timestamp in the interface's resolution as nanoseconds; absurd ones wrap, as uint64 does."""
    cdef uint64_t value = stamp
    cdef uint8_t exponent = interface.exponent
    if interface.binary:
        return <int64_t>(vx_binary_ns(stamp, exponent) + <uint64_t>interface.offset_s * 1000000000)
    while exponent < 9:
        value *= 10
        exponent += 1
    while exponent > 9 and value:
        value //= 10
        exponent -= 1
    return <int64_t>(value + <uint64_t>interface.offset_s * 1000000000)


# -- writing -------------------------------------------------------------------------------------


# What the records of one call are made of; NULL where a default holds for all.
cdef struct Source:
    const Packets *packets
    const int64_t *time
    const uint32_t *original
    const uint32_t *interface
    const uint32_t *pick
    uint32_t n_picks


@cython.auto_pickle(False)  # Cython takes `block` for text
cdef class Writer:
    """Writes a capture to a binary file object that has ``write``.

    pcap, with packets of the one link type `link` (LINKTYPE_ number); or with `pcapng`, where
    ``add_interface`` must come before the first packet, as often as there are link types or names to
    tell apart. Time stamps are written in microseconds, or in `nanoseconds`. `comment` is the
    section's, pcapng only. With `append` the file has its header and `n_interfaces` already, and this
    goes on behind them.

    Nothing stays behind in the Writer: when a call returns, the file has been given all of it.
    Raises ValueError for wrong arguments; OSError from the file.
    """

    cdef object _file, _buffer, _view
    cdef readonly bint pcapng, nanoseconds
    cdef readonly uint32_t n_interfaces
    cdef uint8_t *block
    cdef size_t size, used

    def __init__(self, file, *, pcapng: bool = False, nanoseconds: bool = False, link: int = LINK_ETHERNET,
                 comment: str | None = None, append: bool = False, n_interfaces: int = 0,
                 block_size: int = WRITE_SIZE):
        if block_size < 64:
            raise ValueError(f"block_size {block_size} is less than a record's header needs; from 64 up")
        if comment is not None and not pcapng:
            raise ValueError("a pcap has no place for a comment; a pcapng has")
        self._file = file
        self.size = block_size
        self._buffer = np.empty(block_size, np.uint8)
        self._view = memoryview(self._buffer)
        self.block = <uint8_t *><uintptr_t>self._buffer.ctypes.data
        self.pcapng = pcapng
        self.nanoseconds = nanoseconds
        self.n_interfaces = n_interfaces
        if not append:
            self._put(section_header(comment) if pcapng else file_header(link, nanoseconds))

    def add_interface(self, link: int = LINK_ETHERNET, name: str | None = None) -> int:
        """Describe one more interface, and return its number; for a pcapng."""
        if not self.pcapng:
            raise ValueError("a pcap has one link type and no interfaces; a pcapng has")
        if self.n_interfaces == MAX_INTERFACES:
            raise ValueError(f"more than {MAX_INTERFACES} interfaces, which no reader is ready for")
        options = option(OPTION_TSRESOL, bytes([9 if self.nanoseconds else 6]))
        if name is not None:
            options = option(OPTION_NAME, name.encode()) + options
        body = struct.pack("=HHI", link, 0, SNAP_LEN) + options + option(OPTION_END, b"")
        self._put(framed(BLOCK_INTERFACE, body))
        self.n_interfaces += 1
        return self.n_interfaces - 1

    def write(self, PacketBatch batch not None, time_ns, original_len=None, pick=None,
              interface=None) -> int:
        """Write packets of a batch as records, and return how many.

        `pick`, a uint32 array, numbers the packets to write, in that order; default: those whose
        verdict is DELIVERED. The other arrays have shape (n,), an element for each packet of the
        batch: `time_ns` int64, nanoseconds since 1970; `original_len` uint32, the length on the wire
        (default: the packet's); `interface` uint32, for a pcapng (default: the first).
        """
        cdef Source source
        cdef uint32_t k = 0, n = batch.p.n
        cdef const int64_t[::1] times = of_shape(time_ns, "time_ns", n)
        cdef const uint32_t[::1] originals, picks, interfaces
        if pick is None:
            pick = np.flatnonzero(batch.verdict == DELIVERED).astype(np.uint32)
        if len(pick) == 0:
            return 0
        picks = pick
        memset(&source, 0, sizeof(Source))
        source.packets, source.time, source.pick = &batch.p, &times[0], &picks[0]
        source.n_picks = <uint32_t>picks.shape[0]
        if original_len is not None:
            originals = of_shape(original_len, "original_len", n)
            source.original = &originals[0]
        if interface is not None:
            interfaces = of_shape(interface, "interface", n)
            source.interface = &interfaces[0]
        self._check(&source)
        while k < source.n_picks:
            with nogil:
                k = self._fill(&source, k)
            self._flush()
            if k < source.n_picks and self.record_len(&source, k) > self.size:
                self._write_large(&source, batch, k)
                k += 1
        return source.n_picks

    cdef int _check(self, const Source *source) except -1:
        """All that could take the loop out of bounds, before anything is written."""
        cdef const Packets *p = source.packets
        cdef uint32_t k, i
        for k in range(source.n_picks):
            i = source.pick[k]
            if i >= p.n:
                raise ValueError(f"pick[{k}] is packet {i} of {p.n}")
            if not in_slot(p, i, p.offset[i], p.length[i]):
                raise ValueError(f"packet {i}: offset {p.offset[i]}, length {p.length[i]} leave its slot")
            if self.pcapng and (source.interface[i] if source.interface else 0) >= self.n_interfaces:
                raise ValueError(f"packet {i} is of an interface that was not added: there are"
                                 f" {self.n_interfaces}")
        return 0

    cdef inline size_t record_len(self, const Source *source, uint32_t k) noexcept nogil:
        cdef size_t length = source.packets.length[source.pick[k]]
        if self.pcapng:
            return PACKET_HEADER_LEN + ((length + 3) & ~<size_t>3) + 4
        return RECORD_HEADER_LEN + length

    cdef uint32_t _fill(self, const Source *source, uint32_t k) noexcept nogil:
        """Put records into the block from the k-th on while they fit; return which is next."""
        cdef const Packets *p = source.packets
        cdef uint32_t i, length
        while k < source.n_picks and self.record_len(source, k) <= self.size - self.used:
            i = source.pick[k]
            length = p.length[i]
            self.used += self._header(source, i, self.block + self.used)
            memcpy(self.block + self.used, p.mem + p.offset[i], length)
            self.used += length
            if self.pcapng:
                self._trailer(length)
            k += 1
        return k

    cdef inline uint32_t _header(self, const Source *source, uint32_t i, uint8_t *at) noexcept nogil:
        """Write what stands in front of a packet; return its length."""
        cdef uint32_t length = source.packets.length[i]
        cdef uint32_t original = source.original[i] if source.original else length
        cdef int64_t time = source.time[i]
        cdef uint64_t stamp
        if self.pcapng:
            # Absurd times wrap here as they did in nanoseconds_of, and so come out as they went in.
            stamp = <uint64_t>time if self.nanoseconds else <uint64_t>floor_divide(time, 1000)
            vx_store32_raw(at, BLOCK_PACKET)
            vx_store32_raw(at + 4, PACKET_HEADER_LEN + ((length + 3) & ~<uint32_t>3) + 4)
            vx_store32_raw(at + 8, source.interface[i] if source.interface else 0)
            vx_store32_raw(at + 12, <uint32_t>(stamp >> 32))
            vx_store32_raw(at + 16, <uint32_t>stamp)
            vx_store32_raw(at + 20, length)
            vx_store32_raw(at + 24, original)
            return PACKET_HEADER_LEN
        stamp = <uint64_t>floor_divide(time, 1000000000)
        time -= <int64_t>stamp * 1000000000
        vx_store32_raw(at, <uint32_t>stamp)
        vx_store32_raw(at + 4, <uint32_t>(time if self.nanoseconds else time // 1000))
        vx_store32_raw(at + 8, length)
        vx_store32_raw(at + 12, original)
        return RECORD_HEADER_LEN

    cdef inline void _trailer(self, uint32_t length) noexcept nogil:
        """Pad a packet block to a multiple of 4 and close it with its length."""
        cdef uint32_t padded = (length + 3) & ~<uint32_t>3
        memset(self.block + self.used, 0, padded - length)
        self.used += padded - length
        vx_store32_raw(self.block + self.used, PACKET_HEADER_LEN + padded + 4)
        self.used += 4

    cdef int _write_large(self, const Source *source, PacketBatch batch, uint32_t k) except -1:
        """A record that is larger than the block goes out in three pieces."""
        cdef uint32_t i = source.pick[k]
        self.used = self._header(source, i, self.block)
        self._flush()
        self._put(batch[i])
        if self.pcapng:
            self._trailer(batch.p.length[i])
            self._flush()
        return 0

    cdef int _flush(self) except -1:
        """The GIL is the file's to release."""
        cdef size_t used = self.used
        self.used = 0
        return self._put(self._view[:used])

    cdef int _put(self, data) except -1:
        """Give the file all of it: a raw file may take it in pieces."""
        rest = memoryview(data)
        while len(rest):
            n_taken = self._file.write(rest)
            if n_taken is None:
                raise BlockingIOError("the file to write to is non-blocking, and takes no more")
            rest = rest[n_taken:]
        return 0


cdef inline int64_t floor_divide(int64_t value, int64_t by) noexcept nogil:
    """Towards minus infinity, for times before 1970; C divides towards zero."""
    return value // by - (value % by < 0)


cdef object of_shape(array, name, n):
    if len(array) != n:
        raise ValueError(f"{name} has {len(array)} elements, the batch {n} packets")
    return array


cdef bytes file_header(link, nanoseconds):
    """What a pcap starts with, in this machine's byte order."""
    magic = MAGIC_NANO if nanoseconds else MAGIC_MICRO
    return struct.pack("=IHHiIII", magic, 2, 4, 0, 0, SNAP_LEN, link)


cdef bytes section_header(comment):
    """What a pcapng starts with: of unknown length, written by us."""
    options = option(OPTION_COMMENT, comment.encode()) if comment is not None else b""
    options += option(OPTION_APPLICATION, b"vxcore") + option(OPTION_END, b"")
    return framed(BLOCK_SECTION, struct.pack("=IHHq", MAGIC_ORDER, 1, 0, -1) + options)


cdef bytes option(code, value):
    """One option of a pcapng block; ValueError when the value has more than 65,535 bytes."""
    if len(value) > 65535:
        raise ValueError(f"a text of {len(value)} bytes; an option of a pcapng holds 65535")
    return struct.pack("=HH", code, len(value)) + value + bytes(3 - (len(value) + 3) % 4)


cdef bytes framed(kind, body):
    """A pcapng block around its body, whose length is a multiple of 4."""
    length = struct.pack("=I", len(body) + BLOCK_MIN_LEN)
    return struct.pack("=I", kind) + length + body + length
