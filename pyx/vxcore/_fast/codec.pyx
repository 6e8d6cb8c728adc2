"""The codec: encapsulate and decapsulate a batch in place, in the packets' headroom.

Place in the house: above batch and flow, beside table. What the wire demands is written down readably
in vxcore/wire.py; here is the same, fast, and tests hold one against the other. Settings are wire's,
checked there; a Tunnel is those settings compiled to a header template that is copied in front of a
frame and patched.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memmove, memset

import numpy as np

from vxcore._fast.batch cimport PacketBatch, Packets, in_slot
from vxcore._fast.c_bytes cimport (
    vx_be16, vx_load16, vx_load16_raw, vx_load32, vx_prefetch, vx_prefetch_write, vx_store16, vx_store16_raw,
    vx_store32, vx_store64_raw,
)
from vxcore._fast.c_csum cimport vx_csum_add, vx_csum_fold
from vxcore._fast.c_quick cimport vx_decap_quick, vx_encap_one_tunnel, vx_encap_tunnels
from vxcore._fast.c_wire cimport *
from vxcore._fast.flow cimport *
from vxcore._fast.verdict cimport *

from vxcore import wire
from vxcore.verdict import Verdict as VerdictEnum

cdef enum:
    DEFAULT_TTL = 64         # for an inner packet that has none to inherit
    # Linux's VXLAN_GBP word (uapi/linux/if_link.h) and where its bits stand in the header
    GBP_ID = 0xFFFF
    GBP_D = 0x400000
    GBP_A = 0x080000
    GBP_FLAG = 0x80
    GBP_HEADER_D = 0x40
    GBP_HEADER_A = 0x08


cdef class Tunnel:
    """One VTEP's way to another: a prebuilt outer header.

    Takes the keyword arguments of ``vxcore.wire.TunnelSpec`` (local, remote, vni, ports, ttl, tos,
    df, checksum, ECN and VLAN policy, ethernet addresses) and raises its ConfigError; ``spec`` is
    that object. Immutable, and usable from any thread.
    """

    def __init__(self, *, local, remote, vni, **options):
        self.spec = wire.TunnelSpec(local=local, remote=remote, vni=vni, **options)
        compile_template(&self.template, self.spec)

    def __repr__(self) -> str:
        return f"<Tunnel vni {self.spec.vni} {self.spec.local} -> {self.spec.remote}>"


cdef class TunnelSet:
    """Tunnels in one array, for ``encap`` of packets with many destinations.

    ``TunnelSet(tunnels)`` copies the sequence; packet i then goes through ``tunnels[index[i]]``.
    """

    def __init__(self, tunnels):
        tunnels = list(tunnels)
        raw = np.zeros((len(tunnels) + 1) * sizeof(Template), np.uint8)
        start = -raw.ctypes.data % 64
        self._memory = raw
        self.templates = <Template *><uintptr_t>(raw.ctypes.data + start)
        self.count = len(tunnels)
        for i, tunnel in enumerate(tunnels):
            self.templates[i] = (<Tunnel?>tunnel).template

    def __len__(self) -> int:
        return self.count


cdef int compile_template(Template *t, spec) except -1:
    """Let wire build the header of an empty frame, and blank what differs from packet to packet."""
    memset(t, 0, sizeof(Template))
    packet = wire.encapsulate(bytes(VX_ETH_LEN), spec)[1]
    header = bytearray(packet[: len(packet) - VX_ETH_LEN])
    t.header_len = len(header)
    t.version = spec.local.version
    t.ip_len = IPV4_AT if t.version == 4 else IPV6_AT
    t.layer = LAYER_ETHERNET if spec.ethernet else LAYER_IP
    blank(header, t.header_len - t.ip_len, t.version)
    memcpy(t.header + TEMPLATE_LEN - t.header_len, <char *>header, t.header_len)
    if t.version == 4:
        t.ip_sum = vx_be16(vx_csum_fold(vx_csum_add(t.header + TEMPLATE_LEN - IPV4_AT, VX_IPV4_LEN, 0)))
    t.vni = spec.vni
    ports = spec.src_port if isinstance(spec.src_port, tuple) else (spec.src_port, spec.src_port)
    t.port_min, t.n_ports = ports[0], ports[1] - ports[0] + 1
    t.tos = 0 if spec.tos == "inherit" else spec.tos & 0xFC
    t.ttl = 0 if spec.ttl == "inherit" else spec.ttl
    t.label = 0 if spec.flow_label == "hash" else spec.flow_label
    t.flags = flags_of(spec)
    t.quick = t.version == 4 and not t.flags & RARE
    if t.quick:
        compile_quick(t)
    return 0


cdef void compile_quick(Template *t) noexcept nogil:
    """Complete the IPv4 header but for its lengths, its number and its checksum, and sum it."""
    cdef uint8_t *ip = t.header + TEMPLATE_LEN - IPV4_AT
    t.is_counted = not t.flags & DF_SET
    ip[1], ip[8] = t.tos, t.ttl
    vx_store16(ip + 6, 0 if t.is_counted else IPV4_DF)
    t.quick_sum = vx_be16(vx_csum_fold(vx_csum_add(ip, VX_IPV4_LEN, 0)))


cdef int blank(header, ip_at: int, version: int) except -1:
    zero = [(2, 8), (1, 2), (8, 9), (10, 12)] if version == 4 else [(4, 6), (7, 8)]
    for start, end in zero:
        header[ip_at + start : ip_at + end] = bytes(end - start)
    if version == 6:
        header[ip_at : ip_at + 4] = b"\x60\0\0\0"
    udp_at = len(header) - UDP_AT
    header[udp_at : udp_at + 2] = bytes(2)
    header[udp_at + 4 : udp_at + 8] = bytes(4)
    return 0


def flags_of(spec) -> int:
    """The policies of a TunnelSpec as bits."""
    checksum = spec.udp_checksum if spec.udp_checksum is not None else spec.local.version == 6
    chosen = {
        TOS_INHERIT: spec.tos == "inherit",
        TTL_INHERIT: spec.ttl == "inherit",
        DF_SET: spec.df == "set",
        DF_INHERIT: spec.df == "inherit",
        UDP_CHECK: checksum,
        ECN_LINUX: spec.ecn == "linux",
        LABEL_HASH: spec.flow_label == "hash",
        VLAN_STRIP: spec.inner_vlan == "strip",
        VLAN_PASS: spec.inner_vlan == "pass",
        WITH_GBP: spec.gbp,
        SYMMETRIC: spec.symmetric,
    }
    return sum(bit for bit, wanted in chosen.items() if wanted)


# -- encapsulation -------------------------------------------------------------------------------


def encap(PacketBatch batch not None, tunnels, index=None, layer=None) -> int:
    """Put outer headers in front of every packet of the batch; return how many were encapsulated.

    `tunnels` is a Tunnel for all, or a TunnelSet with `index`, a uint32 array of shape (n,) that
    says which tunnel packet i takes. `layer` (vxcore.Layer) says how much to put in front: from the
    outer Ethernet header, from the IP header, or the VXLAN header alone as a UDP socket wants it;
    default: all that the tunnel has. Sets verdict, vni, source_port and tos of each packet; packets
    whose verdict is not DELIVERED are passed over, and one that fails is left as it was, but for a
    VLAN tag already stripped.

    Raises TypeError or ValueError for wrong arguments, before any packet is touched.
    """
    cdef const uint32_t[::1] picks
    cdef Template *templates
    cdef uint32_t n_templates = 1
    cdef int from_layer
    cdef uint32_t done
    if isinstance(tunnels, Tunnel):
        templates = &(<Tunnel>tunnels).template
    elif isinstance(tunnels, TunnelSet):
        templates, n_templates = (<TunnelSet>tunnels).templates, (<TunnelSet>tunnels).count
    else:
        raise TypeError(f"tunnels is a {type(tunnels).__name__}; a Tunnel or a TunnelSet is needed")
    from_layer = -1 if layer is None else check_layer(layer)
    check_ethernet(templates, n_templates, from_layer)
    if index is None:
        if isinstance(tunnels, TunnelSet):
            raise ValueError("a TunnelSet needs an index: a uint32 array, one for each packet")
        with nogil:
            done = encap_all(&batch.p, templates, 1, NULL, from_layer)
        return done
    picks = index
    if picks.shape[0] != batch.p.n:
        raise ValueError(f"index has {picks.shape[0]} elements, the batch {batch.p.n} packets")
    if batch.p.n == 0:
        return 0
    with nogil:
        done = encap_all(&batch.p, templates, n_templates, &picks[0], from_layer)
    return done


cdef int check_layer(layer) except -1:
    value = int(layer)
    if not LAYER_ETHERNET <= value <= LAYER_UDP_PAYLOAD:
        raise ValueError(f"layer {layer!r} is none of ETHERNET (0), IP (1), UDP_PAYLOAD (2)")
    return value


cdef int check_ethernet(const Template *templates, uint32_t n, int layer) except -1:
    cdef uint32_t i
    if layer == LAYER_ETHERNET:
        for i in range(n):
            if templates[i].layer != LAYER_ETHERNET:
                raise ValueError(f"layer ETHERNET, but tunnel {i} has no ethernet addresses")
    return 0


cdef uint32_t encap_all(const Packets *packets, Template *templates, uint32_t n_templates,
                        const uint32_t *picks, int layer) noexcept nogil:
    cdef uint32_t i, done = 0
    if picks != NULL:
        return vx_encap_tunnels(packets, templates, n_templates, picks, layer, encap_packet)
    if templates.quick:
        return vx_encap_one_tunnel(packets, templates, layer, encap_packet)
    for i in range(packets.n):
        if i + PREFETCH < packets.n:
            vx_prefetch(packets.mem + packets.offset[i + PREFETCH])
            vx_prefetch_write(packets.mem + packets.offset[i + PREFETCH] - QUICK_LEN)
        done += encap_packet(packets, i, templates, 1, NULL, layer)
    return done


cdef uint32_t encap_packet(const Packets *p, uint32_t i, Template *templates, uint32_t n_templates,
                           const uint32_t *picks, int layer) noexcept nogil:
    """Whether packet i, which may be anything, was encapsulated."""
    cdef uint32_t pick = 0 if picks == NULL else picks[i]
    if p.verdict[i] != DELIVERED:
        return 0
    p.verdict[i] = encap_one(p, i, &templates[pick], layer) if pick < n_templates else BAD_TUNNEL
    return p.verdict[i] == DELIVERED


cdef inline uint32_t header_len_from(const Template *t, int layer) noexcept nogil:
    if layer == LAYER_UDP_PAYLOAD:
        return VX_VXLAN_LEN
    return t.ip_len if layer == LAYER_IP else t.header_len


cdef Verdict encap_one(const Packets *p, uint32_t i, Template *t, int layer) noexcept nogil:
    cdef uint32_t offset = p.offset[i]
    cdef uint32_t length = p.length[i]
    cdef uint32_t header_len = header_len_from(t, layer)
    cdef uint8_t *frame
    cdef Flow flow
    cdef bint strip
    if not in_slot(p, i, offset, length):
        return BAD_SLOT
    if length < VX_ETH_LEN:
        return INNER_TOO_SHORT
    frame = p.mem + offset
    strip = is_tag(vx_load16(frame + 12))
    if strip and not t.flags & VLAN_PASS:
        if not t.flags & VLAN_STRIP or length < VX_ETH_LEN + VX_TAG_LEN:
            return INNER_VLAN
        memmove(frame + VX_TAG_LEN, frame, 12)
        frame += VX_TAG_LEN
        offset += VX_TAG_LEN
        length -= VX_TAG_LEN
        p.offset[i], p.length[i] = offset, length
    if length + t.ip_len - (VX_IPV6_LEN if t.version == 6 else 0) > 65535:
        return TOO_BIG
    if offset - p.slot[i] < header_len:
        return NO_HEADROOM
    dissect(frame, length, &flow, t.flags & SYMMETRIC)
    memcpy(frame - header_len, t.header + TEMPLATE_LEN - header_len, header_len)
    patch(p, i, frame, length, t, &flow, header_len)
    p.offset[i] = offset - header_len
    p.length[i] = length + header_len
    return DELIVERED


cdef void patch(const Packets *p, uint32_t i, uint8_t *frame, uint32_t length, Template *t,
                const Flow *flow, uint32_t header_len) noexcept nogil:
    """Fill in what differs from packet to packet, as far as the header goes out."""
    cdef uint16_t source_port = port_of(t, flow.hash)
    cdef uint8_t tos = flow.tos & 0xFC if t.flags & TOS_INHERIT else t.tos
    tos |= outer_ecn(flow.tos, t.flags & ECN_LINUX)
    p.vni[i] = t.vni
    p.source_port[i] = source_port
    p.tos[i] = tos
    if t.flags & WITH_GBP and p.gbp[i]:
        put_gbp(frame - VXLAN_AT, p.gbp[i])
    if header_len == VX_VXLAN_LEN:
        return
    vx_store16(frame - UDP_AT, source_port)
    vx_store16(frame - UDP_AT + 4, <uint16_t>(length + UDP_AT))
    if t.version == 4:
        patch_ipv4(frame, length, t, flow, tos)
    else:
        patch_ipv6(frame, length, t, flow, tos)
    if t.flags & UDP_CHECK:
        put_udp_checksum(frame, length, t.version)


cdef uint32_t put_outer(Template *t, uint8_t *vxlan, uint32_t payload_len, uint32_t hashed,
                        uint16_t dstport_be, uint8_t tos, uint8_t ttl) noexcept nogil:
    """For ports: write what goes in front of a VXLAN header; the length of that. The UDP checksum is zero.

    `payload_len` counts from the VXLAN header on; ttl 0 is the tunnel's.
    """
    cdef uint32_t header_len = t.header_len - VX_VXLAN_LEN
    cdef uint32_t udp_len = VX_UDP_LEN + payload_len
    cdef uint8_t *udp = vxlan - VX_UDP_LEN
    memcpy(vxlan - header_len, t.header + TEMPLATE_LEN - t.header_len, header_len)
    vx_store16(udp, port_of(t, hashed))
    vx_store16_raw(udp + 2, dstport_be)
    vx_store16(udp + 4, <uint16_t>udp_len)
    if t.version == 4:
        put_ipv4(udp - VX_IPV4_LEN, VX_IPV4_LEN + udp_len, t, tos, ttl if ttl else t.ttl, t.flags & DF_SET)
    else:
        put_ipv6(udp - VX_IPV6_LEN, udp_len, label_of(t, hashed), tos, ttl if ttl else t.ttl)
    return header_len


cdef bint has_checksum(const Template *t) noexcept nogil:
    return t.flags & UDP_CHECK != 0


cdef void put_outer_checksum(const Template *t, uint8_t *vxlan, uint32_t head_len, const uint8_t *body,
                             uint32_t body_len, bint partial) noexcept nogil:
    """After put_outer: the UDP checksum, if the tunnel has one; partial: of the pseudo-header alone.

    `head_len` counts from the VXLAN header on and is even.
    """
    cdef uint8_t *udp = vxlan - VX_UDP_LEN
    cdef uint32_t udp_len = VX_UDP_LEN + head_len + body_len
    cdef uint64_t sum
    cdef uint16_t check
    if not t.flags & UDP_CHECK:
        return
    sum = pseudo(udp - (VX_IPV4_LEN if t.version == 4 else VX_IPV6_LEN), t.version, udp_len)
    if partial:
        vx_store16_raw(udp + 6, vx_csum_fold(sum))
        return
    sum = vx_csum_add(body, body_len, vx_csum_add(udp, VX_UDP_LEN + head_len, sum))
    check = ~vx_csum_fold(sum)
    vx_store16_raw(udp + 6, check if check else 0xFFFF)


cdef inline uint8_t outer_ttl(const Template *t, const Flow *flow) noexcept nogil:
    if t.flags & TTL_INHERIT:
        return flow.ttl if flow.version else DEFAULT_TTL
    return t.ttl


cdef inline void patch_ipv4(uint8_t *frame, uint32_t length, Template *t, const Flow *flow,
                            uint8_t tos) noexcept nogil:
    cdef bint df = t.flags & DF_SET
    if t.flags & DF_INHERIT and flow.version == 4:
        df = vx_load16(frame + flow.ip_off + 6) & IPV4_DF != 0
    put_ipv4(frame - IPV4_AT, length + IPV4_AT, t, tos, outer_ttl(t, flow), df)


cdef inline void patch_ipv6(uint8_t *frame, uint32_t length, const Template *t, const Flow *flow,
                            uint8_t tos) noexcept nogil:
    put_ipv6(frame - IPV6_AT, length + UDP_AT, label_of(t, flow.hash), tos, outer_ttl(t, flow))


cdef inline uint32_t label_of(const Template *t, uint32_t hashed) noexcept nogil:
    return hashed & 0xFFFFF if t.flags & LABEL_HASH else t.label


cdef void put_udp_checksum(uint8_t *frame, uint32_t length, uint8_t version) noexcept nogil:
    cdef uint8_t *udp = frame - UDP_AT
    cdef uint32_t udp_len = length + UDP_AT
    cdef uint64_t sum = pseudo(frame - (IPV4_AT if version == 4 else IPV6_AT), version, udp_len)
    cdef uint16_t check = ~vx_csum_fold(vx_csum_add(udp, udp_len, sum))
    vx_store16_raw(udp + 6, check if check else 0xFFFF)


cdef inline void put_gbp(uint8_t *vxlan, uint32_t word) noexcept nogil:
    vxlan[0] |= GBP_FLAG
    vxlan[1] = (GBP_HEADER_D if word & GBP_D else 0) | (GBP_HEADER_A if word & GBP_A else 0)
    vx_store16(vxlan + 2, word & GBP_ID)


# -- decapsulation -------------------------------------------------------------------------------


cdef class Rules:
    """Decapsulation's policy, compiled; takes the arguments of ``vxcore.wire.DecapRules``."""

    def __init__(self, **options):
        self.spec = wire.DecapRules(**options)
        memset(&self.bits, 0, sizeof(RuleBits))
        for port in self.spec.ports:
            self.bits.ports[port >> 3] |= 1 << (port & 7)
        self.bits.flags = rule_flags_of(self.spec)
        if self.bits.flags & REQUIRE_CHECKSUM == 0 and self.spec.ports:
            self.bits.quick_port = self.spec.ports[0]


