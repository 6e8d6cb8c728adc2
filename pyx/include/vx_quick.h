/* The common case of the codec's two loops: most of the traffic, in a few dozen instructions a packet.
 *
 * Place in the house: under codec.pyx, whose general path takes each packet that is not common, and sets
 * what is set here. In C for the vectors that keep them short: the header's bytes are compared and copied
 * sixteen at a time, and the places of packets are checked and written for a chunk of them at once. 128
 * bits are what every x86-64 and AArch64 has; with AVX2 these loops were not faster.
 */
#ifndef VX_QUICK_H
#define VX_QUICK_H

#include "vx_batch.h"
#include "vx_bytes.h"
#include "vx_wire.h"
#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum {
    VX_CHUNK = 16 /* packets that are looked at together; memory is asked for as far ahead */
};

/* What takes a packet that is not common: 1 when it was delivered. */
typedef uint32_t (*vx_encap_general)(const struct vx_packets *, uint32_t, struct vx_template *, uint32_t,
                                     const uint32_t *, int);
typedef uint32_t (*vx_decap_general)(const struct vx_packets *, uint32_t, const void *, int);

#define VX_INLINE static inline __attribute__((always_inline))

/* Bytes of a header as they stand in memory, in two words; and what of them is compared. */
struct vx_pattern {
    uint64_t mask[2], value[2];
};
#define VX_BYTES(a, b, c, d, e, f, g, h) vx_be64((uint64_t)(a) << 56 | (uint64_t)(b) << 48 \
    | (uint64_t)(c) << 40 | (uint64_t)(d) << 32 | (uint64_t)(e) << 24 | (f) << 16 | (g) << 8 | (h))

VX_INLINE int vx_matches(const uint8_t *p, const struct vx_pattern *pattern)
{
#ifdef __SSE2__
    __m128i mask = _mm_loadu_si128((const __m128i *)pattern->mask);
    __m128i value = _mm_loadu_si128((const __m128i *)pattern->value);
    __m128i found = _mm_and_si128(_mm_loadu_si128((const __m128i *)p), mask);
    return _mm_movemask_epi8(_mm_cmpeq_epi8(found, value)) == 0xffff;
#else
    return !(((vx_load64_raw(p) & pattern->mask[0]) ^ pattern->value[0])
             | ((vx_load64_raw(p + 8) & pattern->mask[1]) ^ pattern->value[1]));
#endif
}

/* Where the packets of a chunk are: read once, checked, and used from here, for Python may write to a
 * batch's arrays from another thread. */
struct vx_places {
    uint32_t offset[VX_CHUNK], length[VX_CHUNK];
    uint32_t good; /* a bit for each that lies in its slot, is not judged yet, and is in bounds */
};

/* What the quick path asks of a packet's place. */
struct vx_bounds {
    uint32_t headroom, min_len, max_len;
};

VX_INLINE uint32_t vx_is_bad(const uint32_t *slot, uint32_t offset, uint32_t length, struct vx_bounds b)
{
    uint32_t room = offset - slot[0], size = slot[1] - slot[0];
    return (room < b.headroom) | (room > size) | (length > size - room)
           | (length - b.min_len > b.max_len - b.min_len);
}

VX_INLINE void vx_place(struct vx_places *at, const struct vx_packets *p, uint32_t i, uint32_t m,
                        struct vx_bounds bounds)
{
    const uint32_t *slot = p->slot + i;
    uint32_t bad = 0;
    uint64_t judged[VX_CHUNK / 8];
    at->good = (1u << VX_CHUNK) - 1;
    if (m == VX_CHUNK) {
        memcpy(at->offset, p->offset + i, sizeof(at->offset));
        memcpy(at->length, p->length + i, sizeof(at->length));
        memcpy(judged, p->verdict + i, sizeof(judged));
#pragma GCC unroll 1 /* unrolled, it would not be vectorised */
        for (uint32_t j = 0; j < VX_CHUNK; j++)
            bad |= vx_is_bad(slot + j, at->offset[j], at->length[j], bounds);
        if (vx_likely(!(bad | judged[0] | judged[1])))
            return;
    }
    at->good = 0;
    for (uint32_t j = 0; j < m; j++) {
        at->offset[j] = p->offset[i + j];
        at->length[j] = p->length[i + j];
        bad = vx_is_bad(slot + j, at->offset[j], at->length[j], bounds) | p->verdict[i + j];
        at->good |= (uint32_t)!bad << j;
    }
}

