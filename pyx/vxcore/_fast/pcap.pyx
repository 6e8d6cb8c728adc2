"""Capture files: pcap and pcapng, read block by block into a batch and written from one.

Place in the house: above batch, beside codec. A Reader's batch lies in the file's bytes as they were
read: no packet is copied, and what stood in front of it in the file is its headroom. Whatever a file
holds, nothing outside the block is touched; what is wrong with it ends the reading with a sentence
that says where.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memmove, memset

import numpy as np

from vxcore._fast.batch cimport PacketBatch, batch_over
from vxcore._fast.c_bytes cimport vx_be32, vx_binary_ns, vx_load16_raw, vx_load32_raw, vx_swap16, vx_swap32

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
    OPTION_TSRESOL = 9
    OPTION_TSOFFSET = 14
    MAX_INTERFACES = 65536

cdef uint32_t MAGIC_MICRO = 0xA1B2C3D4
cdef uint32_t MAGIC_NANO = 0xA1B23C4D
cdef uint32_t MAGIC_ORDER = 0x1A2B3C4D
cdef bint IS_LITTLE = vx_be32(1) != 1

BLOCK_SIZE = 8 << 20
MAX_PACKETS = 65536
LINK_ETHERNET = 1


cdef struct Interface:
    uint16_t link
    uint32_t snap_len
    bint binary              # resolution is 2^-exponent, else 10^-exponent seconds
    uint8_t exponent
    int64_t offset_s


cdef class Reader:
    """Reads a capture from a binary file object that has ``readinto``.

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
    cdef uint8_t *bytes_
    cdef size_t size, start, end
    cdef uint64_t position, skip
    cdef bint eof, swapped, ng
    cdef Interface *interfaces
    cdef object _interfaces
    cdef uint32_t n_interfaces
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
        """Move what is left to the front and read until the block is full or the file at its end."""
        memmove(self.bytes_, self.bytes_ + self.start, self.end - self.start)
        self.position += self.start
        self.end -= self.start
        self.start = 0
        while self.end < self.size and not self.eof:
            n_read = self._file.readinto(self._view[self.end :])
            self.eof = not n_read
            self.end += n_read or 0
        return 0

    def _begin(self) -> None:
        self._refill()
        if self.end < 4:
            raise CaptureError(f"not a capture file: {self.end} bytes long")
        magic = vx_load32_raw(self.bytes_)
        if magic == BLOCK_SECTION:
            self.ng = True
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
            self._refill()
            self._drop_skipped()
            with nogil:
                self._scan()
            if self.batch.p.n or (self.eof and self.start == self.end):
                break
            if self.problem is None and not self.skip and (self.eof or self.start == 0):
                self._complain()
        return self.batch.p.n

    cdef void _drop_skipped(self) noexcept:
        cdef uint64_t n = min(self.skip, <uint64_t>(self.end - self.start))
        self.start += n
        self.skip -= n

    def _complain(self) -> None:
        """Nothing could be taken from the block, and there is no more to read for it."""
        left = self.end - self.start
        if self.eof:
            self._stop(f"the file ends inside a record, of which {left} bytes are there")
        else:
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
            if not (self._block(&n) if self.ng else self._record(&n)):
                break
        self.batch.p.n = n
        for i in range(n, self.batch.capacity):
            self.slot[i + 1] = <uint32_t>self.start  # whoever raises count finds empty slots

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
        self._take(n, interface, 28, caught, self._u32(block + 24), length)
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
