# Next hops: for each remote the outer Ethernet, IP and UDP header towards it, and the device it leaves by.
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from vxcore._fast.c_atomic cimport vx_load_acquire
from vxcore._fast.c_packet cimport sockaddr_ll
from vxcore._fast.codec cimport Template

cdef enum:
    MAX_OUTER_LEN = 64       # Ethernet, IPv6 and UDP have 62


cdef struct Hop:
    Template template        # of an Ethernet frame; the VXLAN header at its end is not used
    sockaddr_ll name         # the device; its index is 0 while no next hop is known
    uint32_t mtu             # the largest IP packet on that way


# What the control thread writes and lanes copy. hops[seq & 1] is current, the other is written to.
cdef struct SharedHop:
    uint32_t seq
    uint32_t known           # whether there is one
    uint32_t wanted          # a packet was dropped for want of it
    Hop hops[2]


# A lane's own copy.
cdef struct OwnHop:
    uint32_t seq
    Hop hop


# How a lane looks hops up; each lane has one.
cdef struct HopView:
    SharedHop *shared
    OwnHop *own
    int wake_fd


cdef class Hops:
    cdef SharedHop *shared
    cdef readonly uint32_t count
    cdef int wake_fd


cdef void refresh_hop(HopView *view, uint32_t remote) noexcept nogil
cdef void want_hop(HopView *view, uint32_t remote) noexcept nogil


cdef inline bint is_known(const SharedHop *shared, uint32_t remote) noexcept nogil:
    """Whether a packet for that remote could be sent now."""
    return vx_load_acquire(&shared[remote].known) != 0


cdef inline Hop *find_hop(HopView *view, uint32_t remote) noexcept nogil:
    """The lane's copy of a hop, made anew if the control thread has published another."""
    if vx_load_acquire(&view.shared[remote].seq) != view.own[remote].seq:
        refresh_hop(view, remote)
    return &view.own[remote].hop


# Write the outer headers of a UDP payload and return their length. `n` packets will come of it, and take
# as many IPv4 identifications; `ttl` 0: the hop's own.
cdef uint32_t put_outer(uint8_t *out, Hop *hop, uint32_t payload_len, uint32_t n, uint32_t hash,
                        uint16_t dstport_be, uint8_t tos, uint8_t ttl) noexcept nogil
# Store the sum over the pseudo-header where the UDP checksum goes: what a checksum offload starts from.
cdef void put_partial(uint8_t *out, const Hop *hop, uint32_t payload_len) noexcept nogil
