"""AF_XDP sockets: packets of one queue of a device, in memory that we share with the kernel.

Place in the house: under both XDP ports; above port. Set up by bare system calls, as
Documentation/networking/af_xdp.rst of Linux has it. Half of the chunks are for receiving: they go round by
the rings fill -> rx -> us -> fill. The others are for sending: we -> tx -> done -> us.
"""

from libc.errno cimport EAFNOSUPPORT, EINVAL, ENETDOWN, ENOBUFS, ENXIO, EPERM, errno
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.mman cimport (
    MAP_FAILED, MAP_POPULATE, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap,
)
from posix.unistd cimport close

import os

from vxcore._fast.c_atomic cimport vx_load_acquire
from vxcore._fast.c_net cimport poll
from vxcore._fast.c_xsk cimport *
from vxcore._fast.port cimport MAX_BURST, SLOT_LEN

from vxcore.errors import UnsupportedError

cdef enum:
    SEND_BUFFER = 4 << 20
    MAX_WAITS = 10           # milliseconds that a full send queue may hold the lane before it drops


cdef class XskSocket:
    """An AF_XDP socket bound to one queue of a device, ready to send; a program decides what it receives.

    `zero_copy` binds for packets that the device puts into our memory and takes from there; without it the
    kernel copies them. Raises PermissionError, UnsupportedError without AF_XDP in the kernel, OSError with
    what the kernel says to the binding: EOPNOTSUPP or EINVAL for want of zero copy or of such a queue,
    EBUSY when the queue has another such socket. ``close`` ends it; ports that use it have ended before.
    `handed` are the descriptors of such a socket, and of its memory, from another process; then there is
    nothing to bind, and it is of use after ``resume``.
    """

    def __cinit__(self):
        self.x.fd = self.x.memory_fd = -1

    def __init__(self, device: str, ifindex: int, queue: int, zero_copy: bool, handed: tuple[int, int] = ()):
        self.name = f"{device} queue {queue}"
        self.x.copies = not zero_copy
        try:
            if handed:
                self.x.fd, self.x.memory_fd = handed
                self._map_chunks()
                self._map_rings()
                return
            self._open()
            self._register()
            self._make_rings()
            self._bind(ifindex, queue, XDP_ZEROCOPY if zero_copy else XDP_COPY)
        except BaseException:
            self.close()
            raise
        self._provide()

    def __dealloc__(self):
        end(&self.x)

    def close(self) -> None:
        """Give the queue and the memory back."""
        end(&self.x)

    def fileno(self) -> int:
        """The socket's descriptor; -1 when closed."""
        return self.x.fd

    @property
    def memory(self) -> int:
        """The descriptor of the memory for packets."""
        return self.x.memory_fd

    def rest(self) -> bytes:
        """Give the chunks of what was received back; which chunks nobody uses, for ``resume``."""
        xsk_receive(&self.x)
        take_back(&self.x)
        return (<char *>self.x.free)[: self.x.n_free * sizeof(uint64_t)]

    def resume(self, free_chunks: bytes) -> None:
        """Go on where it came to rest, with the chunks that nobody uses. Raises ValueError."""
        cdef Xsk *x = &self.x
        n = len(free_chunks) // sizeof(uint64_t)
        if n > N_CHUNKS or len(free_chunks) % sizeof(uint64_t):
            raise ValueError(f"{self.name}: {len(free_chunks)} bytes that name {N_CHUNKS} chunks at the most")
        memcpy(x.free, <const char *>free_chunks, len(free_chunks))
        for i in range(n):
            if x.free[i] >= x.memory_len or x.free[i] % CHUNK_LEN:
                raise ValueError(f"{self.name}: there is no chunk {x.free[i]:#x}")
        x.n_free, x.n_held = n, 0
        x.fill.mine, x.tx.mine = vx_load_acquire(x.fill.producer), vx_load_acquire(x.tx.producer)
        x.tx.theirs = vx_load_acquire(x.tx.consumer)
        x.rx.mine = x.rx.theirs = vx_load_acquire(x.rx.consumer)
        x.done.mine = x.done.theirs = vx_load_acquire(x.done.consumer)

    @property
    def zero_copy(self) -> bool:
        """Whether the device itself reads and writes our memory."""
        return not self.x.copies

    def overruns(self) -> int:
        """Packets that found no chunk to be received into since the start, or were longer than one."""
        cdef xdp_statistics found
        cdef unsigned int length = sizeof(found)
        memset(&found, 0, sizeof(found))
        if self.x.fd < 0 or getsockopt(self.x.fd, SOL_XDP, XDP_STATISTICS, &found, &length) < 0:
            return 0
        return found.rx_dropped + found.rx_ring_full

    def _failed(self, what: str) -> OSError:
        if errno == EPERM:
            return PermissionError(EPERM, f"{self.name}: no permission for AF_XDP: {what};"
                                   " root or CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF are needed")
        if errno == ENOBUFS:
            return OSError(ENOBUFS, f"{self.name}: AF_XDP: {what}: too little memory may be locked;"
                           " raise it (`ulimit -l unlimited`)")
        return OSError(errno, f"{self.name}: AF_XDP: {what}: {os.strerror(errno)}")

    def _open(self) -> None:
        self.x.fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0)
        if self.x.fd < 0 and errno == EAFNOSUPPORT:
            raise UnsupportedError(
                f"{self.name}: Linux {os.uname().release} was built without AF_XDP (CONFIG_XDP_SOCKETS)")
        if self.x.fd < 0:
            raise self._failed("opening a socket")

    def _map_chunks(self) -> None:
        cdef void *memory = mmap(NULL, 2 * N_CHUNKS * CHUNK_LEN, PROT_READ | PROT_WRITE,
                                 MAP_SHARED | MAP_POPULATE, self.x.memory_fd, 0)
        if memory == MAP_FAILED:
            raise self._failed("memory for packets")
        self.x.memory, self.x.memory_len = <uint8_t *>memory, 2 * N_CHUNKS * CHUNK_LEN

    def _register(self) -> None:
        """Memory for all chunks, which another process can be given (memfd_create, Linux 3.17)."""
        cdef xdp_umem_reg request
        cdef int buffer_len = SEND_BUFFER
        self.x.memory_fd = os.memfd_create("vxcore-xdp", os.MFD_CLOEXEC)
        os.ftruncate(self.x.memory_fd, 2 * N_CHUNKS * CHUNK_LEN)
        self._map_chunks()
        memset(&request, 0, sizeof(request))
        request.addr, request.len, request.chunk_size = <uint64_t>self.x.memory, self.x.memory_len, CHUNK_LEN
        if setsockopt(self.x.fd, SOL_XDP, XDP_UMEM_REG, &request, sizeof(request)) < 0:
            raise self._failed("registering memory for packets")
        setsockopt(self.x.fd, SOL_SOCKET, SO_SNDBUFFORCE, &buffer_len, sizeof(buffer_len))

    def _make_rings(self) -> None:
        cdef int32_t n = N_CHUNKS
        for option in (XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING, XDP_RX_RING, XDP_TX_RING):
            if setsockopt(self.x.fd, SOL_XDP, option, &n, sizeof(n)) < 0:
                raise self._failed("setting up rings")
        # One call sends no more packets than this, 32 by default; before Linux 6.17 it stays at that.
        setsockopt(self.x.fd, SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &n, sizeof(n))
        self._map_rings()

    def _map_rings(self) -> None:
        cdef xdp_mmap_offsets at
        cdef unsigned int length = sizeof(at)
        if getsockopt(self.x.fd, SOL_XDP, XDP_MMAP_OFFSETS, &at, &length) < 0 or length != sizeof(at):
            raise self._failed("mapping rings")
        if not (map_ring(self.x.fd, &self.x.rx, &at.rx, XDP_PGOFF_RX_RING, sizeof(xdp_desc))
                and map_ring(self.x.fd, &self.x.tx, &at.tx, XDP_PGOFF_TX_RING, sizeof(xdp_desc))
                and map_ring(self.x.fd, &self.x.fill, &at.fr, XDP_UMEM_PGOFF_FILL_RING, sizeof(uint64_t))
                and map_ring(self.x.fd, &self.x.done, &at.cr, XDP_UMEM_PGOFF_COMPLETION_RING,
                             sizeof(uint64_t))):
            raise self._failed("mapping rings")

    def _bind(self, ifindex: int, queue: int, how: int) -> None:
        """With large packets in several chunks where they are copied: a driver can hand on super-frames."""
        cdef sockaddr_xdp name
        memset(&name, 0, sizeof(name))
        name.sxdp_family, name.sxdp_ifindex, name.sxdp_queue_id = AF_XDP, ifindex, queue
        name.sxdp_flags = <uint16_t>(how | XDP_USE_NEED_WAKEUP | (XDP_USE_SG if how == XDP_COPY else 0))
        if bind(self.x.fd, <sockaddr *>&name, sizeof(name)) == 0:
            return
        name.sxdp_flags &= ~XDP_USE_SG
        if errno != EINVAL or bind(self.x.fd, <sockaddr *>&name, sizeof(name)) < 0:
            raise self._failed("binding")

    def _provide(self) -> None:
        """One half of the chunks to the kernel, the other for us to send from."""
        cdef uint64_t i
        for i in range(<uint64_t>N_CHUNKS):
            chunk_at(&self.x.fill)[0] = i * CHUNK_LEN
            self.x.fill.mine += 1
            self.x.free[i] = (2 * N_CHUNKS - 1 - i) * CHUNK_LEN
        self.x.n_free = N_CHUNKS
        ring_added(&self.x.fill)
        wake_receiver(&self.x)


