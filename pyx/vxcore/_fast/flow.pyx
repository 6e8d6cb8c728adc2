"""The inner flow: hash it, finish a checksum that offload left partial, carry ECN into it.

Place in the house: above batch's memory, below codec and lane. The walk itself is inline in flow.pxd.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from vxcore._fast.c_bytes cimport vx_be16, vx_load16_raw, vx_load48, vx_store16_raw
from vxcore._fast.c_csum cimport vx_csum_add, vx_csum_fold, vx_csum_replace

cdef enum:
    ECN_MASK = 3
    ECN_ECT1 = 1
    ECN_CE = 3
    TCP_CHECK_OFF = 16
    TCP_MIN_LEN = 20
    UDP_CHECK_OFF = 6
    UDP_MIN_LEN = 8


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


cdef void dissect_any(const uint8_t *frame, uint32_t length, Flow *flow, bint symmetric) noexcept nogil:
    """What ``dissect`` does, for any frame of at least 14 bytes."""
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


cdef uint64_t pseudo_sum(const uint8_t *frame, const Flow *flow) noexcept nogil:
    """The sum over the pseudo-header: addresses, protocol, transport length."""
    cdef uint64_t sum = vx_be16(flow.proto)
    sum += vx_be16(<uint16_t>flow.l4_len)
    if flow.version == 4:
        return vx_csum_add(frame + flow.ip_off + 12, 8, sum)
    return vx_csum_add(frame + flow.ip_off + 8, 32, sum)


cdef bint checksum_is_partial(const uint8_t *frame, uint32_t length, const Flow *flow,
                              uint32_t *field_off) noexcept nogil:
    """Whether the TCP or UDP checksum holds the bare pseudo-header sum, as a sender with checksum
    offload leaves it; `field_off` then is where the field lies in the transport header.

    A finished checksum looks the same once in 65,536 packets, and finishing that one again gives
    the same value: nothing can be broken by the doubt.
    """
    if flow.l4_off == 0 or flow.l4_len > length - flow.l4_off:
        return False
    if flow.proto == PROTO_TCP and flow.l4_len >= TCP_MIN_LEN:
        field_off[0] = TCP_CHECK_OFF
    elif flow.proto == PROTO_UDP and flow.l4_len >= UDP_MIN_LEN:
        field_off[0] = UDP_CHECK_OFF
    else:
        return False
    return vx_load16_raw(frame + flow.l4_off + field_off[0]) == vx_csum_fold(pseudo_sum(frame, flow))


cdef bint finish_checksum(uint8_t *frame, uint32_t length, const Flow *flow) noexcept nogil:
    """Complete a partial checksum in place; False when there was none to complete."""
    cdef uint32_t field_off
    cdef uint16_t check
    cdef uint8_t *l4 = frame + flow.l4_off
    if not checksum_is_partial(frame, length, flow, &field_off):
        return False
    # The field itself holds the pseudo-header's sum: summing all of the segment takes both in.
    check = ~vx_csum_fold(vx_csum_add(l4, flow.l4_len, 0))
    if check == 0 and flow.proto == PROTO_UDP:
        check = 0xFFFF  # RFC 768: zero means no checksum
    vx_store16_raw(l4 + field_off, check)
    return True


cdef void set_tos(uint8_t *ip, uint8_t version, uint8_t tos) noexcept nogil:
    cdef uint16_t old = vx_load16_raw(ip)
    if version == 4:
        ip[1] = tos
        vx_store16_raw(ip + 10, vx_csum_replace(vx_load16_raw(ip + 10), old, vx_load16_raw(ip)))
    else:
        ip[0] = (ip[0] & 0xF0) | tos >> 4
        ip[1] = <uint8_t>(tos << 4) | (ip[1] & 0x0F)


cdef bint ecn_decapsulate(uint8_t *frame, const Flow *flow, uint8_t outer_tos) noexcept nogil:
    """Carry the outer ECN mark into the inner packet (RFC 6040 section 4.2); False means drop."""
    cdef uint8_t outer = outer_tos & ECN_MASK
    cdef uint8_t inner = flow.tos & ECN_MASK
    if flow.version == 0:
        return True
    if inner == 0:
        return outer != ECN_CE
    if inner != outer and (outer == ECN_CE or (outer == ECN_ECT1 and inner != ECN_CE)):
        set_tos(frame + flow.ip_off, flow.version, (flow.tos & ~ECN_MASK) | outer)
    return True


def flow_hash(frame, symmetric: bool = False) -> int:
    """The 32-bit hash of a frame's flow: inner IP 5-tuple, else MAC addresses and EtherType.

    With `symmetric` both directions of a flow have one hash.

    Takes a bytes-like frame of at least 14 bytes; ValueError for less.
    """
    cdef const uint8_t[::1] view = frame
    cdef Flow flow
    if view.shape[0] < VX_ETH_LEN:
        raise ValueError(f"{view.shape[0]} bytes are no Ethernet frame: at least {VX_ETH_LEN}")
    dissect(&view[0], <uint32_t>view.shape[0], &flow, symmetric)
    return flow.hash


def complete_checksum(frame) -> bytes:
    """A copy of the frame in which a checksum that a sender's offload left partial is finished."""
    cdef Flow flow
    cdef bytearray copy = bytearray(frame)
    cdef uint8_t[::1] view = copy
    if view.shape[0] >= VX_ETH_LEN:
        dissect(&view[0], <uint32_t>view.shape[0], &flow, False)
        finish_checksum(&view[0], <uint32_t>view.shape[0], &flow)
    return bytes(copy)
