"""Capture files as the overlay port of a collector: each frame a record that says where it came from.

Place in the house: one kind of port; above port, below the lane. Records are gathered in a block that goes
to the file in one write(2) when it is full, or by a timer that the lane takes for a port with frames. A file
is called .part while it grows, always ends with a whole record when a write has returned, and is renamed when
it is complete. What cannot be written is counted, and tried again with a new file.
"""

from libc.errno cimport EEXIST, EINTR, ENOSPC, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec
from posix.unistd cimport close, read, write

import os

from vxcore._fast.c_bytes cimport vx_load32_raw, vx_store16_raw, vx_store32_raw
from vxcore._fast.c_file cimport *
from vxcore._fast.c_net cimport AF_INET, AF_INET6, iovec
from vxcore._fast.c_wire cimport vx_vnet
from vxcore._fast.port cimport *
from vxcore._fast.verdict cimport *

cdef enum:
    BLOCK_LEN = 1 << 18      # of records, written at once
    TICK_NS = 200000000      # what has come is in the file so long after at the latest
    RETRY_NS = 1000000000    # after an error
    MAX_NAME = 64
    MAX_PART = 72            # and .part
    NAME_TRIES = 1000
    FILE_MODE = 0o640
    # pcapng (draft-ietf-opsawg-pcapng, section 4.3): an enhanced packet block, and its options
    BLOCK_PACKET = 6
    HEADER_LEN = 28
    OPTION_COMMENT = 1
    OPTION_LEN = 4           # of an option's head, and of the option that ends them
    MAX_COMMENT = 80         # "vni=16777215 vtep=" and an address of 45 characters
    V4_OFF = 12              # an IPv4 address in one of 16 bytes

cdef uint64_t NS_PER_S = 1000000000


cdef struct State:
    Overlay *port
    Origin origin
    uint8_t *block
    size_t used              # of it
    uint64_t n_used          # records there
    int directory, told, file
    uint64_t file_len, max_len, began_ns, max_ns, retry_ns
    uint64_t number, step    # of file names: lanes take turns
    uint64_t n_files
    int error                # errno of why nothing is written; 0: it is
    uint32_t snap_len
    const uint8_t *header    # what a file begins with
    size_t header_len
    uint32_t options_len     # of the options of `vni` and `vtep`, which are kept
    uint32_t vni
    uint8_t vtep[16]
    uint8_t options[96]
    char name[64]
    char part[72]


cdef class PcapngPort(OverlayPort):
    """The files of one lane in `directory`, a descriptor that the caller keeps open.

    `header` is what each file begins with: a section and an interface whose time stamps are nanoseconds. A
    file ends before it has more than `max_len` bytes, and `max_s` seconds after it began (0: never), if there
    is a record in it. Frames are cut to `snap_len` bytes. `place` is a number and how many there are: of the
    lanes that write to one directory. The eventfd `told` is written to when a file is complete, or `error`
    changes. Raises OSError when the first file cannot be begun.
    """

    cdef State s
    cdef bytes _header

    def __cinit__(self):
        self.s.file = self.port.fd = -1
        self.s.block = <uint8_t *>malloc(BLOCK_LEN)
        if not self.s.block:
            raise MemoryError("no memory for a port")

    def __init__(self, name: str, directory: int, told: int, header: bytes, segment: int, mtu: int,
                 place: tuple[int, int], *, max_len: int = 0, max_s: int = 0, snap_len: int = 262144):
        self.name, self._header = name, header
        self.s.header, self.s.header_len = self._header, len(header)
        self.s.directory, self.s.told = directory, told
        self.s.number, self.s.step = place
        self.s.max_len, self.s.max_ns, self.s.snap_len = max_len, NS_PER_S * <uint64_t>max_s, snap_len
        self.s.port, self.s.options_len = &self.port, 0
        self.port.state, self.port.mtu, self.port.segment = &self.s, mtu, segment
        self.port.origin = &self.s.origin
        self.port.receive, self.port.send, self.port.flush = receive, send, flush
        self.port.fd = timer()
        if not begin(&self.s):
            raise OSError(self.s.error, f"{name}: {os.strerror(self.s.error)}")

    def __dealloc__(self):
        if self.s.file >= 0:
            close(self.s.file)
        if self.port.fd >= 0:
            close(self.port.fd)
        free(self.s.block)

    def close(self) -> None:
        """Write what is there and complete the file; when the lane has ended."""
        with nogil:
            end(&self.s)

    @property
    def error(self) -> int:
        """The errno with which writing failed, and that is why nothing is written now; else 0."""
        return self.s.error

    @property
    def n_files(self) -> int:
        """How many files are complete."""
        return self.s.n_files