def rule_flags_of(spec) -> int:
    """The policies of a DecapRules as bits."""
    chosen = {
        STRICT: spec.reserved == "strict",
        IGNORE_CHECKSUM: spec.udp_checksum == "ignore",
        REQUIRE_CHECKSUM: spec.udp_checksum == "require",
        ACCEPT_ZERO6: spec.zero_checksum6 == "accept",
        IGNORE_ECN: spec.ecn == "ignore",
        IN_VLAN_STRIP: spec.inner_vlan == "strip",
        IN_VLAN_PASS: spec.inner_vlan == "pass",
        IN_GBP: spec.gbp,
        IN_GPE: spec.gpe,
        IN_TRUNCATED: spec.truncated == "deliver",
    }
    return sum(bit for bit, wanted in chosen.items() if wanted)


cdef Rules DEFAULT_RULES = Rules()


def decap(PacketBatch batch not None, rules=None, layer=LAYER_ETHERNET) -> int:
    """Take the outer headers off every packet of the batch; return how many were delivered.

    `rules` (vxcore.Rules) says what is acceptable; `layer` (vxcore.Layer) where the packets start.
    Sets verdict, and as far as the walk got vni, source, source_port, tos, gbp and protocol; a
    delivered packet's offset and length then are its inner frame's, any other stays as it was.
    Packets whose verdict is not DELIVERED already are passed over. With UDP_PAYLOAD, source,
    source_port and tos are the caller's to set, for no header tells them.

    Raises TypeError or ValueError for wrong arguments; never for what is in a packet.
    """
    cdef Rules r = DEFAULT_RULES if rules is None else <Rules?>rules
    cdef int from_layer = check_layer(layer)
    cdef uint32_t done
    with nogil:
        done = decap_all(&batch.p, &r.bits, from_layer)
    return done


