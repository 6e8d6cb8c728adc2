# The stamp of a generated frame: the start of its UDP payload, in network order, and what fills the rest.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from posix.time cimport timespec

from vxcore._fast.c_bytes cimport vx_load16, vx_load32, vx_load48, vx_load64
from vxcore._fast.c_time cimport clock_gettime

cdef enum:
    STAMP_MAGIC = 0x7658     # "vX"
    RUN_AT = 2               # 16 bits: which run of a sender
    STREAM_AT = 4            # 32 bits
    SEQUENCE_AT = 8          # 64 bits
    TIME_AT = 16             # the low 48 bits of the time of sending in nanoseconds, which last for 78 hours
    STAMP_LEN = 22
    HEADERS_LEN = 42         # Ethernet, IPv4 and UDP in front of it
    HEAD_LEN = 50            # these, and the stamp up to the sequence number: what stays alike in a stream
    MIN_FRAME = 64           # HEADERS_LEN + STAMP_LEN
    MAX_FRAME = 9216
    FILLER_LEN = 9152        # MAX_FRAME - MIN_FRAME

# The bytes behind the stamp of every frame, as many as it has room for.
cdef const uint8_t *filler() noexcept nogil


cdef struct Stamp:
    uint16_t run
    uint32_t stream
    uint64_t sequence
    uint64_t time


cdef inline bint read_stamp(const uint8_t *payload, uint32_t length, Stamp *out) noexcept nogil:
    """Whether a UDP payload begins with a stamp; then what it says."""
    if length < STAMP_LEN or vx_load16(payload) != STAMP_MAGIC:
        return False
    out.run, out.stream = vx_load16(payload + RUN_AT), vx_load32(payload + STREAM_AT)
    out.sequence, out.time = vx_load64(payload + SEQUENCE_AT), vx_load48(payload + TIME_AT)
    return True


cdef inline int64_t latency_of(uint64_t stamped, int64_t now) noexcept nogil:
    """Nanoseconds since a stamp's time; negative when it is in the future, as of another clock."""
    return <int64_t>((<uint64_t>now - stamped) << 16) >> 16


cdef inline int64_t time_of(int clock) noexcept nogil:
    """What a clock of the kernel says, in nanoseconds."""
    cdef timespec now
    clock_gettime(clock, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec
