"""The gateway between VLANs and VXLAN segments: tags off in front of encap, tags on behind decap.

Place in the house: above batch and flow, beside codec. What it does is written down readably in
vxcore/wire.py (``untag``, ``tag``), and tests hold one against the other.
"""

from libc.stdint cimport uint8_t, uint32_t, uintptr_t
from libc.string cimport memmove

import numpy as np

from vxcore._fast.batch cimport PacketBatch, Packets, in_slot
from vxcore._fast.c_bytes cimport vx_load16, vx_prefetch, vx_store32
from vxcore._fast.c_wire cimport VX_ETH_LEN, VX_TAG_LEN
from vxcore._fast.flow cimport ETHERTYPE_VLAN, is_tag
from vxcore._fast.verdict cimport *

from vxcore import wire

cdef enum:
    N_VLANS = 4096           # of which a map has at most 4,095
    VNI_SLOTS = 8192         # a power of two, and at most half full: a search ends after a few steps
    PREFETCH = 8             # packets ahead, as in the codec
    NOT_MAPPED = 0xFFFFFFFF


# Eight bytes on the way from a VNI to its VLAN; vni is NOT_MAPPED in an empty one.
cdef struct VniSlot:
    uint32_t vni
    uint32_t vlan


cdef class VlanMap:
    """Which VNI each VLAN is, both ways (RFC 7348 section 6).

    ``VlanMap({10: 5010, 20: 5020})`` takes the mapping of ``vxcore.wire.VlanSpec`` and raises its
    ConfigError; VLAN 0 stands for frames without a tag. ``spec`` is that object. Immutable, and usable
    from any thread.
    """

    cdef uint32_t vni_of[N_VLANS]
    cdef uint32_t place_of[N_VLANS]
    cdef VniSlot slots[VNI_SLOTS]
    cdef readonly object spec

    def __init__(self, vnis):
        cdef int i
        self.spec = wire.VlanSpec(vnis)
        for i in range(N_VLANS):
            self.vni_of[i] = self.place_of[i] = NOT_MAPPED
        for i in range(VNI_SLOTS):
            self.slots[i].vni = NOT_MAPPED
        for i, (vlan, vni) in enumerate(self.spec.vnis.items()):
            self.vni_of[<uint32_t>vlan] = vni
            self.place_of[<uint32_t>vlan] = i
            find_slot(self.slots, vni).vlan = vlan
            find_slot(self.slots, vni).vni = vni

    def __len__(self) -> int:
        return len(self.spec.vnis)

    def untag(self, PacketBatch batch not None):
        """Take the outermost VLAN tag off every frame, in front of ``encap``.

        Sets each packet's vni to its VLAN's, and its verdict to UNKNOWN_VLAN where the map has none;
        a frame without a tag or with a priority tag belongs to VLAN 0. Packets whose verdict is not
        DELIVERED are passed over. Returns a new uint32 array of shape (n,): the place in the map, in
        the mapping's order, of each packet's VLAN (0 for those not delivered). It is the `index` for a
        TunnelSet whose tunnels stand in that order.
        """
        places = np.zeros(batch.p.n, np.uint32)
        cdef uint32_t *place = <uint32_t *><uintptr_t>places.ctypes.data
        with nogil:
            untag_all(&batch.p, self, place)
        return places

    def tag(self, PacketBatch batch not None) -> int:
        """Put into every frame the 802.1Q tag of its vni's VLAN, behind ``decap``; none for VLAN 0.

        Takes four bytes of headroom. Sets the verdict to UNKNOWN_VNI where the map has no VLAN, and
        passes over packets whose verdict is not DELIVERED. Returns how many frames are delivered.
        """
        cdef uint32_t done
        with nogil:
            done = tag_all(&batch.p, self.slots)
        return done


cdef inline VniSlot *find_slot(VniSlot *slots, uint32_t vni) noexcept nogil:
    """The slot that holds the VNI, or the empty one where it would be."""
    cdef uint32_t at = (vni * 0x9E3779B1u) >> 19  # Fibonacci hashing: the top 13 bits
    while slots[at].vni != vni and slots[at].vni != NOT_MAPPED:
        at = (at + 1) & (VNI_SLOTS - 1)
    return &slots[at]


cdef void untag_all(const Packets *packets, VlanMap vlans, uint32_t *place) noexcept nogil:
    cdef Packets p = packets[0]
    cdef uint32_t i, vlan = 0
    for i in range(p.n):
        if i + PREFETCH < p.n:
            vx_prefetch(p.mem + p.offset[i + PREFETCH])
        if p.verdict[i] != DELIVERED:
            continue
        p.verdict[i] = untag_one(&p, i, vlans.vni_of, &vlan)
        if p.verdict[i] == DELIVERED:
            p.vni[i], place[i] = vlans.vni_of[vlan], vlans.place_of[vlan]


cdef inline Verdict untag_one(const Packets *p, uint32_t i, const uint32_t *vni_of,
                              uint32_t *vlan) noexcept nogil:
    cdef uint32_t offset = p.offset[i]
    cdef uint32_t length = p.length[i]
    cdef uint8_t *frame
    cdef bint tagged
    if not in_slot(p, i, offset, length):
        return BAD_SLOT
    if length < VX_ETH_LEN:
        return INNER_TOO_SHORT
    frame = p.mem + offset
    tagged = is_tag(vx_load16(frame + 12))
    if tagged and length < VX_ETH_LEN + VX_TAG_LEN:
        return INNER_TOO_SHORT
    vlan[0] = vx_load16(frame + VX_ETH_LEN) & 0xFFF if tagged else 0
    if vni_of[vlan[0]] == NOT_MAPPED:
        return UNKNOWN_VLAN
    if tagged:
        memmove(frame + VX_TAG_LEN, frame, 12)
        p.offset[i], p.length[i] = offset + VX_TAG_LEN, length - VX_TAG_LEN
    return DELIVERED


cdef uint32_t tag_all(const Packets *packets, VniSlot *slots) noexcept nogil:
    cdef Packets p = packets[0]
    cdef uint32_t i, done = 0
    for i in range(p.n):
        if i + PREFETCH < p.n:
            vx_prefetch(p.mem + p.offset[i + PREFETCH])
        if p.verdict[i] == DELIVERED:
            p.verdict[i] = tag_one(&p, i, find_slot(slots, p.vni[i] & 0xFFFFFF))
            done += p.verdict[i] == DELIVERED
    return done


cdef inline Verdict tag_one(const Packets *p, uint32_t i, const VniSlot *slot) noexcept nogil:
    cdef uint32_t offset = p.offset[i]
    cdef uint32_t length = p.length[i]
    cdef uint8_t *frame
    if not in_slot(p, i, offset, length):
        return BAD_SLOT
    if slot.vni != p.vni[i]:
        return UNKNOWN_VNI
    if length < VX_ETH_LEN:
        return INNER_TOO_SHORT
    if slot.vlan == 0:
        return DELIVERED
    if offset - p.slot[i] < VX_TAG_LEN:
        return NO_HEADROOM
    frame = p.mem + offset
    memmove(frame - VX_TAG_LEN, frame, 12)
    vx_store32(frame + 12 - VX_TAG_LEN, <uint32_t>ETHERTYPE_VLAN << 16 | slot.vlan)
    p.offset[i], p.length[i] = offset - VX_TAG_LEN, length + VX_TAG_LEN
    return DELIVERED
