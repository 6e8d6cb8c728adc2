"""Trunk: segments that share one overlay port, told apart by the 802.1Q tags of its frames.

Place in the house: above port, below the lane. Each VLAN is a port of its own that sends by the trunk's,
with the tag put in; so what the lane joins, answers and counts for a segment's port needs to know nothing of
tags. What the trunk receives the lane gives to ``claim``.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memmove

from vxcore._fast.c_atomic cimport vx_load_acquire, vx_load_acquire_p
from vxcore._fast.c_bytes cimport vx_load16, vx_store32
from vxcore._fast.c_net cimport iovec
from vxcore._fast.c_wire cimport VX_ETH_LEN, VX_TAG_LEN, VX_VNET_NEEDS_CSUM, vx_vnet
from vxcore._fast.flow cimport ETHERTYPE_VLAN, is_tag
from vxcore._fast.port cimport N_VLANS, NO_SEGMENT, Frame, Overlay, OverlayPort
from vxcore._fast.verdict cimport *

cdef enum:
    ADDRESSES_LEN = 12       # in front of a tag
    MAX_PARTS = 66           # that a lane sends a frame in: as many as it joins
    VLAN_MASK = 0xFFF        # of the tag, beside priority and drop eligibility


cdef struct State:
    Overlay *port
    Overlay *trunk
    uint8_t tag[4]           # where the parts of what is sent point to


cdef class VlanPort(OverlayPort):
    """One VLAN, 1 to 4094, of a trunk's port of the same lane, for the segment of that number in the tables.

    It has no descriptor: what comes of the VLAN the trunk receives, once ``trunk.set_vlan`` says so.
    """

    cdef State s
    cdef OverlayPort trunk

    def __init__(self, OverlayPort trunk not None, vlan: int, segment: int):
        if not 1 <= vlan < N_VLANS - 1:
            raise ValueError(f"VLAN {vlan}: 1 to {N_VLANS - 2} is right")
        self.name, self.trunk = f"{trunk.name} VLAN {vlan}", trunk
        self.s.port, self.s.trunk = &self.port, &trunk.port
        vx_store32(self.s.tag, <uint32_t>ETHERTYPE_VLAN << 16 | <uint32_t>vlan)
        self.port.state, self.port.fd, self.port.segment = &self.s, -1, segment
        self.port.receive, self.port.send, self.port.flush = receive, send, flush
        follow(&self.s)


cdef inline void follow(State *s) noexcept nogil:
    """What the device can do changes with it."""
    s.port.mtu, s.port.superframes = s.trunk.mtu, s.trunk.superframes


cdef int receive(void *state, Frame *out, uint32_t max, uint32_t budget) noexcept nogil:
    """The trunk receives."""
    return 0


cdef void send(void *state, iovec *parts, uint32_t n, const vx_vnet *vnet,
               uint32_t n_packets) noexcept nogil:
    """With the tag behind the addresses, which are in the first part."""
    cdef State *s = <State *>state
    cdef iovec tagged[MAX_PARTS + 2]
    cdef vx_vnet moved = vnet[0]
    cdef uint8_t *first = <uint8_t *>parts[1].iov_base
    move_offsets(&moved, VX_TAG_LEN)
    tagged[1] = iovec(first, ADDRESSES_LEN)
    tagged[2] = iovec(&s.tag[0], VX_TAG_LEN)
    tagged[3] = iovec(first + ADDRESSES_LEN, parts[1].iov_len - ADDRESSES_LEN)
    memcpy(&tagged[4], &parts[2], (n - 2) * sizeof(iovec))
    s.trunk.send(s.trunk.state, tagged, n + 2, &moved, n_packets)


cdef void flush(void *state) noexcept nogil:
    cdef State *s = <State *>state
    s.trunk.flush(s.trunk.state)
    follow(s)


cdef inline void move_offsets(vx_vnet *vnet, int by) noexcept nogil:
    """A tag more or less in front of what a virtio-net header points to. What a hostile header makes of it is
    held against the frame where it is used.
    """
    if vnet.flags & VX_VNET_NEEDS_CSUM:
        vnet.csum_start += <uint16_t>by
    if vnet.hdr_len >= VX_TAG_LEN:
        vnet.hdr_len += <uint16_t>by


cdef uint32_t claim(Overlay *trunk, Frame *frame, Overlay **port, Verdict *why) noexcept nogil:
    cdef uint16_t ethertype = vx_load16(frame.data + ADDRESSES_LEN)
    cdef uint32_t segment = NO_SEGMENT
    port[0] = trunk
    if ethertype == ETHERTYPE_VLAN:
        if frame.length < VX_ETH_LEN + VX_TAG_LEN:
            why[0] = INNER_TOO_SHORT
            return NO_SEGMENT
        port[0] = port_of(trunk, vx_load16(frame.data + VX_ETH_LEN) & VLAN_MASK)
    if port[0] != NULL:
        segment = vx_load_acquire(&port[0].segment)
    if segment == NO_SEGMENT:
        why[0] = UNKNOWN_VLAN if ethertype == ETHERTYPE_VLAN or not is_tag(ethertype) else INNER_VLAN
    elif ethertype == ETHERTYPE_VLAN:
        take_tag_off(frame)
    return segment


cdef inline Overlay *port_of(Overlay *trunk, uint32_t vlan) noexcept nogil:
    """VLAN 0 is none: such a tag only has a priority (IEEE 802.1Q, 6.9)."""
    cdef Overlay **vlans = <Overlay **>vx_load_acquire_p(<void **>&trunk.vlans)
    if vlan == 0:
        return trunk
    return NULL if vlans == NULL else <Overlay *>vx_load_acquire_p(<void **>&vlans[vlan])


cdef inline void take_tag_off(Frame *frame) noexcept nogil:
    frame.data += VX_TAG_LEN
    frame.length -= VX_TAG_LEN
    memmove(frame.data, frame.data - VX_TAG_LEN, ADDRESSES_LEN)
    move_offsets(&frame.vnet, -VX_TAG_LEN)


# -- for tests --------------------------------------------------------------------------------------

cdef struct Collected:
    void *frames             # the Python list that frames are added to


cdef void collect(void *state, iovec *parts, uint32_t n, const vx_vnet *vnet,
                  uint32_t n_packets) noexcept nogil:
    with gil:
        frame = b"".join([(<const uint8_t *>parts[i].iov_base)[: parts[i].iov_len] for i in range(1, n)])
        (<list>(<Collected *>state).frames).append((frame, vnet[0], n_packets))


def tagged(vlan: int, parts, header, n_packets: int = 1) -> tuple[bytes, dict, int]:
    """What the trunk is given of a frame that goes to a VLAN in these parts, writable buffers, the first of
    at least 14 bytes: the frame, its virtio-net header and the number of packets.
    """
    cdef OverlayPort trunk = OverlayPort()
    cdef VlanPort port
    cdef Collected collected
    cdef iovec given[MAX_PARTS]
    cdef const uint8_t[::1] said = header
    cdef uint8_t[::1] view
    cdef uint32_t n = 1
    out = []
    collected.frames = <void *>out
    trunk.port.state, trunk.port.send = &collected, collect
    port = VlanPort(trunk, vlan, 0)
    for view in parts:
        given[n] = iovec(&view[0], view.shape[0])
        n += 1
    port.port.send(port.port.state, given, n, <const vx_vnet *>&said[0], n_packets)
    return out[0]


def claimed(frame, header, segments: dict[int, int]) -> tuple[int, bytes, dict] | int:
    """Of a frame of a trunk whose VLANs have these segments (VLAN 0: what has no tag): the segment, the frame
    as it enters it, and its virtio-net header; or the verdict.
    """
    cdef OverlayPort trunk = OverlayPort()
    cdef Verdict why = DELIVERED
    cdef bytearray copy = bytearray(frame)
    cdef uint8_t[::1] view = copy
    cdef const uint8_t[::1] said = header
    cdef Frame given
    cdef Overlay *port = NULL
    cdef uint32_t segment
    trunk.port.segment = segments.get(0, <uint32_t>NO_SEGMENT)
    ports = [VlanPort(trunk, vlan, segment) for vlan, segment in segments.items() if vlan]
    for vlan, each in zip([vlan for vlan in segments if vlan], ports, strict=True):
        trunk.set_vlan(vlan, each)
    given.data, given.length = &view[0], <uint32_t>view.shape[0]
    memcpy(&given.vnet, &said[0], sizeof(vx_vnet))
    segment = claim(&trunk.port, &given, &port, &why)
    if segment == NO_SEGMENT:
        return <int>why
    return segment, given.data[: given.length], given.vnet
