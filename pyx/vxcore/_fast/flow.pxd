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


cdef inline uint64_t swap_halves(uint64_t word, int half_bits) noexcept nogil:
    """Exchange the two low fields of `half_bits` each; what is above them stays."""
    cdef uint64_t mask = (<uint64_t>1 << half_bits) - 1
    cdef uint64_t low = word & mask
    cdef uint64_t high = word >> half_bits & mask
    if half_bits == 32:
        return low << 32 | high
    return (word >> 2 * half_bits) << 2 * half_bits | low << half_bits | high


cdef inline uint32_t finish_hash(uint64_t a, uint64_t b) noexcept nogil:
    return <uint32_t>(vx_mix(vx_mix(a ^ VX_K0, b ^ VX_K1) ^ VX_K2, VX_K3) >> 32)


cdef inline bint is_reversed(uint64_t source, uint64_t destination, uint64_t ports) noexcept nogil:
    """Whether the sender's (address, port) is above the receiver's: symmetric hashing swaps them."""
    if source != destination:
        return source > destination
    return (ports >> 16 & 0xFFFF) > (ports & 0xFFFF)


cdef inline void dissect_ipv4(const uint8_t *frame, uint32_t length, Flow *flow,
                              bint symmetric) noexcept nogil:
    cdef const uint8_t *ip = frame + flow.ip_off
    cdef uint32_t header_len = (ip[0] & 15) * 4
    cdef uint32_t total_len = vx_load16(ip + 2)
    cdef uint64_t addresses = vx_load64(ip + 12)
    cdef uint64_t ports
    flow.version = 4
    flow.tos = ip[1]
    flow.ttl = ip[8]
    flow.proto = ip[9]
    # A fragment hashes on addresses and protocol alone: only the first has ports.
    if vx_load16(ip + 6) & 0x3FFF == 0 and total_len >= header_len and flow.ip_off + header_len <= length:
        flow.l4_off = flow.ip_off + header_len
        flow.l4_len = total_len - header_len
    ports = ports_word(frame, length, flow)
    if symmetric and is_reversed(addresses >> 32, addresses & 0xFFFFFFFFu, ports):
        addresses = swap_halves(addresses, 32)
        ports = swap_halves(ports, 16)
    flow.hash = finish_hash(addresses, ports)


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


cdef inline bint is_reversed6(const uint8_t *first, const uint8_t *second, uint64_t ports) noexcept nogil:
    if vx_load64(first) != vx_load64(second):
        return vx_load64(first) > vx_load64(second)
    return is_reversed(vx_load64(first + 8), vx_load64(second + 8), ports)


cdef inline void dissect_ipv6(const uint8_t *frame, uint32_t length, Flow *flow,
                              bint symmetric) noexcept nogil:
    cdef const uint8_t *ip = frame + flow.ip_off
    cdef const uint8_t *first = ip + 8
    cdef const uint8_t *second = ip + 24
    cdef uint64_t ports
    flow.version = 6
    flow.tos = <uint8_t>(vx_load16(ip) >> 4)
    flow.proto = ip[6]
    flow.ttl = ip[7]
    walk_extensions(frame, length, flow)
    ports = ports_word(frame, length, flow)
    if symmetric and is_reversed6(first, second, ports):
        first, second = ip + 24, ip + 8
        ports = swap_halves(ports, 16)
    flow.hash = finish_hash(
        vx_mix(vx_load64(first) ^ VX_K0, vx_load64(first + 8) ^ VX_K1)
        + (vx_mix(vx_load64(second) ^ VX_K2, vx_load64(second + 8) ^ VX_K3) ^ VX_K2), ports)


cdef inline void dissect(const uint8_t *frame, uint32_t length, Flow *flow, bint symmetric) noexcept nogil:
    """Fill `flow` from a frame of at least 14 bytes; reads nothing behind frame[length)."""
    cdef uint64_t destination, source
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
        dissect_ipv4(frame, length, flow, symmetric)
    elif ethertype == ETHERTYPE_IPV6 and off + VX_IPV6_LEN <= length and frame[off] >> 4 == 6:
        dissect_ipv6(frame, length, flow, symmetric)
    else:
        flow.ip_off = 0
        destination, source = vx_load48(frame), vx_load48(frame + 6)
        if symmetric and destination > source:
            destination, source = source, destination
        flow.hash = finish_hash(destination, source << 16 | ethertype)


cdef bint checksum_is_partial(const uint8_t *frame, uint32_t length, const Flow *flow,
                              uint32_t *field_off) noexcept nogil
cdef bint finish_checksum(uint8_t *frame, uint32_t length, const Flow *flow) noexcept nogil
cdef bint ecn_decapsulate(uint8_t *frame, const Flow *flow, uint8_t outer_tos) noexcept nogil


cdef inline uint8_t outer_ecn(uint8_t inner_tos, bint linux) noexcept nogil:
    """The outer ECN bits: the inner ones (RFC 6040), or as Linux does with CE turned to ECT(0)."""
    return 2 if linux and inner_tos & 3 == 3 else inner_tos & 3