cdef int timer() except -1:
    """A descriptor that is readable every TICK_NS."""
    cdef itimerspec every
    cdef int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)
    every.it_interval.tv_sec, every.it_interval.tv_nsec = 0, TICK_NS
    every.it_value = every.it_interval
    if fd < 0 or timerfd_settime(fd, 0, &every, NULL) < 0:
        raise OSError(errno, f"timer: {os.strerror(errno)}")
    return fd


cdef inline uint64_t now_ns(int clock) noexcept nogil:
    cdef timespec now
    clock_gettime(clock, &now)
    return <uint64_t>now.tv_sec * NS_PER_S + <uint64_t>now.tv_nsec


# -- what the lane calls ----------------------------------------------------------------------------


cdef int receive(void *state, Frame *out, uint32_t max, uint32_t budget) noexcept nogil:
    """There are never frames; it is the timer that woke the lane."""
    cdef State *s = <State *>state
    cdef uint64_t n_ticks
    if read(s.port.fd, &n_ticks, sizeof(n_ticks)) != sizeof(n_ticks):
        return 0
    if s.used:
        write_out(s)
    if (s.max_ns and s.file >= 0 and s.file_len > s.header_len
            and now_ns(CLOCK_MONOTONIC) - s.began_ns >= s.max_ns):
        end(s)
    return 0


cdef void send(void *state, iovec *parts, uint32_t n, const vx_vnet *vnet,
               uint32_t n_packets) noexcept nogil:
    cdef State *s = <State *>state
    cdef uint32_t i, length = 0, kept
    cdef size_t record_len
    for i in range(1, n):
        length += <uint32_t>parts[i].iov_len
    kept = min(length, s.snap_len)
    describe_origin(s)
    record_len = HEADER_LEN + padded(kept) + s.options_len + 4
    if record_len > BLOCK_LEN or not make_room(s, record_len):
        count(s.port.tally, NOT_WRITTEN, 1)
        return
    put_record(s, parts, kept, length, <uint32_t>record_len)


cdef void flush(void *state) noexcept nogil:
    """Records are copies: nothing here is where it was received."""


# -- records ----------------------------------------------------------------------------------------


cdef inline uint32_t padded(uint32_t length) noexcept nogil:
    return (length + 3) & ~<uint32_t>3


cdef inline void describe_origin(State *s) noexcept nogil:
    """The options of the next record; most often those of the last."""
    if s.options_len and s.origin.vni == s.vni and memcmp(s.origin.vtep, s.vtep, sizeof(s.vtep)) == 0:
        return
    s.vni = s.origin.vni
    memcpy(s.vtep, s.origin.vtep, sizeof(s.vtep))
    s.options_len = put_options(s.options, s.vni, s.vtep)


cdef uint32_t put_options(uint8_t *out, uint32_t vni, const uint8_t *vtep) noexcept nogil:
    """A comment such as ``vni=42 vtep=192.0.2.1``, and the end of options; their length."""
    cdef char address[46]
    cdef uint8_t mapped[12]
    cdef uint32_t length
    memset(mapped, 0, sizeof(mapped))
    mapped[10] = mapped[11] = 0xFF
    memset(out, 0, OPTION_LEN + MAX_COMMENT + OPTION_LEN)
    if memcmp(vtep, mapped, sizeof(mapped)) == 0:
        inet_ntop(AF_INET, vtep + V4_OFF, address, sizeof(address))
    else:
        inet_ntop(AF_INET6, vtep, address, sizeof(address))
    length = snprintf(<char *>out + OPTION_LEN, MAX_COMMENT, b"vni=%u vtep=%s", <unsigned int>vni, address)
    memset(out + OPTION_LEN + length, 0, 4)
    vx_store16_raw(out, OPTION_COMMENT)
    vx_store16_raw(out + 2, <unsigned short>length)
    return OPTION_LEN + padded(length) + OPTION_LEN


cdef inline void put_record(State *s, const iovec *parts, uint32_t kept, uint32_t length,
                            uint32_t record_len) noexcept nogil:
    """`kept` bytes of a frame in parts[1 ..] that has `length`."""
    cdef uint8_t *at = s.block + s.used
    cdef uint64_t stamp = now_ns(CLOCK_REALTIME)
    cdef uint32_t take, left = kept
    vx_store32_raw(at, BLOCK_PACKET)
    vx_store32_raw(at + 4, record_len)
    vx_store32_raw(at + 8, 0)
    vx_store32_raw(at + 12, <uint32_t>(stamp >> 32))
    vx_store32_raw(at + 16, <uint32_t>stamp)
    vx_store32_raw(at + 20, kept)
    vx_store32_raw(at + 24, length)
    at += HEADER_LEN
    while left:
        parts += 1
        take = min(<uint32_t>parts.iov_len, left)
        memcpy(at, <const void *>parts.iov_base, take)
        at += take
        left -= take
    memset(at, 0, padded(kept) - kept)
    at += padded(kept) - kept
    memcpy(at, s.options, s.options_len)
    vx_store32_raw(at + s.options_len, record_len)
    s.used += record_len
    s.n_used += 1