cdef uint32_t decap_all(const Packets *packets, const RuleBits *rules, int layer) noexcept nogil:
    cdef uint32_t i, done = 0
    if rules.quick_port and layer != LAYER_UDP_PAYLOAD:
        return vx_decap_quick(packets, rules.quick_port, rules, layer, decap_packet)
    for i in range(packets.n):
        if i + PREFETCH < packets.n:
            vx_prefetch(packets.mem + packets.offset[i + PREFETCH])
            vx_prefetch(packets.mem + packets.offset[i + PREFETCH] + 64)
        done += decap_packet(packets, i, rules, layer)
    return done


cdef uint32_t decap_packet(const Packets *p, uint32_t i, const void *rules, int layer) noexcept nogil:
    """Whether packet i, which may be anything, was decapsulated."""
    if p.verdict[i] != DELIVERED:
        return 0
    p.verdict[i] = decap_one(p, i, <const RuleBits *>rules, layer)
    return p.verdict[i] == DELIVERED


cdef inline void put_source4(uint8_t *source, const uint8_t *address) noexcept nogil:
    vx_store64_raw(source, 0)
    vx_store32(source + 8, 0xFFFF)
    memcpy(source + 12, address, 4)


cdef Verdict decap_one(const Packets *p, uint32_t i, const RuleBits *rules, int layer) noexcept nogil:
    cdef Walk w
    cdef Verdict verdict
    cdef uint32_t offset = p.offset[i]
    cdef uint32_t length = p.length[i]
    if not in_slot(p, i, offset, length):
        return BAD_SLOT
    w.packet = p.mem + offset
    w.at, w.end, w.version, w.missing, w.verified = 0, length, 0, 0, False
    w.vni = w.gbp = 0
    w.protocol = 0
    w.source_port = p.source_port[i] if layer == LAYER_UDP_PAYLOAD else 0
    w.tos = p.tos[i] if layer == LAYER_UDP_PAYLOAD else 0
    verdict = walk_outer(&w, rules, layer)
    if verdict == DELIVERED:
        verdict = walk_vxlan(&w, rules)
    if verdict == DELIVERED:
        verdict = walk_inner(&w, rules)
    if layer != LAYER_UDP_PAYLOAD:
        put_source(p.source + 16 * <size_t>i, &w)
        p.source_port[i], p.tos[i] = w.source_port, w.tos
    p.vni[i], p.gbp[i], p.protocol[i] = w.vni, w.gbp, w.protocol
    if verdict == DELIVERED:
        p.offset[i], p.length[i] = offset + w.at, w.end - w.at
    return verdict


