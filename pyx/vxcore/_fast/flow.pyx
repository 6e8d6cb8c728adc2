"""The inner flow: hash it, finish a checksum that offload left partial, carry ECN into it.

Place in the house: above batch's memory, below codec and lane. The walk itself is inline in flow.pxd.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from vxcore._fast.c_bytes cimport vx_be16, vx_load16_raw, vx_store16_raw
from vxcore._fast.c_csum cimport vx_csum_add, vx_csum_fold, vx_csum_replace

cdef enum:
    ECN_MASK = 3
    ECN_ECT1 = 1
    ECN_CE = 3
    TCP_CHECK_OFF = 16
    TCP_MIN_LEN = 20
    UDP_CHECK_OFF = 6
    UDP_MIN_LEN = 8


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
