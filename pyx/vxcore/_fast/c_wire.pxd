# include/vx_wire.h: sizes and names on the wire.
from libc.stdint cimport uint8_t, uint16_t


cdef extern from "vx_wire.h" nogil:
    cdef enum:
        VX_ETH_LEN
        VX_TAG_LEN
        VX_IPV4_LEN
        VX_IPV6_LEN
        VX_UDP_LEN
        VX_VXLAN_LEN
        VX_VNI_FLAG
        VX_VNET_NEEDS_CSUM
        VX_VNET_TUNNEL_CSUM
        VX_VNET_DATA_VALID
        VX_VNET_GSO_NONE
        VX_VNET_GSO_TCPV4
        VX_VNET_GSO_TCPV6
        VX_VNET_GSO_UDP_L4
        VX_VNET_GSO_TUNNEL4
        VX_VNET_GSO_TUNNEL6
        VX_VNET_GSO_ECN

    cdef struct vx_vnet:
        uint8_t flags
        uint8_t gso_type
        uint16_t hdr_len
        uint16_t gso_size
        uint16_t csum_start
        uint16_t csum_offset

    cdef struct vx_vnet_tunnel:
        vx_vnet base
        uint16_t outer_l4_off
        uint16_t inner_ip_off
