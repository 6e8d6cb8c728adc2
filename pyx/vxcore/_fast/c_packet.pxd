# include/vx_packet.h: the kernel's interface of packet sockets.
from libc.stdint cimport uint8_t, uint16_t, uint32_t


cdef extern from "vx_packet.h" nogil:
    cdef enum:
        TP_STATUS_KERNEL
        TP_STATUS_USER
        TP_STATUS_COPY
        TP_STATUS_VLAN_VALID
        TP_STATUS_VLAN_TPID_VALID
        TP_STATUS_CSUMNOTREADY
    cdef struct tpacket2_hdr:
        uint32_t tp_status
        uint32_t tp_len
        uint32_t tp_snaplen
        uint16_t tp_mac
        uint16_t tp_vlan_tci
        uint16_t tp_vlan_tpid
    cdef struct sockaddr_ll:
        uint16_t sll_family
        uint16_t sll_protocol
        int sll_ifindex
        uint16_t sll_hatype
        uint8_t sll_pkttype
        uint8_t sll_halen
        uint8_t sll_addr[8]
