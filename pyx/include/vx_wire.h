/* Wire structs, their sizes held at compile time, and the numbers that name what is in them. */
#ifndef VX_WIRE_H
#define VX_WIRE_H

#include <assert.h>
#include <stdint.h>

enum {
    VX_ETH_LEN = 14,
    VX_TAG_LEN = 4,   /* IEEE 802.1Q */
    VX_IPV4_LEN = 20, /* RFC 791, without options */
    VX_IPV6_LEN = 40, /* RFC 8200 */
    VX_UDP_LEN = 8,   /* RFC 768 */
    VX_VXLAN_LEN = 8, /* RFC 7348 section 5 */
    VX_VNI_FLAG = 0x08 /* the I flag, RFC 7348 section 5 */
};

/* What precedes a frame on a TAP opened with IFF_VNET_HDR (linux/virtio_net.h); host byte order. */
struct vx_vnet {
    uint8_t flags;
    uint8_t gso_type;
    uint16_t hdr_len;
    uint16_t gso_size;
    uint16_t csum_start;
    uint16_t csum_offset;
};
static_assert(sizeof(struct vx_vnet) == 10, "a virtio-net header without num_buffers");

/* The same with the fields of tunnels, TUNSETVNETHDRSZ 24 (virtio_net_hdr_v1_hash_tunnel, Linux 6.17). */
struct vx_vnet_tunnel {
    struct vx_vnet base;
    uint16_t n_buffers;
    uint32_t hash_value;
    uint16_t hash_report;
    uint16_t unused;
    uint16_t outer_l4_off;
    uint16_t inner_ip_off;
};
static_assert(sizeof(struct vx_vnet_tunnel) == 24, "a virtio-net header with a hash and a tunnel");

enum {
    VX_VNET_NEEDS_CSUM = 1,
    VX_VNET_DATA_VALID = 2,  /* the checksum was verified */
    VX_VNET_TUNNEL_CSUM = 8, /* the outer UDP checksum of a super-frame in a tunnel is partial, too */
    VX_VNET_GSO_NONE = 0,
    VX_VNET_GSO_TCPV4 = 1,
    VX_VNET_GSO_TCPV6 = 4,
    VX_VNET_GSO_UDP_L4 = 5,
    VX_VNET_GSO_TUNNEL4 = 0x20, /* added to the inner type: behind an outer UDP over IPv4 header, */
    VX_VNET_GSO_TUNNEL6 = 0x40, /* or over IPv6 (Linux 6.17) */
    VX_VNET_GSO_ECN = 0x80      /* added to a TCP type: the first segment carries CWR */
};

#endif