cdef bint map_ring(int fd, Ring *r, const xdp_ring_offset *at, uint64_t offset, size_t entry_len) noexcept:
    cdef size_t length = at.desc + N_CHUNKS * entry_len
    cdef uint8_t *memory = <uint8_t *>mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                                           fd, <long>offset)
    if <void *>memory == MAP_FAILED:
        return False
    r.memory, r.memory_len, r.mask = memory, length, N_CHUNKS - 1
    r.producer, r.consumer = <uint32_t *>(memory + at.producer), <uint32_t *>(memory + at.consumer)
    r.flags, r.entries = <uint32_t *>(memory + at.flags), memory + at.desc
    return True


cdef void unmap_ring(Ring *r) noexcept:
    if r.memory != NULL:
        munmap(r.memory, r.memory_len)
        r.memory = NULL


cdef void end(Xsk *x) noexcept:
    unmap_ring(&x.rx)
    unmap_ring(&x.tx)
    unmap_ring(&x.fill)
    unmap_ring(&x.done)
    if x.fd >= 0:
        close(x.fd)
        x.fd = -1
    if x.memory_fd >= 0:
        close(x.memory_fd)
        x.memory_fd = -1
    if x.memory != NULL:
        munmap(x.memory, x.memory_len)
        x.memory = NULL


