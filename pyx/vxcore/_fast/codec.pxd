# The codec's parts that others build on: header templates, and the walk through outer headers.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from vxcore._fast.c_bytes cimport vx_be16, vx_load16_raw, vx_store16, vx_store32
from vxcore._fast.c_csum cimport vx_csum_add
from vxcore._fast.c_batch cimport (
    IPV4_AT, IPV6_AT, QUICK_LEN, TEMPLATE_LEN, Packets, Template, UDP_AT, VXLAN_AT,
)
from vxcore._fast.c_wire cimport VX_UDP_LEN
from vxcore._fast.flow cimport PROTO_UDP
from vxcore._fast.verdict cimport Verdict

cdef enum:
    LAYER_ETHERNET = 0
    LAYER_IP = 1
    LAYER_UDP_PAYLOAD = 2
    PREFETCH = 8             # packets ahead; their headers are then near when their turn comes

cdef enum TunnelFlags:
    TOS_INHERIT = 1
    TTL_INHERIT = 2
    DF_SET = 4
    DF_INHERIT = 8
    UDP_CHECK = 16
    ECN_LINUX = 32
    LABEL_HASH = 64
    VLAN_STRIP = 128
    VLAN_PASS = 256
    WITH_GBP = 512
    SYMMETRIC = 1024
    # What a tunnel with default settings has none of, see vx_quick.h.
    RARE = TOS_INHERIT | TTL_INHERIT | DF_INHERIT | UDP_CHECK | ECN_LINUX | WITH_GBP | SYMMETRIC

cdef enum:
    IPV4_DF = 0x4000


cdef class Tunnel:
    cdef Template template
    cdef readonly object spec


cdef class TunnelSet:
    cdef object _memory
    cdef Template *templates
    cdef readonly uint32_t count


cdef inline uint16_t port_of(const Template *t, uint32_t hashed) noexcept nogil:
    return <uint16_t>(t.port_min + (<uint64_t>hashed * t.n_ports >> 32))


cdef inline void put_ipv4(uint8_t *ip, uint32_t total_len, Template *t, uint8_t tos, uint8_t ttl,
                          bint df) noexcept nogil:
    """Patch an IPv4 header and its checksum; with DF the identification is 0 (RFC 6864 section 4.1)."""
    cdef uint32_t identification = 0, fragment = IPV4_DF, sum
    if not df:
        identification, fragment = t.ip_id, 0
        t.ip_id += 1
    # Summed from registers: to load what was just stored in pieces would stall.
    sum = t.ip_sum + tos + total_len + identification + fragment + (<uint32_t>ttl << 8)
    sum = (sum & 0xFFFF) + (sum >> 16)
    vx_store32(ip, 0x45000000u | <uint32_t>tos << 16 | total_len)
    vx_store32(ip + 4, identification << 16 | fragment)
    ip[8] = ttl
    vx_store16(ip + 10, ~<uint16_t>(sum + (sum >> 16)))


cdef inline void put_ipv6(uint8_t *ip, uint32_t payload_len, uint32_t label, uint8_t tos,
                          uint8_t ttl) noexcept nogil:
    """Patch an IPv6 header."""
    vx_store32(ip, <uint32_t>6 << 28 | <uint32_t>tos << 20 | label)
    vx_store16(ip + 4, <uint16_t>payload_len)
    ip[7] = ttl


cdef inline uint64_t pseudo(const uint8_t *ip, uint8_t version, uint32_t udp_len) noexcept nogil:
    """The sum over UDP's pseudo-header (RFC 768, RFC 8200 section 8.1)."""
    cdef uint64_t sum = <uint64_t>vx_be16(PROTO_UDP) + vx_be16(<uint16_t>udp_len)
    return vx_csum_add(ip + 12, 8, sum) if version == 4 else vx_csum_add(ip + 8, 32, sum)


cdef enum RuleFlags:
    STRICT = 1
    IGNORE_CHECKSUM = 2
    REQUIRE_CHECKSUM = 4
    ACCEPT_ZERO6 = 8
    IGNORE_ECN = 16
    IN_VLAN_STRIP = 32
    IN_VLAN_PASS = 64
    IN_GBP = 128
    IN_GPE = 256
    IN_TRUNCATED = 512


cdef struct RuleBits:
    uint32_t flags
    uint16_t quick_port      # packets to it may be the common case; 0: none may
    uint8_t ports[8192]      # a bit for each port


# Where the walk through one packet's headers is.
cdef struct Walk:
    uint8_t *packet
    uint32_t at, end
    uint32_t ip_off
    uint32_t missing         # bytes that the IP header promises and a capture's snap length cut off
    uint32_t vni, gbp
    bint verified            # the UDP checksum was verified below us, or is yet to be finished
    uint16_t source_port
    uint8_t version, next, tos, protocol


cdef class Rules:
    cdef RuleBits bits
    cdef readonly object spec


# Up to the VXLAN header, from the layer on that the packet starts with.
cdef Verdict walk_outer(Walk *w, const RuleBits *rules, int layer) noexcept nogil
cdef inline uint16_t walked_port_be(const Walk *w) noexcept nogil:
    """The UDP destination port of a packet that was walked to its VXLAN header."""
    return vx_load16_raw(w.packet + w.at - VX_UDP_LEN + 2)


# The outer source address as sixteen bytes; zeros where the walk did not get there.
cdef void put_source(uint8_t *source, const Walk *w) noexcept nogil

# The same for a packet that starts at Ethernet, from its first byte.
cdef Verdict walk_to_vxlan(Walk *w, uint8_t *packet, uint32_t length, const RuleBits *rules) noexcept nogil
# Puts outer headers in front of all packets, from `layer` on (-1: all that the tunnel has); how many it did.
# Packet i goes through templates[picks[i]]; without picks all go through the first.
cdef uint32_t encap_all(const Packets *packets, Template *templates, uint32_t n_templates,
                        const uint32_t *picks, int layer) noexcept nogil
# What goes in front of a VXLAN header; its length. Then its UDP checksum.
cdef uint32_t put_outer(Template *t, uint8_t *vxlan, uint32_t payload_len, uint32_t hashed,
                        uint16_t dstport_be, uint8_t tos, uint8_t ttl) noexcept nogil
cdef bint has_checksum(const Template *t) noexcept nogil
cdef void put_outer_checksum(const Template *t, uint8_t *vxlan, uint32_t head_len, const uint8_t *body,
                             uint32_t body_len, bint partial) noexcept nogil
