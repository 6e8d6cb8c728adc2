"""Next hops: how packets for each remote leave this host, kept by Python, read by lanes.

Place in the house: above the codec, whose header templates it holds; below the ports that build
whole Ethernet frames. One control thread publishes; lanes copy what has changed, and never wait.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.unistd cimport write

from vxcore._fast.c_atomic cimport vx_load_acquire, vx_load_after_reads, vx_store_release
from vxcore._fast.c_bytes cimport vx_be16, vx_store16, vx_store16_raw
from vxcore._fast.c_csum cimport vx_csum_fold
from vxcore._fast.c_wire cimport VX_ETH_LEN, VX_UDP_LEN, VX_VXLAN_LEN
from vxcore._fast.codec cimport (
    DF_SET, LAYER_ETHERNET, TEMPLATE_LEN, Template, Tunnel, port_of, pseudo, put_ipv4, put_ipv6,
)
from vxcore._fast.flow cimport ETHERTYPE_IPV4, ETHERTYPE_IPV6

cdef enum:
    AF_PACKET = 17


cdef class Hops:
    """The next hops of `count` remotes, by their numbers in the tables; at first none is known.

    `wake` is an eventfd, kept open by the caller, that lanes write to when they miss a hop. ``publish``,
    ``withdraw`` and ``take_wanted`` are for one thread.
    """

    def __cinit__(self, count: int, wake: int):
        self.shared = <SharedHop *>calloc(count + 1, sizeof(SharedHop))
        if not self.shared:
            raise MemoryError("no memory for next hops")
        self.count, self.wake_fd = count, wake

    def __dealloc__(self):
        free(self.shared)

    def publish(self, remote: int, Tunnel tunnel not None, ifindex: int, mtu: int) -> None:
        """Let packets for `remote` go out by a device with a tunnel's Ethernet, IP and UDP header.

        Raises ValueError for a tunnel without Ethernet addresses, IndexError for no such remote.
        """
        cdef Hop hop
        if tunnel.template.layer != LAYER_ETHERNET or tunnel.template.header_len > TEMPLATE_LEN:
            raise ValueError(f"remote {remote}: the tunnel has no Ethernet addresses")
        memset(&hop, 0, sizeof(Hop))
        hop.template, hop.mtu = tunnel.template, mtu
        hop.name.sll_family, hop.name.sll_ifindex = AF_PACKET, ifindex
        hop.name.sll_protocol = vx_be16(ETHERTYPE_IPV4 if hop.template.version == 4 else ETHERTYPE_IPV6)
        store(self, remote, &hop)

    def withdraw(self, remote: int) -> None:
        """Let packets for `remote` be dropped and counted until there is a next hop again."""
        cdef Hop hop
        memset(&hop, 0, sizeof(Hop))
        store(self, remote, &hop)

    def knows(self, remote: int) -> bool:
        """Whether packets for `remote` can be sent. Raises IndexError for no such remote."""
        if not 0 <= remote < self.count:
            raise IndexError(f"remote {remote} of {self.count}")
        return is_known(self.shared, remote)

    def take_wanted(self) -> list[int]:
        """The remotes that packets were dropped for, for want of a next hop, since it was asked last."""
        cdef uint32_t i
        wanted = []
        for i in range(self.count):
            if vx_load_acquire(&self.shared[i].wanted):
                vx_store_release(&self.shared[i].wanted, 0)
                wanted.append(i)
        return wanted


cdef int store(Hops hops, remote: int, const Hop *hop) except -1:
    cdef SharedHop *shared
    if not 0 <= remote < hops.count:
        raise IndexError(f"remote {remote} of {hops.count}")
    shared = &hops.shared[<uint32_t>remote]
    shared.hops[(shared.seq + 1) & 1] = hop[0]
    vx_store_release(&shared.seq, shared.seq + 1)
    vx_store_release(&shared.known, hop.name.sll_ifindex != 0)
    return 0


cdef void refresh_hop(HopView *view, uint32_t remote) noexcept nogil:
    """Copy what is current. Only two publications within one copy can spoil it; then copy again."""
    cdef SharedHop *shared = &view.shared[remote]
    cdef OwnHop *own = &view.own[remote]
    cdef uint16_t ip_id = own.hop.template.ip_id
    cdef uint32_t seq = vx_load_acquire(&shared.seq)
    while True:
        own.hop = shared.hops[seq & 1]
        own.seq = seq
        seq = vx_load_after_reads(&shared.seq)
        if seq == own.seq:
            break
        seq = vx_load_acquire(&shared.seq)
    own.hop.template.ip_id = ip_id


cdef void want_hop(HopView *view, uint32_t remote) noexcept nogil:
    cdef uint64_t one = 1
    if not vx_load_acquire(&view.shared[remote].wanted):
        vx_store_release(&view.shared[remote].wanted, 1)
        write(view.wake_fd, &one, sizeof(one))


cdef uint32_t put_outer(uint8_t *out, Hop *hop, uint32_t payload_len, uint32_t n, uint32_t hash,
                        uint16_t dstport_be, uint8_t tos, uint8_t ttl) noexcept nogil:
    cdef Template *t = &hop.template
    cdef uint32_t length = t.header_len - VX_VXLAN_LEN
    cdef uint8_t *udp = out + length - VX_UDP_LEN
    cdef uint32_t udp_len = payload_len + VX_UDP_LEN
    ttl = ttl if ttl else t.ttl
    memcpy(out, t.header + TEMPLATE_LEN - t.header_len, length)
    vx_store16(udp, port_of(t, hash))
    vx_store16_raw(udp + 2, dstport_be)
    vx_store16(udp + 4, <uint16_t>udp_len)
    if t.version == 4:
        put_ipv4(out + VX_ETH_LEN, length - VX_ETH_LEN + payload_len, t, tos, ttl, t.flags & DF_SET)
        t.ip_id += n - 1
    else:
        put_ipv6(out + VX_ETH_LEN, udp_len, hash & 0xFFFFF, tos, ttl)
    return length


cdef void put_partial(uint8_t *out, const Hop *hop, uint32_t payload_len) noexcept nogil:
    cdef uint8_t *udp = out + hop.template.header_len - VX_VXLAN_LEN - VX_UDP_LEN
    vx_store16_raw(udp + 6, vx_csum_fold(
        pseudo(out + VX_ETH_LEN, hop.template.version, payload_len + VX_UDP_LEN)))