# -- receiving --------------------------------------------------------------------------------------


cdef void xsk_receive(Xsk *x) noexcept nogil:
    cdef uint32_t i
    for i in range(x.n_held):
        chunk_at(&x.fill)[0] = x.held[i]
        x.fill.mine += 1
    if x.n_held:
        ring_added(&x.fill)
        wake_receiver(x)
    x.n_held = 0
    x.burst_end = x.rx.mine + min(<uint32_t>MAX_BURST, ring_ready(&x.rx))


cdef uint8_t *gather(Xsk *x, uint8_t *room, uint32_t *length) noexcept nogil:
    """Put a packet in several chunks together; they are given back at once. The kernel shows all or none."""
    cdef uint32_t n_bytes = 0, options = XDP_PKT_CONTD
    cdef xdp_desc *part
    while options & XDP_PKT_CONTD and x.rx.mine != x.rx.theirs:
        part = packet_at(&x.rx)
        options = part.options
        if n_bytes + part.len <= SLOT_LEN:
            memcpy(room + n_bytes, x.memory + part.addr, part.len)
            n_bytes += part.len
        chunk_at(&x.fill)[0] = chunk_of(part.addr)
        x.fill.mine += 1
        x.rx.mine += 1
    ring_added(&x.fill)
    length[0] = n_bytes
    return room


cdef inline void wake_receiver(Xsk *x) noexcept nogil:
    """A driver that ran out of chunks sleeps until it is told that there are some again."""
    if vx_load_acquire(x.fill.flags) & XDP_RING_NEED_WAKEUP:
        recvfrom(x.fd, NULL, 0, MSG_DONTWAIT, NULL, NULL)


# -- sending ----------------------------------------------------------------------------------------