cdef void put_source(uint8_t *source, const Walk *w) noexcept nogil:
    if w.version == 6:
        memcpy(source, w.packet + w.ip_off + 8, 16)
        return
    memset(source, 0, 16)
    if w.version == 4:
        put_source4(source, w.packet + w.ip_off + 12)


cdef Verdict walk_to_vxlan(Walk *w, uint8_t *packet, uint32_t length, const RuleBits *rules) noexcept nogil:
    """For ports: check all that is in front of the VXLAN header of a packet that starts at Ethernet."""
    w.packet = packet
    w.at, w.end, w.version, w.missing = 0, length, 0, 0
    w.tos, w.source_port, w.verified = 0, 0, False
    return walk_outer(w, rules, LAYER_ETHERNET)


cdef Verdict walk_outer(Walk *w, const RuleBits *rules, int layer) noexcept nogil:
    cdef Verdict verdict = DELIVERED
    cdef uint16_t ethertype
    if layer == LAYER_UDP_PAYLOAD:
        return DELIVERED
    if layer == LAYER_ETHERNET:
        verdict = walk_ethernet(w, &ethertype)
    elif w.end == 0:
        return TRUNCATED
    else:
        ethertype = ETHERTYPE_IPV6 if w.packet[0] >> 4 == 6 else ETHERTYPE_IPV4
    if verdict != DELIVERED:
        return verdict
    verdict = walk_ipv4(w, rules) if ethertype == ETHERTYPE_IPV4 else walk_ipv6(w, rules)
    return verdict if verdict != DELIVERED else walk_udp(w, rules)


