# include/vx_batch.h: the plain view of a batch, and the template of a tunnel's outer header.
from libc.stdint cimport uint8_t, uint16_t, uint32_t


cdef extern from "vx_batch.h" nogil:
    ctypedef struct Packets "struct vx_packets":
        uint8_t *mem
        const uint32_t *slot
        uint32_t *offset
        uint32_t *length
        uint32_t *vni
        uint32_t *gbp
        uint16_t *source_port
        uint8_t *source
        uint8_t *tos
        uint8_t *protocol
        uint8_t *verdict
        uint32_t n

    ctypedef struct Template "struct vx_template":
        uint8_t header[80]
        uint32_t vni
        uint32_t port_min, n_ports
        uint32_t ip_sum
        uint32_t label
        uint32_t flags
        uint32_t header_len
        uint32_t ip_len
        uint16_t ip_id
        uint8_t version, tos, ttl, layer
        uint8_t quick
        uint8_t is_counted
        uint32_t quick_sum

    cdef enum:
        TEMPLATE_LEN "VX_TEMPLATE_LEN"
        QUICK_LEN "VX_QUICK_LEN"
        VXLAN_AT "VX_VXLAN_AT"
        UDP_AT "VX_UDP_AT"
        IPV4_AT "VX_IPV4_AT"
        IPV6_AT "VX_IPV6_AT"
