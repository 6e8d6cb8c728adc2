# The inner flow: one bounded walk over an inner frame tells all that encapsulation and delivery ask.
# Inline, because it runs once per packet in the codec and in the lane.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from vxcore._fast.c_bytes cimport VX_K0, VX_K1, VX_K2, VX_K3, vx_mix
from vxcore._fast.c_bytes cimport vx_load16, vx_load32, vx_load48, vx_load64
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


cdef inline uint64_t ports_word(const uint8_t *frame, uint32_t length, const Flow *flow) noexcept nogil:
    cdef uint64_t word = <uint64_t>flow.proto << 32
    if flow.l4_off and has_ports(flow.proto) and flow.l4_off + 4 <= length:
        word |= vx_load32(frame + flow.l4_off)
    return word


cdef inline uint32_t finish_hash(uint64_t a, uint64_t b) noexcept nogil:
    return <uint32_t>(vx_mix(vx_mix(a ^ VX_K0, b ^ VX_K1) ^ VX_K2, VX_K3) >> 32)


cdef inline void dissect_ipv4(const uint8_t *frame, uint32_t length, Flow *flow) noexcept nogil:
    cdef const uint8_t *ip = frame + flow.ip_off
    cdef uint32_t header_len = (ip[0] & 15) * 4
    cdef uint32_t total_len = vx_load16(ip + 2)
    flow.version = 4
    flow.tos = ip[1]
    flow.ttl = ip[8]
    flow.proto = ip[9]
    # A fragment hashes on addresses and protocol alone: only the first has ports.
    if vx_load16(ip + 6) & 0x3FFF == 0 and total_len >= header_len and flow.ip_off + header_len <= length:
        flow.l4_off = flow.ip_off + header_len
        flow.l4_len = total_len - header_len
    flow.hash = finish_hash(vx_load64(ip + 12), ports_word(frame, length, flow))


cdef inline void walk_extensions(const uint8_t *frame, uint32_t length, Flow *flow) noexcept nogil:
    """From the end of the fixed header to the transport header, or leave l4_off at 0."""
    cdef uint32_t off = flow.ip_off + VX_IPV6_LEN
    cdef uint32_t end = off + vx_load16(frame + flow.ip_off + 4)
    cdef uint32_t step
    cdef int i
    for i in range(MAX_EXTENSIONS + 1):
        if (flow.proto != PROTO_HOPOPTS and flow.proto != PROTO_ROUTING and flow.proto != PROTO_DSTOPTS
                and flow.proto != PROTO_AH):
            break
        if i == MAX_EXTENSIONS or off + 8 > length:
            return
        step = (frame[off + 1] + 2) * 4 if flow.proto == PROTO_AH else (frame[off + 1] + 1) * 8
        flow.proto = frame[off]
        off += step
    if flow.proto == PROTO_FRAGMENT:
        if off + 8 <= length:
            flow.proto = frame[off]
        return
    if off <= end and off <= length:
        flow.l4_off = off
        flow.l4_len = end - off


cdef inline void dissect_ipv6(const uint8_t *frame, uint32_t length, Flow *flow) noexcept nogil:
    cdef const uint8_t *ip = frame + flow.ip_off
    cdef uint64_t source, destination
    flow.version = 6
    flow.tos = <uint8_t>(vx_load16(ip) >> 4)
    flow.proto = ip[6]
    flow.ttl = ip[7]
    walk_extensions(frame, length, flow)
    source = vx_mix(vx_load64(ip + 8) ^ VX_K0, vx_load64(ip + 16) ^ VX_K1)
    destination = vx_mix(vx_load64(ip + 24) ^ VX_K2, vx_load64(ip + 32) ^ VX_K3)
    flow.hash = finish_hash(source + (destination ^ VX_K2), ports_word(frame, length, flow))


cdef inline void dissect(const uint8_t *frame, uint32_t length, Flow *flow) noexcept nogil:
    """Fill `flow` from a frame of at least 14 bytes; reads nothing behind frame[length)."""
    cdef uint32_t off = VX_ETH_LEN - 2
    cdef uint16_t ethertype = vx_load16(frame + off)
    flow.ip_off = flow.l4_off = flow.l4_len = 0
    flow.version = flow.proto = flow.n_tags = flow.tos = flow.ttl = 0
    while is_tag(ethertype) and flow.n_tags < MAX_TAGS and off + VX_TAG_LEN + 2 <= length:
        off += VX_TAG_LEN
        flow.n_tags += 1
        ethertype = vx_load16(frame + off)
    off += 2
    flow.ip_off = off
    if (ethertype == ETHERTYPE_IPV4 and off + VX_IPV4_LEN <= length and frame[off] >> 4 == 4
            and frame[off] & 15 >= 5):
        dissect_ipv4(frame, length, flow)
    elif ethertype == ETHERTYPE_IPV6 and off + VX_IPV6_LEN <= length and frame[off] >> 4 == 6:
        dissect_ipv6(frame, length, flow)
    else:
        flow.ip_off = 0
        flow.hash = finish_hash(vx_load48(frame), vx_load48(frame + 6) << 16 | ethertype)


cdef bint checksum_is_partial(const uint8_t *frame, uint32_t length, const Flow *flow,
                              uint32_t *field_off) noexcept nogil
cdef bint finish_checksum(uint8_t *frame, uint32_t length, const Flow *flow) noexcept nogil
cdef bint ecn_decapsulate(uint8_t *frame, const Flow *flow, uint8_t outer_tos) noexcept nogil


cdef inline uint8_t outer_ecn(uint8_t inner_tos, bint linux) noexcept nogil:
    """The outer ECN bits: the inner ones (RFC 6040), or as Linux does with CE turned to ECT(0)."""
    return 2 if linux and inner_tos & 3 == 3 else inner_tos & 3