/* Ask for the first and last byte that will be needed of packet i: a wild offset does no harm. A macro, for
 * GCC takes a function that only prefetches for one that does nothing. */
#define VX_ASK(p, i, first, last)                         \
    do {                                                  \
        vx_prefetch((p)->mem + (p)->offset[i] + (first)); \
        vx_prefetch((p)->mem + (p)->offset[i] + (last));  \
    } while (0)

VX_INLINE uint32_t vx_chunk_end(uint32_t n, uint32_t start)
{
    return n <= start ? start : n - start < VX_CHUNK ? n : start + VX_CHUNK;
}

/* -- encapsulation ------------------------------------------------------------------------------ */

/* The hash of the flow of an untagged frame with an IPv4 header without options, as flow.pxd has it. */
VX_INLINE uint32_t vx_hash4(const uint8_t *frame)
{
    uint64_t ports = (uint64_t)frame[23] << 32 | vx_load32(frame + 34);
    return (uint32_t)(vx_mix(vx_mix(vx_load64(frame + 26) ^ VX_K0, ports ^ VX_K1) ^ VX_K2, VX_K3) >> 32);
}

typedef uint8_t vx_quarter __attribute__((vector_size(16)));

/* The header's last 64 bytes; for one tunnel they stay in registers. */
struct vx_head {
    vx_quarter quarter[4];
};

VX_INLINE void vx_load_head(struct vx_head *head, const struct vx_template *t)
{
    for (int k = 0; k < 4; k++)
        memcpy(&head->quarter[k], t->header + VX_TEMPLATE_LEN - VX_QUICK_LEN + 16 * k, 16);
}

/* TCP or UDP over plain IPv4, without a tag or fragments, and at least 32 bytes by its header; with ecn 3,
 * without an ECN mark too. */
VX_INLINE int vx_is_plain(const uint8_t *frame, int ecn)
{
    const struct vx_pattern plain = {
        {VX_BYTES(0xff, 0xff, 0xff, ecn, 0, 0, 0, 0), VX_BYTES(0x3f, 0xff, 0, 0, 0, 0, 0, 0)},
        {VX_BYTES(8, 0, 0x45, 0, 0, 0, 0, 0), 0},
    };
    return vx_matches(frame + 12, &plain) && (frame[23] == 17 || frame[23] == 6)
           && vx_load16_raw(frame + 16) & vx_be16(0xffe0);
}

/* Put the outer header in front of a plain frame; its source port. */
VX_INLINE uint16_t vx_put_head(uint8_t *frame, uint32_t length, struct vx_template *t,
                               const struct vx_head *head)
{
    uint16_t port = (uint16_t)(t->port_min + ((uint64_t)vx_hash4(frame) * t->n_ports >> 32));
    uint32_t sum = t->quick_sum + length + VX_IPV4_AT;
    for (int k = 0; k < 4; k++)
        memcpy(frame - VX_QUICK_LEN + 16 * k, &head->quarter[k], 16);
    vx_store16(frame - VX_UDP_AT, port);
    vx_store16(frame - VX_UDP_AT + 4, (uint16_t)(length + VX_UDP_AT));
    vx_store16(frame - VX_IPV4_AT + 2, (uint16_t)(length + VX_IPV4_AT));
    if (t->is_counted) {
        vx_store16(frame - VX_IPV4_AT + 4, t->ip_id);
        sum += t->ip_id++;
        sum = (sum & 0xffff) + (sum >> 16);
    }
    vx_store16(frame - VX_IPV4_AT + 10, (uint16_t)~(sum + (sum >> 16)));
    return port;
}

