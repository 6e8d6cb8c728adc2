"""Coalescing: frames of one TCP or UDP flow that follow each other reach the hosts as one super-frame.

Place in the house: above flow and port, beside gso, whose inverse it is; below the lane. The rules are
those of Linux's GRO (net/ipv4/tcp_offload.c): same flow and headers, contiguous, of one size but the
last, no flag but ACK, and FIN or PSH on the last; the checksum was verified, or left to us to finish
by a sender on this machine. Anything doubtful goes singly, and in order.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memset

from vxcore._fast.c_bytes cimport (
    vx_load16, vx_load16_raw, vx_load32, vx_load32_raw, vx_load64_raw, vx_store16, vx_store16_raw,
)
from vxcore._fast.c_csum cimport vx_csum_add, vx_csum_fold
from vxcore._fast.c_net cimport iovec
from vxcore._fast.c_wire cimport *
from vxcore._fast.flow cimport *
from vxcore._fast.port cimport Frame, Overlay

cdef enum:
    TCP_CHECK_OFF = 16
    TCP_MIN_LEN = 20
    TCP_ACK = 0x10
    TCP_FIN_PSH = 0x09
    UDP_CHECK_OFF = 6
    IPV4_DF = 0x4000
    MAX_IP_LEN = 65535


cdef void gro_add(Joins *joins, Overlay *port, uint8_t *frame, uint32_t length,
                  const Flow *flow) noexcept nogil:
    """Take one frame for the port: join it to what waits, let it wait, or send it on."""
    cdef Join *join = &joins.slots[(flow.hash ^ flow.hash >> 16) % N_JOINS]
    cdef uint32_t header_len = 0
    cdef bint mine
    if flow.l4_off == 0 or (flow.proto != PROTO_TCP and flow.proto != PROTO_UDP):
        gro_flush(joins)  # it may belong to a flow that waits: a fragment, say
        send_singly(port, frame, length, flow)
        return
    if joins.tcp if flow.proto == PROTO_TCP else joins.udp:
        header_len = joinable(frame, length, flow)
    mine = join.n != 0 and join.port == port and join.flow.hash == flow.hash
    if mine and header_len and follows(join, frame, length, flow, header_len):
        append(join, frame, length, flow, header_len)
        return
    send_joined(join)
    if header_len and port.superframes and not ends_run(frame, flow):
        begin(join, port, frame, length, flow, header_len)
    else:
        send_singly(port, frame, length, flow)


cdef inline bint ends_run(const uint8_t *frame, const Flow *flow) noexcept nogil:
    return flow.proto == PROTO_TCP and frame[flow.l4_off + 13] & TCP_FIN_PSH


cdef uint32_t joinable(const uint8_t *frame, uint32_t length, const Flow *flow) noexcept nogil:
    """The length of the headers of a frame that may be part of a super-frame; 0 when it may not."""
    cdef uint32_t header_len = flow.l4_off + VX_UDP_LEN
    cdef const uint8_t *l4 = frame + flow.l4_off
    if flow.n_tags or flow.l4_len != length - flow.l4_off:  # also when cut short, or padded
        return 0
    if flow.l4_off - flow.ip_off != <uint32_t>(VX_IPV4_LEN if flow.version == 4 else VX_IPV6_LEN):
        return 0
    if flow.proto == PROTO_TCP:
        if flow.l4_len < TCP_MIN_LEN or l4[13] & ~TCP_FIN_PSH != TCP_ACK or l4[12] & 15 or l4[12] >> 4 < 5:
            return 0
        header_len = flow.l4_off + (l4[12] >> 4) * 4
    elif flow.l4_len < VX_UDP_LEN or vx_load16(l4 + 4) != flow.l4_len or vx_load16_raw(l4 + 6) == 0:
        return 0
    if header_len >= length or not checksum_holds(frame, flow):
        return 0
    return header_len


cdef bint checksum_holds(const uint8_t *frame, const Flow *flow) noexcept nogil:
    """Whether the IPv4 header's checksum is right, and the transport's right or partial."""
    cdef const uint8_t *l4 = frame + flow.l4_off
    cdef const uint8_t *ip = frame + flow.ip_off
    cdef uint32_t field_off = TCP_CHECK_OFF if flow.proto == PROTO_TCP else UDP_CHECK_OFF
    cdef uint64_t pseudo = pseudo_sum(frame, flow)
    if flow.version == 4 and vx_csum_fold(vx_csum_add(ip, VX_IPV4_LEN, 0)) != 0xFFFF:
        return False
    if vx_load16_raw(l4 + field_off) == vx_csum_fold(pseudo):
        return True
    return vx_csum_fold(vx_csum_add(l4, flow.l4_len, pseudo)) == 0xFFFF


cdef bint follows(const Join *join, const uint8_t *frame, uint32_t length, const Flow *flow,
                  uint32_t header_len) noexcept nogil:
    """Whether the frame continues the super-frame: what could differ in its headers does not."""
    cdef const uint8_t *first = join.frame
    cdef uint32_t payload_len = length - header_len
    if (header_len != join.header_len or payload_len > join.size or join.n == MAX_JOINED
            or join.length - flow.ip_off + payload_len > MAX_IP_LEN):
        return False
    if flow.version != join.flow.version or flow.proto != join.flow.proto or memcmp(first, frame, VX_ETH_LEN):
        return False
    if flow.version == 4:
        return same_ipv4(join, frame) and same_l4(join, frame, flow)
    return same_ipv6(first + VX_ETH_LEN, frame + VX_ETH_LEN) and same_l4(join, frame, flow)


cdef inline bint same_ipv4(const Join *join, const uint8_t *frame) noexcept nogil:
    """TOS, DF, TTL, protocol and addresses alike; the identification counts on, or with DF stays."""
    cdef const uint8_t *a = join.frame + VX_ETH_LEN
    cdef const uint8_t *b = frame + VX_ETH_LEN
    cdef uint16_t step = vx_load16(b + 4) - join.first_id
    cdef uint16_t fragment = vx_load16(b + 6)
    if (vx_load16_raw(a) != vx_load16_raw(b) or vx_load16(a + 6) != fragment or a[8] != b[8]
            or vx_load64_raw(a + 12) != vx_load64_raw(b + 12)):
        return False
    if fragment & IPV4_DF and step == 0:
        return join.n == 1 or join.same_id
    return step == <uint16_t>join.n and not join.same_id


cdef inline bint same_ipv6(const uint8_t *a, const uint8_t *b) noexcept nogil:
    return (vx_load32_raw(a) == vx_load32_raw(b) and vx_load16_raw(a + 6) == vx_load16_raw(b + 6)
            and memcmp(a + 8, b + 8, 32) == 0)


cdef inline bint same_l4(const Join *join, const uint8_t *frame, const Flow *flow) noexcept nogil:
    cdef const uint8_t *a = join.frame + flow.l4_off
    cdef const uint8_t *b = frame + flow.l4_off
    if vx_load32_raw(a) != vx_load32_raw(b):
        return False
    if flow.proto == PROTO_UDP:
        return True
    # Acknowledgement, data offset, window, urgent pointer and options alike; flags but FIN and PSH are.
    return (vx_load32(b + 4) == join.next_seq and vx_load32_raw(a + 8) == vx_load32_raw(b + 8)
            and vx_load16_raw(a + 14) == vx_load16_raw(b + 14)
            and vx_load16_raw(a + 18) == vx_load16_raw(b + 18)
            and memcmp(a + TCP_MIN_LEN, b + TCP_MIN_LEN, join.header_len - flow.l4_off - TCP_MIN_LEN) == 0)


cdef void begin(Join *join, Overlay *port, uint8_t *frame, uint32_t length, const Flow *flow,
                uint32_t header_len) noexcept nogil:
    join.port, join.flow, join.frame = port, flow[0], frame
    join.length, join.header_len, join.size, join.n = length, header_len, length - header_len, 1
    join.first_id, join.same_id = vx_load16(frame + VX_ETH_LEN + 4), False
    if flow.proto == PROTO_TCP:
        join.next_seq = vx_load32(frame + flow.l4_off + 4) + join.size
    join.parts[1] = iovec(frame, length)


cdef void append(Join *join, uint8_t *frame, uint32_t length, const Flow *flow,
                 uint32_t header_len) noexcept nogil:
    cdef uint32_t payload_len = length - header_len
    if join.n == 1 and flow.version == 4:
        join.same_id = vx_load16(frame + VX_ETH_LEN + 4) == join.first_id
    join.n += 1
    join.parts[join.n] = iovec(frame + header_len, payload_len)
    join.length += payload_len
    join.next_seq += payload_len
    if ends_run(frame, flow):
        join.frame[flow.l4_off + 13] |= frame[flow.l4_off + 13]
        send_joined(join)
    elif payload_len < join.size or join.n == MAX_JOINED:
        send_joined(join)


cdef void gro_flush(Joins *joins) noexcept nogil:
    """Send all that waits; its memory is about to be used again."""
    cdef int i
    for i in range(N_JOINS):
        if joins.slots[i].n:
            send_joined(&joins.slots[i])


cdef void send_joined(Join *join) noexcept nogil:
    cdef vx_vnet vnet
    cdef uint32_t n = join.n
    join.n = 0
    if n == 0:
        return
    if n == 1:
        send_singly(join.port, join.frame, join.length, &join.flow)
        return
    patch_lengths(join)
    memset(&vnet, 0, sizeof(vx_vnet))
    vnet.flags = VX_VNET_NEEDS_CSUM
    vnet.csum_start = <uint16_t>join.flow.l4_off
    vnet.csum_offset = TCP_CHECK_OFF if join.flow.proto == PROTO_TCP else UDP_CHECK_OFF
    vnet.hdr_len, vnet.gso_size = <uint16_t>join.header_len, <uint16_t>join.size
    vnet.gso_type = VX_VNET_GSO_UDP_L4
    if join.flow.proto == PROTO_TCP:
        vnet.gso_type = VX_VNET_GSO_TCPV4 if join.flow.version == 4 else VX_VNET_GSO_TCPV6
    join.port.send(join.port.state, join.parts, n + 1, &vnet, n)


cdef void patch_lengths(Join *join) noexcept nogil:
    """The first frame's headers become the super-frame's; the transport checksum becomes partial."""
    cdef uint8_t *ip = join.frame + join.flow.ip_off
    cdef uint8_t *l4 = join.frame + join.flow.l4_off
    cdef uint32_t ip_len = join.length - join.flow.ip_off
    cdef uint32_t check_off = TCP_CHECK_OFF
    join.flow.l4_len = join.length - join.flow.l4_off
    if join.flow.version == 4:
        vx_store16(ip + 2, <uint16_t>ip_len)
        vx_store16_raw(ip + 10, 0)
        vx_store16_raw(ip + 10, ~vx_csum_fold(vx_csum_add(ip, VX_IPV4_LEN, 0)))
    else:
        vx_store16(ip + 4, <uint16_t>(ip_len - VX_IPV6_LEN))
    if join.flow.proto == PROTO_UDP:
        vx_store16(l4 + 4, <uint16_t>join.flow.l4_len)
        check_off = UDP_CHECK_OFF
    vx_store16_raw(l4 + check_off, vx_csum_fold(pseudo_sum(join.frame, &join.flow)))


cdef void send_singly(Overlay *port, uint8_t *frame, uint32_t length, const Flow *flow) noexcept nogil:
    """A frame as it arrived. The port is told of a checksum still to finish, and of a TCP super-frame
    to be cut to its MTU: a kernel peer with tunnel offloads hands us both. Cutting TCP at any size is
    right, so the MTU is as good as the unknown original size.
    """
    cdef iovec parts[2]
    cdef vx_vnet vnet
    describe_undone(frame, length, flow, port.mtu, &vnet)
    parts[1] = iovec(frame, length)
    port.send(port.state, parts, 2, &vnet, 1)


cdef void describe_frame(Frame *frame, uint32_t mtu) noexcept nogil:
    """Of a frame without a virtio-net header it is known only that something may be yet to be done."""
    cdef Flow flow
    dissect(frame.data, frame.length, &flow, False)
    describe_undone(frame.data, frame.length, &flow, mtu, &frame.vnet)


cdef void describe_undone(const uint8_t *frame, uint32_t length, const Flow *flow, uint32_t mtu,
                          vx_vnet *vnet) noexcept nogil:
    cdef uint32_t field_off, header_len
    memset(vnet, 0, sizeof(vx_vnet))
    if not checksum_is_partial(frame, length, flow, &field_off):
        return
    vnet.flags = VX_VNET_NEEDS_CSUM
    vnet.csum_start = <uint16_t>flow.l4_off
    vnet.csum_offset = <uint16_t>field_off
    if flow.proto != PROTO_TCP or length <= mtu + VX_ETH_LEN:
        return
    header_len = flow.l4_off + (frame[flow.l4_off + 12] >> 4) * 4
    if header_len - flow.ip_off >= mtu or header_len < flow.l4_off + 20 or header_len >= length:
        return
    vnet.gso_type = VX_VNET_GSO_TCPV4 if flow.version == 4 else VX_VNET_GSO_TCPV6
    vnet.hdr_len = <uint16_t>header_len
    vnet.gso_size = <uint16_t>(mtu - (header_len - flow.ip_off))


# -- for tests --------------------------------------------------------------------------------------

cdef struct Collected:
    void *frames             # the Python list that frames are added to


cdef void collect(void *state, iovec *parts, uint32_t n, const vx_vnet *vnet,
                  uint32_t n_packets) noexcept nogil:
    with gil:
        frame = b"".join([(<const uint8_t *>parts[i].iov_base)[: parts[i].iov_len] for i in range(1, n)])
        (<list>(<Collected *>state).frames).append((frame, vnet[0]))


def joined(frames, mtu: int = 1450, tcp: bool = True, udp: bool = True) -> list[tuple[bytes, dict]]:
    """What a port would be sent if the frames arrived in this order: (frame, virtio-net header) pairs.

    Takes bytes-like frames of at least 14 bytes; writable ones are changed.
    """
    cdef Overlay port
    cdef Collected collected
    cdef Joins *joins = <Joins *>calloc(1, sizeof(Joins))
    cdef Flow flow
    cdef uint8_t[::1] view
    cdef list out = []
    memset(&port, 0, sizeof(Overlay))
    collected.frames = <void *>out
    port.state, port.send, port.mtu, port.superframes = &collected, collect, mtu, True
    # They stay until the flush.
    frames = [bytearray(frame) if memoryview(frame).readonly else frame for frame in frames]
    joins.tcp, joins.udp = tcp, udp
    for view in frames:
        dissect(&view[0], <uint32_t>view.shape[0], &flow, False)
        gro_add(joins, &port, &view[0], <uint32_t>view.shape[0], &flow)
    gro_flush(joins)
    free(joins)
    return out
