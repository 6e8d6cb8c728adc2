"""Segmentation: cut a TCP or UDP super-frame into frames of MTU size, as a NIC with TSO or USO does.

Place in the house: above flow and port, below the lane. The payload is not copied: each piece has
headers of its own and points to its share of the payload, which is read once, for the checksum.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from vxcore._fast.c_bytes cimport (
    vx_be16, vx_load16, vx_load16_raw, vx_load32, vx_store16, vx_store16_raw, vx_store32, vx_store64_raw,
)
from vxcore._fast.c_csum cimport vx_csum_add, vx_csum_fold
from vxcore._fast.c_wire cimport *
from vxcore._fast.flow cimport *
from vxcore._fast.port cimport Frame, Piece

cdef enum:
    TCP_FLAGS_OFF = 13
    TCP_CHECK_OFF = 16
    TCP_MIN_LEN = 20
    TCP_FIN_PSH = 0x09
    TCP_CWR = 0x80
    UDP_CHECK_OFF = 6


cdef bint gso_begin(Whole *w, const Frame *frame, const Flow *flow) noexcept nogil:
    """Prepare to cut a frame that a sender's offload left whole; False when it cannot be cut: its
    headers are not what its virtio-net header says, or longer than a piece may have.
    """
    cdef uint8_t kind = frame.vnet.gso_type & ~VX_VNET_GSO_ECN
    cdef uint8_t version = flow.version  # which a UDP type does not name
    memset(w, 0, sizeof(Whole))
    w.data, w.length, w.size = frame.data, frame.length, frame.vnet.gso_size
    w.ip_off, w.l4_off, w.six = flow.ip_off, flow.l4_off, flow.version == 6
    w.tcp = kind == VX_VNET_GSO_TCPV4 or kind == VX_VNET_GSO_TCPV6
    if w.tcp:
        version = 4 if kind == VX_VNET_GSO_TCPV4 else 6
    if (flow.l4_off == 0 or w.size == 0 or flow.version != version
            or flow.proto != (PROTO_TCP if w.tcp else PROTO_UDP)):
        return False
    w.header_len = w.l4_off + VX_UDP_LEN
    if w.tcp:
        if w.l4_off + TCP_MIN_LEN > w.length or frame.data[w.l4_off + 12] >> 4 < 5:
            return False
        w.header_len = w.l4_off + (frame.data[w.l4_off + 12] >> 4) * 4
    elif kind != VX_VNET_GSO_UDP_L4:
        return False
    if w.header_len >= w.length or w.header_len > MAX_HEAD_LEN or w.size + w.header_len > 65535:
        return False
    w.payload_len = w.length - w.header_len
    sum_what_stays(w, frame.vnet.flags & VX_VNET_NEEDS_CSUM)
    return True


cdef void sum_what_stays(Whole *w, bint partial) noexcept nogil:
    """The sums over what is alike in all pieces: of the IPv4 header without length, identification
    and checksum; of pseudo-header without length, and transport header without what is patched.
    """
    cdef uint8_t *ip = w.data + w.ip_off
    cdef uint8_t *l4 = w.data + w.l4_off
    cdef uint8_t *field = l4 + (TCP_CHECK_OFF if w.tcp else UDP_CHECK_OFF)
    w.l4_sum = vx_be16(PROTO_TCP if w.tcp else PROTO_UDP)
    if w.six and partial and w.l4_off - w.ip_off > VX_IPV6_LEN:
        # A routing header has another destination for the pseudo-header, which its sender summed up.
        w.l4_sum = vx_load16_raw(field) + <uint16_t>~vx_be16(<uint16_t>(w.length - w.l4_off))
    elif w.six:
        w.l4_sum = vx_csum_add(ip + 8, 32, w.l4_sum)
    else:
        w.l4_sum = vx_csum_add(ip + 12, 8, w.l4_sum)
        vx_store16_raw(ip + 10, 0)
        w.ip_sum = vx_csum_add(ip + 6, (ip[0] & 15) * 4 - 6, vx_load16_raw(ip))
    if w.tcp:
        vx_store16_raw(field, 0)
        w.l4_sum = vx_csum_add(l4 + 8, w.header_len - w.l4_off - 8, vx_csum_add(l4, 4, w.l4_sum))
        w.l4_sum -= vx_load16_raw(l4 + 12)  # data offset and flags
    else:
        w.l4_sum = vx_csum_add(l4, 4, w.l4_sum)


cdef uint32_t gso_cut(Whole *w, Cuts *cuts, uint64_t vxlan) noexcept nogil:
    """Append pieces until the frame is cut or the room is used up; how many. `vxlan` is the header
    in front of each, in memory order.
    """
    cdef uint32_t first = cuts.n
    cdef uint32_t head_len = VX_VXLAN_LEN + w.header_len
    cdef uint32_t taken = PIECE_ROOM + ((head_len + 15) & ~<uint32_t>15)
    cdef uint32_t size
    cdef uint8_t *head
    while w.done < w.payload_len and cuts.n < MAX_PIECES and cuts.used + taken <= HEADS_LEN:
        size = min(w.size, w.payload_len - w.done)
        head = cuts.heads + cuts.used + PIECE_ROOM
        vx_store64_raw(head, vxlan)
        memcpy(head + VX_VXLAN_LEN, w.data, w.header_len)
        patch_piece(w, head + VX_VXLAN_LEN, size)
        cuts.pieces[cuts.n] = Piece(head, w.data + w.header_len + w.done, head_len, size)
        cuts.n += 1
        cuts.used += taken
        w.done += size
        w.n_done += 1
    return cuts.n - first


cdef inline void patch_piece(const Whole *w, uint8_t *frame, uint32_t size) noexcept nogil:
    cdef uint8_t *ip = frame + w.ip_off
    cdef uint32_t l4_len = w.header_len - w.l4_off + size
    cdef uint32_t ip_len = w.header_len - w.ip_off + size
    cdef uint16_t identification
    if w.six:
        vx_store16(ip + 4, <uint16_t>(ip_len - VX_IPV6_LEN))
    else:
        identification = <uint16_t>(vx_load16(ip + 4) + w.n_done)
        vx_store16(ip + 2, <uint16_t>ip_len)
        vx_store16(ip + 4, identification)
        vx_store16_raw(ip + 10, ~vx_csum_fold(
            w.ip_sum + vx_be16(<uint16_t>ip_len) + vx_be16(identification)))
    if w.tcp:
        patch_tcp(w, frame + w.l4_off, l4_len, size)
    else:
        patch_udp(w, frame + w.l4_off, l4_len, size)


cdef inline void patch_tcp(const Whole *w, uint8_t *tcp, uint32_t l4_len, uint32_t size) noexcept nogil:
    cdef uint64_t sum = w.l4_sum + vx_be16(<uint16_t>l4_len)
    vx_store32(tcp + 4, vx_load32(tcp + 4) + w.done)
    if w.done + size < w.payload_len:
        tcp[TCP_FLAGS_OFF] &= ~TCP_FIN_PSH
    if w.done:
        tcp[TCP_FLAGS_OFF] &= ~TCP_CWR
    sum = vx_csum_add(tcp + 4, 4, sum + vx_load16_raw(tcp + 12))
    sum = vx_csum_add(w.data + w.header_len + w.done, size, sum)
    vx_store16_raw(tcp + TCP_CHECK_OFF, ~vx_csum_fold(sum))


cdef inline void patch_udp(const Whole *w, uint8_t *udp, uint32_t l4_len, uint32_t size) noexcept nogil:
    cdef uint16_t length_be = vx_be16(<uint16_t>l4_len)
    cdef uint64_t sum = w.l4_sum + 2 * <uint64_t>length_be  # once in the pseudo-header
    cdef uint16_t check = ~vx_csum_fold(vx_csum_add(w.data + w.header_len + w.done, size, sum))
    vx_store16_raw(udp + 4, length_be)
    vx_store16_raw(udp + UDP_CHECK_OFF, check if check else 0xFFFF)  # RFC 768: zero means none


cdef bint finish_partial(uint8_t *frame, uint32_t length, const vx_vnet *vnet) noexcept nogil:
    """Finish the checksum that `vnet` says is partial; False when it lies outside the frame."""
    cdef uint32_t start = vnet.csum_start
    cdef uint32_t field = start + vnet.csum_offset
    cdef uint16_t check
    if start >= length or field + 2 > length:
        return False
    # The field itself holds the pseudo-header's sum: summing all behind `start` takes both in.
    check = ~vx_csum_fold(vx_csum_add(frame + start, length - start, 0))
    # RFC 768: zero means no checksum. In TCP both zeros mean the same.
    vx_store16_raw(frame + field, check if check else 0xFFFF)
    return True


def segments_of(frame, size: int) -> list[bytes]:
    """The frames into which a TCP or UDP super-frame is cut for payloads of `size` bytes.

    Takes a bytes-like frame, Ethernet first, whose IP header has the length of all of it; the TCP or
    UDP checksum in it does not matter. Raises ValueError when it is none that can be cut.
    """
    cdef bytearray copy = bytearray(frame)
    cdef uint8_t[::1] view = copy
    cdef Frame whole
    cdef Flow flow
    if not VX_ETH_LEN <= len(copy) or not 1 <= size <= 65535:
        raise ValueError(f"{len(copy)} bytes into payloads of {size}: that cannot be cut")
    memset(&whole, 0, sizeof(Frame))
    whole.data, whole.length = &view[0], <uint32_t>len(copy)
    dissect(whole.data, whole.length, &flow, False)
    whole.vnet.gso_size = <uint16_t>size
    whole.vnet.gso_type = VX_VNET_GSO_UDP_L4
    if flow.proto == PROTO_TCP:
        whole.vnet.gso_type = VX_VNET_GSO_TCPV4 if flow.version == 4 else VX_VNET_GSO_TCPV6
    pieces = all_pieces(&whole, &flow)
    if pieces is None:
        raise ValueError("this frame is no TCP or UDP packet that can be cut")
    return pieces


def finished(frame, header) -> list[bytes] | None:
    """What is sent of a frame whose sender left work to do: a super-frame to cut, a checksum to finish.

    `header` is the virtio-net header of 10 bytes that says so, `frame` a writable buffer of at least 14
    bytes, which is changed. None when one contradicts the other: nothing of the frame is sent then.
    """
    cdef uint8_t[::1] view = frame
    cdef const uint8_t[::1] said = header
    cdef Frame whole
    cdef Flow flow
    if view.shape[0] < VX_ETH_LEN or said.shape[0] != sizeof(vx_vnet):
        raise ValueError(f"{view.shape[0]} bytes of frame, {said.shape[0]} of header: 14 and 10 are needed")
    whole.data, whole.length = &view[0], <uint32_t>view.shape[0]
    memcpy(&whole.vnet, &said[0], sizeof(vx_vnet))
    dissect(whole.data, whole.length, &flow, False)
    if whole.vnet.gso_type:
        return all_pieces(&whole, &flow)
    if whole.vnet.flags & VX_VNET_NEEDS_CSUM and not finish_partial(whole.data, whole.length, &whole.vnet):
        return None
    return [bytes(frame)]


cdef list all_pieces(const Frame *frame, const Flow *flow):
    """None when the frame cannot be cut."""
    cdef Whole w
    cdef Cuts cuts
    cdef uint32_t i
    pieces = []
    if not gso_begin(&w, frame, flow):
        return None
    cuts.heads = <uint8_t *>malloc(HEADS_LEN)
    cuts.pieces = <Piece *>malloc(MAX_PIECES * sizeof(Piece))
    try:
        while w.done < w.payload_len:
            cuts.n = cuts.used = 0
            for i in range(gso_cut(&w, &cuts, 0)):
                head = cuts.pieces[i].head[VX_VXLAN_LEN : cuts.pieces[i].head_len]
                pieces.append(head + cuts.pieces[i].body[: cuts.pieces[i].body_len])
    finally:
        free(cuts.heads)
        free(cuts.pieces)
    return pieces