/* The same, and carry the inner packet's ECN mark into the outer header (RFC 6040). */
static __attribute__((noinline)) uint16_t vx_put_marked(uint8_t *frame, uint32_t length,
                                                        struct vx_template *t)
{
    struct vx_head head;
    uint8_t *ip = frame - VX_IPV4_AT, ecn = frame[15] & 3;
    uint16_t port;
    uint32_t sum;
    vx_load_head(&head, t);
    port = vx_put_head(frame, length, t, &head);
    sum = (uint16_t)~vx_load16(ip + 10) + (uint32_t)ecn;
    ip[1] |= ecn;
    vx_store16(ip + 10, (uint16_t)~(sum + (sum >> 16)));
    return port;
}

VX_INLINE uint32_t vx_header_len(const struct vx_template *t, int layer)
{
    return layer == 2 ? (uint32_t)VX_VXLAN_LEN : layer == 1 ? t->ip_len : t->header_len;
}

/* What the packets of a chunk have become, written together; `slow` ones the general path has written. */
struct vx_became {
    uint32_t header_len[VX_CHUNK], vni[VX_CHUNK];
    uint8_t tos[VX_CHUNK];
};

VX_INLINE void vx_become(struct vx_became *now, uint32_t j, const struct vx_template *t, int layer)
{
    now->header_len[j] = vx_header_len(t, layer);
    now->vni[j] = t->vni;
    now->tos[j] = t->tos;
}

VX_INLINE void vx_set_encapped(const struct vx_packets *p, uint32_t start, uint32_t m, uint32_t slow,
                               const struct vx_places *at, const struct vx_became *now)
{
    uint32_t *offset = p->offset + start, *length = p->length + start, *vni = p->vni + start;
    if (vx_unlikely(slow || m < VX_CHUNK)) {
        for (uint32_t j = 0; j < m; j++)
            if (!(slow >> j & 1)) {
                offset[j] = at->offset[j] - now->header_len[j];
                length[j] = at->length[j] + now->header_len[j];
                vni[j] = now->vni[j];
                p->tos[start + j] = now->tos[j];
            }
        return;
    }
    memcpy(vni, now->vni, sizeof(now->vni));
    memcpy(p->tos + start, now->tos, sizeof(now->tos));
#pragma GCC unroll 1
    for (uint32_t j = 0; j < VX_CHUNK; j++)
        offset[j] = at->offset[j] - now->header_len[j];
#pragma GCC unroll 1
    for (uint32_t j = 0; j < VX_CHUNK; j++)
        length[j] = at->length[j] + now->header_len[j];
}

/* All packets through one tunnel whose template is quick. */
static uint32_t vx_encap_one_tunnel(const struct vx_packets *packets, struct vx_template *t, int layer,
                                      vx_encap_general general)
{
    const struct vx_packets p = *packets;
    const struct vx_bounds bounds = {VX_QUICK_LEN, VX_ETH_LEN + VX_IPV4_LEN + 4, 65535 - VX_IPV4_AT};
    uint32_t done = 0;
    struct vx_became now;
    struct vx_places at;
    struct vx_head head;
    vx_load_head(&head, t);
    for (uint32_t j = 0; j < VX_CHUNK; j++)
        vx_become(&now, j, t, layer);
    for (uint32_t start = 0; start < p.n; start += VX_CHUNK) {
        uint32_t m = vx_chunk_end(p.n, start) - start, slow = 0, marked = 0;
        for (uint32_t i = start + VX_CHUNK, end = vx_chunk_end(p.n, i); i < end; i++)
            VX_ASK(&p, i, -50, 37);
        vx_place(&at, &p, start, m, bounds);
        for (uint32_t j = 0; j < m; j++) {
            uint8_t *frame = p.mem + at.offset[j];
            if (vx_likely(at.good >> j & 1) && vx_likely(vx_is_plain(frame, 3))) {
                p.source_port[start + j] = vx_put_head(frame, at.length[j], t, &head);
                done++;
            } else if (at.good >> j & 1 && vx_is_plain(frame, 0)) {
                p.source_port[start + j] = vx_put_marked(frame, at.length[j], t);
                now.tos[j] |= frame[15] & 3;
                marked = 1;
                done++;
            } else {
                slow |= 1u << j;
                done += general(packets, start + j, t, 1, NULL, layer);
            }
        }
        vx_set_encapped(&p, start, m, slow, &at, &now);
        if (vx_unlikely(marked))
            memset(now.tos, t->tos, sizeof(now.tos));
    }
    return done;
}

