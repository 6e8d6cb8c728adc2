/* What kernels work on: the plain view of a batch, and the template of a tunnel's outer header. */
#ifndef VX_BATCH_H
#define VX_BATCH_H

#include <assert.h>
#include <stdint.h>

/* The plain view of a batch that every kernel works on, see batch.pxd. */
struct vx_packets {
    uint8_t *mem;
    const uint32_t *slot;
    uint32_t *offset, *length, *vni, *gbp;
    uint16_t *source_port;
    uint8_t *source, *tos, *protocol, *verdict;
    uint32_t n;
};

enum {
    VX_TEMPLATE_LEN = 80, /* the longest header there is, 74 bytes, to a multiple of 16 */
    VX_QUICK_LEN = 64,    /* copied in one go in front of a frame: an IPv4 tunnel has at most 54 */
    /* Fields, as distances in front of the inner frame */
    VX_VXLAN_AT = 8,
    VX_UDP_AT = 16,
    VX_IPV4_AT = 36,
    VX_IPV6_AT = 56
};

/* A tunnel's outer header and how to patch it; a set of tunnels is an array of these. */
struct vx_template {
    uint8_t header[VX_TEMPLATE_LEN]; /* right-aligned: its last byte stands in front of the frame */
    uint32_t vni;
    uint32_t port_min, n_ports;
    uint32_t ip_sum; /* of the IPv4 header's words with what is patched at zero, host order */
    uint32_t label;
    uint32_t flags;
    uint32_t header_len; /* of all that the tunnel has */
    uint32_t ip_len;     /* from the IP header on */
    uint16_t ip_id;
    uint8_t version, tos, ttl, layer;
    uint8_t quick;      /* vx_encap_quick may be tried: the header is whole but for lengths, port and sum */
    uint8_t is_counted; /* packets are numbered, for they may be fragmented */
    uint32_t quick_sum; /* of the IPv4 header's words, folded; its length and number at zero */
    uint8_t unused[4];
};
static_assert(sizeof(struct vx_template) == 128, "two cache lines");

#endif
