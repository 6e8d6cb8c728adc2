"""Too big: what the sender of a frame is told that the underlay cannot carry.

Place in the house: above flow and port, below the lane. A VTEP must not fragment (RFC 7348 section 4.3);
instead the inner packet's sender gets ICMP's "fragmentation needed" (RFC 1191) or ICMPv6's "packet too
big" (RFC 4443), made from the frame itself as if its destination had sent it, as Linux does
(net/ipv4/ip_tunnel_core.c).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from vxcore._fast.c_bytes cimport vx_be32, vx_load16, vx_store16, vx_store16_raw, vx_store32
from vxcore._fast.c_csum cimport vx_csum_add, vx_csum_fold
from vxcore._fast.c_wire cimport *
from vxcore._fast.flow cimport *
from vxcore._fast.port cimport OVERSIZE_LEN, Oversize

cdef enum:
    ICMP_LEN = 8
    PROTO_ICMP = 1
    PROTO_ICMP6 = 58
    ICMP_UNREACHABLE = 3
    ICMP_NEEDS_FRAGMENTING = 4
    ICMP6_TOO_BIG = 2
    ICMP6_FIRST_INFORMATIONAL = 128
    IPV4_DF = 0x4000
    IPV4_QUOTE = 576 - VX_IPV4_LEN - ICMP_LEN    # RFC 1812 section 4.3.2.3
    MIN_MTU6 = 1280
    ANSWER_TTL = 64
    UNDERLAY4 = VX_IPV4_LEN + VX_UDP_LEN + VX_VXLAN_LEN + VX_ETH_LEN
    UNDERLAY6 = VX_IPV6_LEN + VX_UDP_LEN + VX_VXLAN_LEN + VX_ETH_LEN


cdef uint32_t too_big_answer(uint8_t *answer, const Oversize *o) noexcept nogil:
    """Write the answer, an Ethernet frame, and return its length; 0 when there must be none."""
    cdef Flow flow
    cdef uint32_t overhead = UNDERLAY6 if o.six else UNDERLAY4
    if o.length < VX_ETH_LEN or o.mtu <= overhead or (o.frame[0] | o.frame[6]) & 1:
        return 0
    dissect(o.frame, o.length, &flow, False)
    if flow.n_tags:
        return 0
    memcpy(answer, o.frame + 6, 6)
    memcpy(answer + 6, o.frame, 6)
    memcpy(answer + 12, o.frame + 12, 2)
    if flow.version == 4:
        return answer4(answer, o.frame + VX_ETH_LEN, o.length - VX_ETH_LEN, &flow, o.mtu - overhead)
    if flow.version == 6:
        return answer6(answer, o.frame + VX_ETH_LEN, o.length - VX_ETH_LEN, &flow, o.mtu - overhead)
    return 0


cdef uint32_t answer4(uint8_t *answer, const uint8_t *ip, uint32_t length, const Flow *flow,
                      uint32_t mtu) noexcept nogil:
    """Only to who asked for no fragments, and never to an error message (RFC 1122 section 3.2.2)."""
    cdef uint8_t *out = answer + VX_ETH_LEN
    cdef uint32_t quote = length if length < IPV4_QUOTE else IPV4_QUOTE
    if not vx_load16(ip + 6) & IPV4_DF or vx_load16(ip + 6) & 0x1FFF or not is_host4(ip + 12):
        return 0
    if not is_host4(ip + 16) or (flow.proto == PROTO_ICMP and not is_query4(ip, length, flow)):
        return 0
    memset(out, 0, VX_IPV4_LEN + ICMP_LEN)
    out[0], out[8], out[9] = 0x45, ANSWER_TTL, PROTO_ICMP
    vx_store16(out + 2, <uint16_t>(VX_IPV4_LEN + ICMP_LEN + quote))
    vx_store16(out + 6, IPV4_DF)
    memcpy(out + 12, ip + 16, 4)
    memcpy(out + 16, ip + 12, 4)
    vx_store16_raw(out + 10, ~vx_csum_fold(vx_csum_add(out, VX_IPV4_LEN, 0)))
    out += VX_IPV4_LEN
    out[0], out[1] = ICMP_UNREACHABLE, ICMP_NEEDS_FRAGMENTING
    vx_store16(out + 6, <uint16_t>(mtu if mtu < 65535 else 65535))
    memcpy(out + ICMP_LEN, ip, quote)
    vx_store16_raw(out + 2, ~vx_csum_fold(vx_csum_add(out, ICMP_LEN + quote, 0)))
    return VX_ETH_LEN + VX_IPV4_LEN + ICMP_LEN + quote


cdef uint32_t answer6(uint8_t *answer, const uint8_t *ip, uint32_t length, const Flow *flow,
                      uint32_t mtu) noexcept nogil:
    cdef uint8_t *out = answer + VX_ETH_LEN
    cdef uint32_t quote = length if length < OVERSIZE_LEN else OVERSIZE_LEN
    cdef uint64_t sum
    if ip[8] == 0xFF or ip[24] == 0xFF or (flow.proto == PROTO_ICMP6 and not is_query6(ip, length, flow)):
        return 0
    memset(out, 0, VX_IPV6_LEN + ICMP_LEN)
    out[0], out[6], out[7] = 0x60, PROTO_ICMP6, ANSWER_TTL
    vx_store16(out + 4, <uint16_t>(ICMP_LEN + quote))
    memcpy(out + 8, ip + 24, 16)
    memcpy(out + 24, ip + 8, 16)
    sum = vx_csum_add(out + 8, 32, vx_be32(ICMP_LEN + quote) + <uint64_t>vx_be32(PROTO_ICMP6))
    out += VX_IPV6_LEN
    out[0] = ICMP6_TOO_BIG
    vx_store32(out + 4, mtu if mtu > MIN_MTU6 else MIN_MTU6)
    memcpy(out + ICMP_LEN, ip, quote)
    vx_store16_raw(out + 2, ~vx_csum_fold(vx_csum_add(out, ICMP_LEN + quote, sum)))
    return VX_ETH_LEN + VX_IPV6_LEN + ICMP_LEN + quote


cdef inline bint is_host4(const uint8_t *address) noexcept nogil:
    """Neither 0/8, nor multicast, nor reserved or broadcast."""
    return 0 < address[0] < 224


cdef inline bint is_query4(const uint8_t *ip, uint32_t length, const Flow *flow) noexcept nogil:
    cdef uint32_t at = flow.l4_off - VX_ETH_LEN
    return flow.l4_off != 0 and at < length and (ip[at] == 0 or ip[at] == 8 or ip[at] == 13 or ip[at] == 14)


cdef inline bint is_query6(const uint8_t *ip, uint32_t length, const Flow *flow) noexcept nogil:
    cdef uint32_t at = flow.l4_off - VX_ETH_LEN
    return flow.l4_off != 0 and at < length and ip[at] >= ICMP6_FIRST_INFORMATIONAL


def answer_to(frame, underlay_mtu: int, underlay_family: int = 4) -> bytes:
    """The answer to a frame that does not fit an underlay of that MTU (bytes of IP); empty for none."""
    cdef Oversize o
    cdef uint8_t answer[638]
    cdef const uint8_t[::1] view = frame
    o.length = <uint32_t>min(len(frame), OVERSIZE_LEN)
    o.mtu, o.six, o.segment = underlay_mtu, underlay_family == 6, 0
    memcpy(o.frame, &view[0], o.length)
    return answer[: too_big_answer(answer, &o)]