/* Packet i through templates[picks[i]]. */
static uint32_t vx_encap_tunnels(const struct vx_packets *packets, struct vx_template *templates,
                                   uint32_t n_templates, const uint32_t *picks, int layer,
                                   vx_encap_general general)
{
    const struct vx_packets p = *packets;
    const struct vx_bounds bounds = {VX_QUICK_LEN, VX_ETH_LEN + VX_IPV4_LEN + 4, 65535 - VX_IPV4_AT};
    uint32_t done = 0;
    struct vx_became now;
    struct vx_places at;
    struct vx_head head;
    for (uint32_t start = 0; start < p.n; start += VX_CHUNK) {
        uint32_t m = vx_chunk_end(p.n, start) - start, slow = 0;
        for (uint32_t i = start + VX_CHUNK, end = vx_chunk_end(p.n, i); i < end; i++) {
            VX_ASK(&p, i, -50, 37);
            vx_prefetch(templates + picks[i]);
            vx_prefetch(templates[picks[i]].header + 64);
        }
        vx_place(&at, &p, start, m, bounds);
        for (uint32_t j = 0; j < m; j++) {
            uint32_t i = start + j, pick = picks[i];
            uint8_t *frame = p.mem + at.offset[j];
            struct vx_template *t = templates + pick;
            int can = at.good >> j & 1 && pick < n_templates && t->quick;
            if (vx_likely(can) && vx_likely(vx_is_plain(frame, 3))) {
                vx_load_head(&head, t);
                p.source_port[i] = vx_put_head(frame, at.length[j], t, &head);
                vx_become(&now, j, t, layer);
                done++;
            } else if (can && vx_is_plain(frame, 0)) {
                p.source_port[i] = vx_put_marked(frame, at.length[j], t);
                vx_become(&now, j, t, layer);
                now.tos[j] |= frame[15] & 3;
                done++;
            } else {
                slow |= 1u << j;
                done += general(packets, i, templates, n_templates, picks, layer);
            }
        }
        vx_set_encapped(&p, start, m, slow, &at, &now);
    }
    return done;
}

/* -- decapsulation ------------------------------------------------------------------------------ */

/* How plain packets look: from the EtherType on (without Ethernet, from the IP header on), and from the UDP
 * ports on. */
struct vx_plain_outer {
    struct vx_pattern ip, udp;
    int ip_at; /* where the first pattern starts, seen from the IP header */
};

VX_INLINE struct vx_plain_outer vx_plain_outer_at(uint16_t port, int link_len)
{
    static const struct vx_pattern ethernet = {
        {VX_BYTES(0xff, 0xff, 0xff, 3, 0, 0, 0, 0), VX_BYTES(0x3f, 0xff, 0, 0xff, 0, 0, 0, 0)},
        {VX_BYTES(8, 0, 0x45, 0, 0, 0, 0, 0), VX_BYTES(0, 0, 0, 17, 0, 0, 0, 0)},
    }, bare = {
        {VX_BYTES(0xff, 3, 0, 0, 0, 0, 0x3f, 0xff), VX_BYTES(0, 0xff, 0, 0, 0, 0, 0, 0)},
        {VX_BYTES(0x45, 0, 0, 0, 0, 0, 0, 0), VX_BYTES(0, 17, 0, 0, 0, 0, 0, 0)},
    };
    struct vx_plain_outer plain = {
        link_len ? ethernet : bare,
        {{VX_BYTES(0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff), VX_BYTES(0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0xff)},
         {VX_BYTES(0, 0, port >> 8, port & 0xff, 0, 0, 0, 0), VX_BYTES(VX_VNI_FLAG, 0, 0, 0, 0, 0, 0, 0)}},
        link_len ? -2 : 0,
    };
    return plain;
}

/* IPv4 without options, fragments or an ECN mark; UDP to the port without a checksum; a bare VXLAN header;
 * lengths that fit; an inner frame whose EtherType's first byte is none of a tag's (0x81, 0x88, 0x91). */
