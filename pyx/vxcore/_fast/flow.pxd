# The inner flow: one bounded walk over an inner frame tells all that encapsulation and delivery ask.
# What the common frame needs is inline, for the codec's loops and the lane's.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from vxcore._fast.c_bytes cimport VX_K0, VX_K1, VX_K2, VX_K3, vx_mix
from vxcore._fast.c_bytes cimport vx_load16, vx_load32, vx_load64
from vxcore._fast.c_wire cimport VX_ETH_LEN, VX_IPV4_LEN, VX_IPV6_LEN, VX_TAG_LEN

cdef enum:
    ETHERTYPE_IPV4 = 0x0800
    ETHERTYPE_IPV6 = 0x86DD
    ETHERTYPE_VLAN = 0x8100      # IEEE 802.1Q
    ETHERTYPE_QINQ = 0x88A8      # IEEE 802.1ad
    ETHERTYPE_QINQ_OLD = 0x9100  # before 802.1ad
    PROTO_HOPOPTS = 0
    PROTO_TCP = 6
    PROTO_UDP = 17
    PROTO_DCCP = 33
    PROTO_ROUTING = 43
    PROTO_FRAGMENT = 44
    PROTO_AH = 51
    PROTO_DSTOPTS = 60
    PROTO_SCTP = 132
    PROTO_UDPLITE = 136
    MAX_TAGS = 2
    MAX_EXTENSIONS = 8


cdef struct Flow:
    uint32_t hash
    uint32_t ip_off     # of the inner IP header; 0: the frame is not (whole) IP
    uint32_t l4_off     # of the transport header; 0: none, a fragment, or not reached
    uint32_t l4_len     # bytes of transport header and payload, by the IP header
    uint8_t version     # 4, 6, or 0 for not IP
    uint8_t proto
    uint8_t n_tags
    uint8_t tos         # inner TOS / traffic class; 0 for not IP
    uint8_t ttl


cdef inline bint is_tag(uint16_t ethertype) noexcept nogil:
    return ethertype == ETHERTYPE_VLAN or ethertype == ETHERTYPE_QINQ or ethertype == ETHERTYPE_QINQ_OLD


cdef inline bint has_ports(uint8_t proto) noexcept nogil:
    return (proto == PROTO_TCP or proto == PROTO_UDP or proto == PROTO_SCTP or proto == PROTO_UDPLITE
            or proto == PROTO_DCCP)


cdef inline uint32_t finish_hash(uint64_t a, uint64_t b) noexcept nogil:
    return <uint32_t>(vx_mix(vx_mix(a ^ VX_K0, b ^ VX_K1) ^ VX_K2, VX_K3) >> 32)


cdef void dissect_any(const uint8_t *frame, uint32_t length, Flow *flow, bint symmetric) noexcept nogil


cdef inline void dissect(const uint8_t *frame, uint32_t length, Flow *flow, bint symmetric) noexcept nogil:
    """Fill `flow` from a frame of at least 14 bytes; reads nothing behind frame[length).

    The common frame, untagged TCP or UDP over plain IPv4, is done here in a few instructions; the
    rest, and only the rest, pays for its generality.
    """
    if (not symmetric and length >= VX_ETH_LEN + VX_IPV4_LEN + 4
            and vx_load32(frame + 12) >> 8 == ETHERTYPE_IPV4 << 8 | 0x45
            and vx_load16(frame + 20) & 0x3FFF == 0 and vx_load16(frame + 16) >= VX_IPV4_LEN
            and (frame[23] == PROTO_TCP or frame[23] == PROTO_UDP)):
        flow.ip_off = VX_ETH_LEN
        flow.l4_off = VX_ETH_LEN + VX_IPV4_LEN
        flow.l4_len = vx_load16(frame + 16) - VX_IPV4_LEN
        flow.version, flow.n_tags = 4, 0
        flow.tos, flow.ttl, flow.proto = frame[15], frame[22], frame[23]
        flow.hash = finish_hash(vx_load64(frame + 26), <uint64_t>frame[23] << 32 | vx_load32(frame + 34))
    else:
        dissect_any(frame, length, flow, symmetric)


cdef uint64_t pseudo_sum(const uint8_t *frame, const Flow *flow) noexcept nogil
cdef bint checksum_is_partial(const uint8_t *frame, uint32_t length, const Flow *flow,
                              uint32_t *field_off) noexcept nogil
cdef bint finish_checksum(uint8_t *frame, uint32_t length, const Flow *flow) noexcept nogil
cdef bint ecn_decapsulate(uint8_t *frame, const Flow *flow, uint8_t outer_tos) noexcept nogil


cdef inline uint8_t outer_ecn(uint8_t inner_tos, bint linux) noexcept nogil:
    """The outer ECN bits: the inner ones (RFC 6040), or as Linux does with CE turned to ECT(0)."""
    return 2 if linux and inner_tos & 3 == 3 else inner_tos & 3