cdef uint8_t *xsk_chunk(Xsk *x) noexcept nogil:
    if x.n_free == 0 and not take_back(x):
        ring_added(&x.tx)
        while wake_sender(x) and not take_back(x) and wait_once(x):
            pass
    if x.n_free == 0:
        return NULL
    x.n_free -= 1
    return x.memory + x.free[x.n_free]


cdef inline bint wait_once(Xsk *x) noexcept nogil:
    """For a moment; False when the lane was held long enough."""
    if x.n_waits == MAX_WAITS:
        return False
    x.n_waits += 1
    poll(NULL, 0, 1)
    return True


cdef bint take_back(Xsk *x) noexcept nogil:
    """The chunks of which the kernel is done; whether there were any."""
    cdef uint32_t n = ring_ready(&x.done), _chunk
    for _chunk in range(n):
        x.free[x.n_free] = chunk_of(chunk_at(&x.done)[0])
        x.n_free += 1
        x.done.mine += 1
    if n:
        ring_taken(&x.done)
    return n != 0


cdef uint32_t xsk_flush(Xsk *x) noexcept nogil:
    """In copy mode the kernel sends when it is called, so many packets in a call, until none is left."""
    cdef uint32_t before, n_unsent = 0
    if x.tx.theirs == x.tx.mine:
        return 0
    ring_added(&x.tx)
    while wake_sender(x) and x.copies:
        before = x.tx.theirs
        x.tx.theirs = vx_load_acquire(x.tx.consumer)
        if x.tx.theirs == x.tx.mine or (x.tx.theirs == before and not wait_once(x)):
            break
    if x.tx.theirs != x.tx.mine and x.copies:
        n_unsent = take_unsent(x)
    take_back(x)
    x.n_waits = 0
    return n_unsent


cdef inline bint wake_sender(Xsk *x) noexcept nogil:
    """Let the kernel send; False when the device is down or gone, or need not be told."""
    if not vx_load_acquire(x.tx.flags) & XDP_RING_NEED_WAKEUP:
        return False
    x.down = sendto(x.fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 and (errno == ENETDOWN or errno == ENXIO)
    return not x.down


cdef uint32_t take_unsent(Xsk *x) noexcept nogil:
    """What the kernel has not looked at yet and will not until it is called: nobody wants it later."""
    cdef uint32_t n
    x.tx.theirs = vx_load_acquire(x.tx.consumer)
    n = x.tx.mine - x.tx.theirs
    while x.tx.mine != x.tx.theirs:
        x.tx.mine -= 1
        x.free[x.n_free] = chunk_of(packet_at(&x.tx).addr)
        x.n_free += 1
    ring_added(&x.tx)
    return n


# -- bpf --------------------------------------------------------------------------------------------


def bpf(command: int, attributes) -> int:
    """bpf(2): the result of a command; `attributes` is a bytearray, the start of a union bpf_attr.

    What the command answers in it is there afterwards. Raises OSError with the kernel's errno alone.
    """
    cdef uint8_t[::1] view = attributes
    cdef long result = vx_bpf(command, &view[0], <unsigned int>view.shape[0])
    if result < 0:
        raise OSError(errno, os.strerror(errno))
    return result


# -- for tests --------------------------------------------------------------------------------------


def passed_through(numbers, size: int, start: int) -> list[int]:
    """What comes out of a ring of `size` entries, a power of two, when both sides begin at index `start`.

    Numbers are added until the ring is full, and then all taken out.
    """
    cdef uint32_t shared[3]
    cdef Ring one, other
    cdef list out = []
    memset(&one, 0, sizeof(Ring))
    shared[0] = shared[1] = one.mine = one.theirs = <uint32_t>start
    one.producer, one.consumer, one.mask = &shared[0], &shared[1], <uint32_t>size - 1
    one.entries = calloc(size, sizeof(uint64_t))
    other = one
    for number in [*numbers, None]:
        if number is None or one.mine - vx_load_acquire(one.consumer) == <uint32_t>size:
            ring_added(&one)
            while ring_ready(&other):
                out.append(chunk_at(&other)[0])
                other.mine += 1
            ring_taken(&other)
        if number is not None:
            chunk_at(&one)[0] = number
            one.mine += 1
    free(one.entries)
    return out
