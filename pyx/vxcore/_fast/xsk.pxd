# An AF_XDP socket of one queue of a device: its memory, in chunks of a page, and four rings of them that
# it shares with the kernel. The lane that uses it is the only one on our side of them.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from vxcore._fast.c_atomic cimport vx_load_acquire, vx_store_release
from vxcore._fast.c_wire cimport VX_ETH_LEN, VX_TAG_LEN
from vxcore._fast.c_xsk cimport XDP_PKT_CONTD, xdp_desc

cdef enum:
    CHUNK_LEN = 4096
    KERNEL_ROOM = 256        # XDP_PACKET_HEADROOM: in front of what is received; ours, once we have it
    MAX_RECEIVED = CHUNK_LEN - KERNEL_ROOM
    MAX_MTU = MAX_RECEIVED - VX_ETH_LEN - VX_TAG_LEN
    OUTER_ROOM = 64          # in front of the VXLAN header of what is sent: outer ones have at most 62 bytes
    N_CHUNKS = 2048          # to receive into, and as many to send from


# A ring. Each side adds to an index of its own and reads the other's, modulo 2**32; entries are found by
# their lowest bits. There are as many entries as chunks that can be in it, so that it never overflows.
cdef struct Ring:
    uint32_t *producer
    uint32_t *consumer
    uint32_t *flags
    void *entries
    uint32_t mask
    uint32_t mine            # our side's index, which may be ahead of what the other side was told
    uint32_t theirs          # the other side's, as it was read last
    void *memory
    size_t memory_len


cdef struct Xsk:
    int fd, memory_fd
    bint copies              # the kernel copies packets, when it is called
    bint down                # the device was, or was gone, when the kernel was called last
    uint8_t *memory
    size_t memory_len
    Ring rx, tx, fill, done
    uint64_t held[64]        # chunks received, which the lane still uses
    uint32_t n_held
    uint32_t burst_end       # in rx
    uint64_t free[2048]      # chunks to send from; the last one is used first
    uint32_t n_free
    uint32_t n_waits         # milliseconds that the lane waited in this burst for the kernel to send


cdef class XskSocket:
    cdef Xsk x
    cdef readonly object name


# -- rings ----------------------------------------------------------------------------------------

cdef inline uint32_t ring_ready(Ring *r) noexcept nogil:
    """Of a ring that we take from: how many entries there are. The other side is asked if none is known."""
    if r.theirs == r.mine:
        r.theirs = vx_load_acquire(r.producer)
    return r.theirs - r.mine


cdef inline void ring_taken(Ring *r) noexcept nogil:
    """Give the entries that were taken back."""
    vx_store_release(r.consumer, r.mine)


cdef inline void ring_added(Ring *r) noexcept nogil:
    """Show the entries that were added."""
    vx_store_release(r.producer, r.mine)


cdef inline xdp_desc *packet_at(Ring *r) noexcept nogil:
    """The next entry of rx or tx."""
    return &(<xdp_desc *>r.entries)[r.mine & r.mask]


cdef inline uint64_t *chunk_at(Ring *r) noexcept nogil:
    """The next entry of fill or done."""
    return &(<uint64_t *>r.entries)[r.mine & r.mask]


cdef inline uint64_t chunk_of(uint64_t address) noexcept nogil:
    return address & ~<uint64_t>(CHUNK_LEN - 1)


# -- what ports use -------------------------------------------------------------------------------

# Start a burst: packets of the one before are given back.
cdef void xsk_receive(Xsk *x) noexcept nogil
cdef uint8_t *gather(Xsk *x, uint8_t *room, uint32_t *length) noexcept nogil


# Whether there is another packet in this burst, of at most MAX_BURST.
cdef inline bint xsk_more(const Xsk *x) noexcept nogil:
    return <int32_t>(x.burst_end - x.rx.mine) > 0


# The next of them; its memory is ours until the next xsk_receive, with KERNEL_ROOM bytes in front of it. One
# larger than a chunk comes in several, and is put together in `room`, of SLOT_LEN bytes.
cdef inline uint8_t *xsk_next(Xsk *x, uint8_t *room, uint32_t *length) noexcept nogil:
    cdef xdp_desc *packet = packet_at(&x.rx)
    if packet.options & XDP_PKT_CONTD:
        return gather(x, room, length)
    x.held[x.n_held] = chunk_of(packet.addr)
    x.n_held += 1
    x.rx.mine += 1
    length[0] = packet.len
    return x.memory + packet.addr


# After the last of them: there is room for others in the ring.
cdef inline void xsk_received(Xsk *x) noexcept nogil:
    ring_taken(&x.rx)


# A chunk to send from; NULL when all are under way, also after a moment.
cdef uint8_t *xsk_chunk(Xsk *x) noexcept nogil
# Queue a packet that lies in the chunk that was given last.
cdef inline void xsk_queue(Xsk *x, const uint8_t *data, uint32_t length) noexcept nogil:
    cdef xdp_desc *packet = packet_at(&x.tx)
    packet.addr, packet.len, packet.options = <uint64_t>(data - x.memory), length, 0
    x.tx.mine += 1

# Give the chunk that was given last back unused.
cdef inline void xsk_unused(Xsk *x) noexcept nogil:
    x.n_free += 1

# Send what is queued; how many were given up, for the device is `down`, or its queue stayed full.
cdef uint32_t xsk_flush(Xsk *x) noexcept nogil