cdef inline Verdict walk_ethernet(Walk *w, uint16_t *ethertype) noexcept nogil:
    cdef int _tag
    if w.end < VX_ETH_LEN:
        return TRUNCATED
    w.at = VX_ETH_LEN
    ethertype[0] = vx_load16(w.packet + 12)
    for _tag in range(MAX_TAGS):
        if not is_tag(ethertype[0]):
            break
        if w.at + VX_TAG_LEN > w.end:
            return TRUNCATED
        w.at += VX_TAG_LEN
        ethertype[0] = vx_load16(w.packet + w.at - 2)
    if ethertype[0] != ETHERTYPE_IPV4 and ethertype[0] != ETHERTYPE_IPV6:
        return NOT_IP
    return DELIVERED


cdef inline Verdict walk_ipv4(Walk *w, const RuleBits *rules) noexcept nogil:
    cdef const uint8_t *ip = w.packet + w.at
    cdef uint32_t header_len, total_len
    if w.at + VX_IPV4_LEN > w.end:
        return TRUNCATED
    header_len = (ip[0] & 15) * 4
    total_len = vx_load16(ip + 2)
    if ip[0] >> 4 != 4 or header_len < VX_IPV4_LEN or total_len < header_len:
        return BAD_IP_HEADER
    if not is_whole(w, total_len, rules) or header_len > w.end - w.at:
        return TRUNCATED
    if not rules.flags & IGNORE_CHECKSUM and vx_csum_fold(vx_csum_add(ip, header_len, 0)) != 0xFFFF:
        return IP_CHECKSUM
    w.version, w.tos, w.next, w.ip_off = 4, ip[1], ip[9], w.at
    w.end = w.at + total_len - w.missing  # what is behind is Ethernet's padding
    w.at += header_len
    return FRAGMENT if vx_load16(ip + 6) & 0x3FFF else DELIVERED