cdef bint make_room(State *s, size_t record_len) noexcept nogil:
    """A file with room for one more record, and room in the block."""
    cdef uint64_t length = s.file_len + s.used
    if s.file >= 0 and s.max_len and length + record_len > s.max_len and length > s.header_len:
        end(s)
    if s.file < 0 and not begin(s):
        return False
    return s.used + record_len <= BLOCK_LEN or write_out(s)


# -- files ------------------------------------------------------------------------------------------


cdef bint begin(State *s) noexcept nogil:
    """Open the next file, unless an error is too young."""
    cdef uint64_t now = now_ns(CLOCK_MONOTONIC)
    cdef ssize_t n_written
    cdef int error
    if s.error and now < s.retry_ns:
        return False
    error = open_next(s)
    if error:
        fail(s, error)
        return False
    flock(s.file, LOCK_EX | LOCK_NB)  # so that it is not taken for what a dead process left
    s.file_len, s.began_ns = s.header_len, now
    n_written = write(s.file, s.header, s.header_len)
    if n_written != <ssize_t>s.header_len:
        fail(s, errno if n_written < 0 else ENOSPC)
        complete(s)
        return False
    if s.error:
        s.error = 0
        tell(s)
    return True


cdef int open_next(State *s) noexcept nogil:
    """Under the first name that is not taken, beginning with the time (UTC); 0, or an errno."""
    cdef int _try
    for _try in range(NAME_TRIES):
        put_names(s)
        s.number += s.step
        if faccessat(s.directory, s.name, F_OK, 0) == 0:
            continue
        s.file = openat(s.directory, s.part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, FILE_MODE)
        if s.file >= 0:
            return 0
        if errno != EEXIST:
            return errno
    return EEXIST


cdef void put_names(State *s) noexcept nogil:
    cdef timespec now
    cdef tm parts
    cdef char when[32]
    clock_gettime(CLOCK_REALTIME, &now)
    gmtime_r(&now.tv_sec, &parts)
    strftime(when, sizeof(when), b"%Y%m%d-%H%M%S", &parts)
    snprintf(s.name, MAX_NAME, b"collect-%s-%06llu.pcapng", when, <unsigned long long>s.number)
    snprintf(s.part, MAX_PART, b"%s.part", s.name)


cdef bint write_out(State *s) noexcept nogil:
    """Write the block's records; if that fails, as many as go, and the file is complete."""
    cdef size_t done = 0
    cdef ssize_t n
    while done < s.used:
        n = write(s.file, s.block + done, s.used - done)
        if n > 0:
            done += n
        elif n == 0 or errno != EINTR:
            cut_back(s, done, errno if n < 0 else ENOSPC)
            return False
    count(s.port.tally, DELIVERED, s.n_used)
    s.file_len += s.used
    s.used = s.n_used = 0
    return True


cdef void cut_back(State *s, size_t done, int error) noexcept nogil:
    """Only `done` bytes of the block are in the file: end it behind the last whole record, and count."""
    cdef size_t at = 0
    cdef uint64_t n = 0
    while n < s.n_used and at + vx_load32_raw(s.block + at + 4) <= done:
        at += vx_load32_raw(s.block + at + 4)
        n += 1
    s.file_len += at
    ftruncate(s.file, <int64_t>s.file_len)
    count(s.port.tally, DELIVERED, n)
    count(s.port.tally, NOT_WRITTEN, s.n_used - n)
    s.used = s.n_used = 0
    fail(s, error)
    complete(s)


cdef void fail(State *s, int error) noexcept nogil:
    """Nothing is written for a while."""
    s.retry_ns = now_ns(CLOCK_MONOTONIC) + RETRY_NS
    if s.error != error:
        s.error = error
        tell(s)


cdef void end(State *s) noexcept nogil:
    """Write what is there and complete the file."""
    if s.file >= 0 and (s.used == 0 or write_out(s)):
        complete(s)


cdef void complete(State *s) noexcept nogil:
    """Close the file and give it its name; one without a record is not kept."""
    if s.file_len > s.header_len:
        renameat(s.directory, s.part, s.directory, s.name)
        s.n_files += 1
    else:
        unlinkat(s.directory, s.part, 0)
    close(s.file)
    s.file = -1
    tell(s)


cdef inline void tell(State *s) noexcept nogil:
    cdef uint64_t one = 1
    write(s.told, &one, sizeof(one))
