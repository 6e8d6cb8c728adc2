# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What loads and times the data path, compiled so that it is not what is measured.

Place in the house: built by load.py alone at each run, never part of the package; memory comes as bytearrays,
for the code of Cython's memoryviews would take longer to compile than all else here. Each function takes a socket that
its caller opened in some namespace, and runs without the GIL in the caller's thread until its time is over
or `stop[0]` is set.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    struct sockaddr:
        pass
    struct sockaddr_storage:
        pass
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    int sendmmsg(int fd, mmsghdr *msgs, unsigned int n, int flags)
    ssize_t send(int fd, const void *data, size_t n, int flags)
    ssize_t recv(int fd, void *data, size_t n, int flags)
    ssize_t recvfrom(int fd, void *data, size_t n, int flags, sockaddr *name, socklen_t *name_len)
    ssize_t sendto(int fd, const void *data, size_t n, int flags, const sockaddr *name, socklen_t name_len)

cdef enum:
    BURST = 64
    DATAGRAM_LEN = 2048


cdef inline int64_t now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec


def blast(int fd, frames, double rate, bytearray stop not None):
    """Send the frames over and over, `rate` of them in a second (0: as many as go out).

    Returns (frames offered, frames that the socket refused). A packet socket that bypasses the queueing
    discipline refuses with ENOBUFS what the device dropped.
    """
    cdef uint32_t n_frames = len(frames), n_ring, i
    cdef uint32_t burst = BURST
    cdef iovec *iov
    cdef mmsghdr *msgs
    cdef const uint8_t *stopped = stop
    cdef int64_t offered = 0, refused = 0
    if rate:  # a burst every 250 us, as a NIC that gathers would bring them; a full one from 256,000 a second on
        burst = max(<uint32_t>1, min(<uint32_t>BURST, <uint32_t>(rate / 4000)))
    # A ring of whole rounds that is at least a burst long, and its first burst again behind its end.
    n_ring = n_frames * ((BURST + n_frames - 1) // n_frames)
    iov = <iovec *>calloc(n_ring + BURST, sizeof(iovec))
    msgs = <mmsghdr *>calloc(n_ring + BURST, sizeof(mmsghdr))
    if not iov or not msgs:
        free(iov)
        free(msgs)
        raise MemoryError("no memory for the frames")
    for i in range(n_ring + BURST):
        frame = <bytes?>frames[i % n_frames]
        iov[i].iov_base, iov[i].iov_len = <void *><const uint8_t *>frame, len(frame)
        msgs[i].msg_hdr.msg_iov, msgs[i].msg_hdr.msg_iovlen = &iov[i], 1
    with nogil:
        _blast(fd, msgs, n_ring, burst, rate, stopped, &offered, &refused)
    free(iov)
    free(msgs)
    return offered, refused


cdef void _blast(int fd, mmsghdr *msgs, uint32_t n_ring, uint32_t burst, double rate, const uint8_t *stop,
                 int64_t *offered, int64_t *refused) noexcept nogil:
    cdef int64_t start = now_ns()
    cdef int64_t now = start
    cdef uint32_t at = 0
    cdef int sent
    while not (<const volatile uint8_t *>stop)[0]:
        if rate == 0 or offered[0] * 1e9 <= (now - start) * rate:
            sent = sendmmsg(fd, msgs + at, burst, 0)
            if sent < 0 and errno != EINTR:
                refused[0] += 1
                sent = 1
            if sent > 0:
                offered[0] += sent
                at = (at + sent) % n_ring
        now = now_ns()


def echo(int fd, bytearray stop not None):
    """Send every datagram back to where it came from. The socket has a receive timeout, to see `stop`."""
    cdef const uint8_t *stopped = stop
    cdef uint8_t data[DATAGRAM_LEN]
    cdef sockaddr_storage name
    cdef socklen_t name_len
    cdef ssize_t n
    with nogil:
        while not (<const volatile uint8_t *>stopped)[0]:
            name_len = sizeof(sockaddr_storage)
            n = recvfrom(fd, data, DATAGRAM_LEN, 0, <sockaddr *>&name, &name_len)
            if n > 0:
                sendto(fd, data, n, 0, <sockaddr *>&name, name_len)


def round_trips(int fd, bytearray datagram not None, bytearray out not None, double seconds):
    """Time datagrams over a connected socket, one after another: nanoseconds into `out`, as int64.

    A datagram is numbered in its first eight bytes, and its answer compared whole. What is not
    answered within the socket's receive timeout is -1. Returns how many were sent.
    """
    cdef uint8_t answer[DATAGRAM_LEN]
    cdef uint8_t *data = datagram
    cdef int64_t *times = <int64_t *><uint8_t *>out
    cdef Py_ssize_t i = 0, n = len(datagram), n_times = len(out) // 8
    cdef int64_t start, end = now_ns() + <int64_t>(seconds * 1e9)
    if not 8 <= n <= DATAGRAM_LEN:
        raise ValueError(f"a datagram of {n} bytes")
    with nogil:
        while i < n_times:
            start = now_ns()
            if start > end:
                break
            (<int64_t *>data)[0] = i
            send(fd, data, n, 0)
            times[i] = -1
            while recv(fd, answer, DATAGRAM_LEN, 0) == n:
                if memcmp(answer, data, n) == 0:
                    times[i] = now_ns() - start
                    break  # else an answer that came too late
            i += 1
    return i