cdef inline bint is_whole(Walk *w, uint32_t ip_len, const RuleBits *rules) noexcept nogil:
    """Whether as much is there as the IP header says; where less is allowed, note how much is missing."""
    if ip_len <= w.end - w.at:
        return True
    w.missing = ip_len - (w.end - w.at)
    return rules.flags & IN_TRUNCATED != 0


cdef inline Verdict walk_ipv6(Walk *w, const RuleBits *rules) noexcept nogil:
    cdef const uint8_t *ip = w.packet + w.at
    cdef uint32_t payload_len
    if w.at + VX_IPV6_LEN > w.end:
        return TRUNCATED
    if ip[0] >> 4 != 6:
        return BAD_IP_HEADER
    payload_len = vx_load16(ip + 4)
    if not is_whole(w, VX_IPV6_LEN + payload_len, rules):
        return TRUNCATED
    w.version, w.tos, w.next, w.ip_off = 6, <uint8_t>(vx_load16(ip) >> 4), ip[6], w.at
    w.at += VX_IPV6_LEN
    w.end = w.at + payload_len - w.missing
    return DELIVERED if w.next == PROTO_UDP else walk_outer_extensions(w)


cdef Verdict walk_outer_extensions(Walk *w) noexcept nogil:
    """Hop-by-hop, routing and destination options, AH, and an atomic fragment (RFC 6946)."""
    cdef const uint8_t *header
    cdef uint32_t header_len
    cdef int _header
    for _header in range(MAX_EXTENSIONS):
        if (w.next != PROTO_HOPOPTS and w.next != PROTO_ROUTING and w.next != PROTO_DSTOPTS
                and w.next != PROTO_AH and w.next != PROTO_FRAGMENT):
            return DELIVERED
        if w.at + 8 > w.end:
            return TRUNCATED
        header = w.packet + w.at
        header_len = (header[1] + 1) * 8
        if w.next == PROTO_AH:
            header_len = (header[1] + 2) * 4
        elif w.next == PROTO_FRAGMENT:
            header_len = 8
            if vx_load16(header + 2) & 0xFFF9:
                return FRAGMENT
        if header_len > w.end - w.at:
            return TRUNCATED
        w.next = header[0]
        w.at += header_len
    return DELIVERED


