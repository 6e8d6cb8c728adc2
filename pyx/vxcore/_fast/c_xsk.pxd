# include/vx_xsk.h: the kernel's interface of AF_XDP sockets, and bpf(2).
from libc.stdint cimport uint16_t, uint32_t, uint64_t


cdef extern from "vx_xsk.h" nogil:
    cdef enum:
        AF_XDP
        SOL_XDP
        SOCK_RAW
        SOCK_CLOEXEC
        SOL_SOCKET
        SO_SNDBUFFORCE
        MSG_DONTWAIT
        XDP_COPY
        XDP_ZEROCOPY
        XDP_USE_NEED_WAKEUP
        XDP_USE_SG
        XDP_PKT_CONTD
        XDP_RING_NEED_WAKEUP
        XDP_MMAP_OFFSETS
        XDP_RX_RING
        XDP_TX_RING
        XDP_UMEM_REG
        XDP_UMEM_FILL_RING
        XDP_UMEM_COMPLETION_RING
        XDP_STATISTICS
        XDP_MAX_TX_SKB_BUDGET
    const uint64_t XDP_PGOFF_RX_RING
    const uint64_t XDP_PGOFF_TX_RING
    const uint64_t XDP_UMEM_PGOFF_FILL_RING
    const uint64_t XDP_UMEM_PGOFF_COMPLETION_RING
    cdef struct sockaddr:
        unsigned short sa_family
    cdef struct sockaddr_xdp:
        uint16_t sxdp_family
        uint16_t sxdp_flags
        uint32_t sxdp_ifindex
        uint32_t sxdp_queue_id
        uint32_t sxdp_shared_umem_fd
    cdef struct xdp_ring_offset:
        uint64_t producer
        uint64_t consumer
        uint64_t desc
        uint64_t flags
    cdef struct xdp_mmap_offsets:
        xdp_ring_offset rx
        xdp_ring_offset tx
        xdp_ring_offset fr
        xdp_ring_offset cr
    cdef struct xdp_umem_reg:
        uint64_t addr
        uint64_t len
        uint32_t chunk_size
        uint32_t headroom
        uint32_t flags
    cdef struct xdp_statistics:
        uint64_t rx_dropped
        uint64_t rx_invalid_descs
        uint64_t tx_invalid_descs
        uint64_t rx_ring_full
        uint64_t rx_fill_ring_empty_descs
        uint64_t tx_ring_empty_descs
    cdef struct xdp_desc:
        uint64_t addr
        uint32_t len
        uint32_t options
    int socket(int family, int type, int protocol)
    int bind(int fd, const sockaddr *name, unsigned int length)
    int setsockopt(int fd, int level, int option, const void *value, unsigned int length)
    int getsockopt(int fd, int level, int option, void *value, unsigned int *length)
    ssize_t sendto(int fd, const void *data, size_t length, int flags, const void *name, unsigned int n)
    ssize_t recvfrom(int fd, void *data, size_t length, int flags, void *name, unsigned int *n)
    long vx_bpf(int command, void *attributes, unsigned int length)