VX_INLINE int vx_is_plain_outer(const uint8_t *ip, uint32_t length, const struct vx_plain_outer *plain)
{
    uint32_t total_len = vx_load16(ip + 2), udp_len = vx_load16(ip + 24);
    /* Words of 32 bits have the sum of words of 16, modulo 65535 (RFC 1071); zero it cannot be. */
    uint64_t sum = (uint64_t)vx_load32_raw(ip) + vx_load32_raw(ip + 4) + vx_load32_raw(ip + 8)
                   + vx_load32_raw(ip + 12) + vx_load32_raw(ip + 16);
    return vx_matches(ip + plain->ip_at, &plain->ip) && vx_matches(ip + 20, &plain->udp)
           && total_len <= length && udp_len + VX_IPV4_LEN <= total_len && udp_len >= VX_UDP_AT + VX_ETH_LEN
           && (ip[VX_IPV4_AT + 12] & 0x86) != 0x80 && sum % 65535 == 0;
}

/* What packet i says of itself. */
VX_INLINE void vx_set_told(const struct vx_packets *p, uint32_t i, const uint8_t *ip)
{
    uint8_t *source = p->source + 16 * (size_t)i;
    vx_store64_raw(source, 0);
    vx_store32(source + 8, 0xffff);
    memcpy(source + 12, ip + 12, 4);
    p->source_port[i] = vx_load16(ip + 20);
    p->tos[i] = ip[1];
    p->vni[i] = vx_load32(ip + 32) >> 8;
    p->length[i] = vx_load16(ip + 24) - VX_UDP_AT;
}

VX_INLINE void vx_set_chunk_decapped(const struct vx_packets *p, uint32_t start, uint32_t m, uint32_t slow,
                                     const struct vx_places *at, uint32_t len)
{
    uint32_t *offset = p->offset + start, *gbp = p->gbp + start;
    if (vx_unlikely(slow || m < VX_CHUNK)) {
        for (uint32_t j = 0; j < m; j++)
            if (!(slow >> j & 1))
                offset[j] = at->offset[j] + len, gbp[j] = 0, p->protocol[start + j] = 0;
        return;
    }
    memset(p->protocol + start, 0, VX_CHUNK);
    memset(gbp, 0, VX_CHUNK * sizeof(*gbp));
#pragma GCC unroll 1
    for (uint32_t j = 0; j < VX_CHUNK; j++)
        offset[j] = at->offset[j] + len;
}

VX_INLINE uint32_t vx_decap_from(const struct vx_packets *packets, uint16_t port, uint32_t link_len,
                                 const void *rules, int layer, vx_decap_general general)
{
    const struct vx_packets p = *packets;
    const struct vx_plain_outer plain = vx_plain_outer_at(port, link_len);
    const struct vx_bounds bounds = {0, link_len + VX_IPV4_AT + VX_ETH_LEN, UINT32_MAX};
    uint32_t done = 0;
    struct vx_places at;
    for (uint32_t start = 0; start < p.n; start += VX_CHUNK) {
        uint32_t m = vx_chunk_end(p.n, start) - start, slow = 0;
        for (uint32_t i = start + VX_CHUNK, end = vx_chunk_end(p.n, i); i < end; i++)
            VX_ASK(&p, i, 14, 63);
        vx_place(&at, &p, start, m, bounds);
        for (uint32_t j = 0; j < m; j++) {
            const uint8_t *ip = p.mem + at.offset[j] + link_len;
            if (vx_likely(at.good >> j & 1)
                && vx_likely(vx_is_plain_outer(ip, at.length[j] - link_len, &plain))) {
                vx_set_told(&p, start + j, ip);
                done++;
            } else {
                slow |= 1u << j;
                done += general(packets, start + j, rules, layer);
            }
        }
        vx_set_chunk_decapped(&p, start, m, slow, &at, link_len + VX_IPV4_AT);
    }
    return done;
}

/* Packets to one port that start at Ethernet (layer 0) or at their IP header (1). */
static uint32_t vx_decap_quick(const struct vx_packets *packets, uint16_t port, const void *rules,
                                 int layer, vx_decap_general general)
{
    return layer ? vx_decap_from(packets, port, 0, rules, 1, general)
                 : vx_decap_from(packets, port, VX_ETH_LEN, rules, 0, general);
}

#endif