cdef inline Verdict walk_udp(Walk *w, const RuleBits *rules) noexcept nogil:
    cdef const uint8_t *udp = w.packet + w.at
    cdef uint32_t udp_len
    cdef uint16_t port
    if w.next != PROTO_UDP:
        return NOT_UDP
    if w.at + VX_UDP_LEN > w.end:
        return TRUNCATED
    w.source_port = vx_load16(udp)
    port = vx_load16(udp + 2)
    udp_len = vx_load16(udp + 4)
    if udp_len < VX_UDP_LEN or udp_len > w.end - w.at + w.missing:
        return BAD_UDP_LENGTH
    if not rules.ports[port >> 3] >> (port & 7) & 1:
        return OTHER_PORT
    w.end = min(w.end, w.at + udp_len)
    w.at += VX_UDP_LEN
    return check_udp(w, udp, udp_len, rules.flags)


cdef inline Verdict check_udp(const Walk *w, const uint8_t *udp, uint32_t udp_len,
                              uint32_t flags) noexcept nogil:
    if flags & IGNORE_CHECKSUM:
        return DELIVERED
    if vx_load16_raw(udp + 6) == 0:
        if flags & REQUIRE_CHECKSUM or (w.version == 6 and not flags & ACCEPT_ZERO6):
            return ZERO_CHECKSUM
        return DELIVERED
    if w.verified or udp_len > w.end - w.at + VX_UDP_LEN:
        return DELIVERED  # cut short: nobody can tell
    if vx_csum_fold(vx_csum_add(udp, udp_len, pseudo(w.packet + w.ip_off, w.version, udp_len))) != 0xFFFF:
        return UDP_CHECKSUM
    return DELIVERED


cdef inline Verdict walk_vxlan(Walk *w, const RuleBits *rules) noexcept nogil:
    cdef const uint8_t *vxlan = w.packet + w.at
    if w.at + VX_VXLAN_LEN > w.end:
        return TRUNCATED
    if not vxlan[0] & VX_VNI_FLAG:
        return NO_VNI_FLAG
    w.vni = vx_load32(vxlan + 4) >> 8
    w.at += VX_VXLAN_LEN
    if rules.flags & STRICT and reserved_bits(vxlan, rules.flags):
        return RESERVED_BITS
    if rules.flags & IN_GBP and vxlan[0] & GBP_FLAG:
        w.gbp = vx_load16(vxlan + 2)
        w.gbp |= (GBP_D if vxlan[1] & GBP_HEADER_D else 0) | (GBP_A if vxlan[1] & GBP_HEADER_A else 0)
    return walk_gpe(w, vxlan) if rules.flags & IN_GPE else DELIVERED


cdef bint reserved_bits(const uint8_t *vxlan, uint32_t flags) noexcept nogil:
    """Whether a bit is set that neither VXLAN nor an extension that is switched on gives a meaning."""
    cdef uint32_t known = <uint32_t>VX_VNI_FLAG << 24
    if flags & IN_GBP:
        known |= <uint32_t>GBP_FLAG << 24
        if vxlan[0] & GBP_FLAG:
            known |= <uint32_t>(GBP_HEADER_D | GBP_HEADER_A) << 16 | GBP_ID
    if flags & IN_GPE:
        known |= 0x3F0000FFu
    return vx_load32(vxlan) & ~known != 0 or vxlan[7] != 0


cdef Verdict walk_gpe(Walk *w, const uint8_t *vxlan) noexcept nogil:
    """VXLAN-GPE's flags R R Ver Ver I P B O and next protocol (draft-ietf-nvo3-vxlan-gpe)."""
    if vxlan[0] & 0x30:
        return GPE_VERSION
    if vxlan[0] & 0x01:
        return GPE_OAM
    if not vxlan[0] & 0x04 or vxlan[3] == 3:
        return DELIVERED
    if vxlan[3] != 1 and vxlan[3] != 2:
        return GPE_PROTOCOL
    w.protocol = 4 if vxlan[3] == 1 else 6
    return DELIVERED


cdef inline Verdict walk_inner(Walk *w, const RuleBits *rules) noexcept nogil:
    cdef uint8_t *frame = w.packet + w.at
    cdef Flow flow
    if w.protocol:
        return walk_bare_ip(w, rules)
    if w.end - w.at < VX_ETH_LEN:
        return INNER_TOO_SHORT
    if is_tag(vx_load16(frame + 12)) and not rules.flags & IN_VLAN_PASS:
        if not rules.flags & IN_VLAN_STRIP or w.end - w.at < VX_ETH_LEN + VX_TAG_LEN:
            return INNER_VLAN
        memmove(frame + VX_TAG_LEN, frame, 12)
        w.at += VX_TAG_LEN
        frame += VX_TAG_LEN
    if w.tos & 3 and not rules.flags & IGNORE_ECN:
        dissect(frame, w.end - w.at, &flow, False)
        if not ecn_decapsulate(frame, &flow, w.tos):
            return ECN
    return DELIVERED


cdef Verdict walk_bare_ip(Walk *w, const RuleBits *rules) noexcept nogil:
    """A payload that is an IP packet without Ethernet; carries ECN alike."""
    cdef uint8_t *ip = w.packet + w.at
    cdef Flow flow
    if w.end - w.at < <uint32_t>(VX_IPV4_LEN if w.protocol == 4 else VX_IPV6_LEN):
        return INNER_TOO_SHORT
    if w.tos & 3 and not rules.flags & IGNORE_ECN and ip[0] >> 4 == w.protocol:
        flow.ip_off, flow.version = 0, w.protocol
        flow.tos = ip[1] if w.protocol == 4 else <uint8_t>(vx_load16(ip) >> 4)
        if not ecn_decapsulate(ip, &flow, w.tos):
            return ECN
    return DELIVERED


# -- one frame -----------------------------------------------------------------------------------


def encap_frame(frame, Tunnel tunnel not None, layer=None, gbp: int = 0):
    """Encapsulate one bytes-like frame: ``(verdict, packet)``, the packet empty unless delivered."""
    cdef PacketBatch batch = PacketBatch.from_frames([frame])
    batch.p.gbp[0] = gbp
    done = encap(batch, tunnel, layer=layer)
    return VerdictEnum(batch.p.verdict[0]), batch.to_frames()[0] if done else b""


def decap_frame(packet, rules=None, layer=LAYER_ETHERNET, outer_tos: int = 0):
    """Decapsulate one bytes-like packet; returns a ``vxcore.wire.Decapsulated``."""
    cdef PacketBatch batch = PacketBatch.from_frames([packet])
    batch.p.tos[0] = outer_tos
    done = decap(batch, rules, layer)
    return wire.Decapsulated(
        verdict=VerdictEnum(batch.p.verdict[0]),
        frame=batch.to_frames()[0] if done else b"",
        vni=batch.p.vni[0],
        source=wire.address_from_16(bytes(batch.source[0])),
        source_port=batch.p.source_port[0],
        tos=batch.p.tos[0],
        gbp=batch.p.gbp[0],
        protocol=batch.p.protocol[0],
    )
