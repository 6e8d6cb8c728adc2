# include/vx_net.h and the kernel's socket, epoll and eventfd interfaces.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "vx_net.h" nogil:
    cdef enum:
        VX_CONTROL_LEN
        AF_INET
        AF_INET6
        IPPROTO_IP
        IPPROTO_IPV6
        IPPROTO_UDP
        UDP_SEGMENT
        IP_TOS
        IP_TTL
        IP_MTU
        IPV6_MTU
        IPV6_TCLASS
        IPV6_HOPLIMIT
        MSG_DONTWAIT
        MSG_TRUNC
        SOL_SOCKET
        SO_ERROR
    cdef struct iovec:
        void *iov_base
        size_t iov_len
    cdef struct sockaddr:
        unsigned short sa_family
    cdef struct in_addr:
        uint32_t s_addr
    cdef struct sockaddr_in:
        unsigned short sin_family
        unsigned short sin_port
        in_addr sin_addr
    cdef struct in6_addr:
        uint8_t s6_addr[16]
    cdef struct sockaddr_in6:
        unsigned short sin6_family
        unsigned short sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    cdef struct msghdr:
        void *msg_name
        unsigned int msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    cdef struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    int recvmmsg(int fd, mmsghdr *msgs, unsigned int n, int flags, void *timeout)
    int sendmmsg(int fd, mmsghdr *msgs, unsigned int n, int flags)
    int connect(int fd, const sockaddr *name, unsigned int length)
    ssize_t sendmsg(int fd, const msghdr *msg, int flags)
    ssize_t recvmsg(int fd, msghdr *msg, int flags)
    int getsockname(int fd, sockaddr *name, unsigned int *length)
    ssize_t writev(int fd, const iovec *parts, int n)
    int getsockopt(int fd, int level, int option, void *value, unsigned int *length)
    uint8_t vx_received_tos(msghdr *msg)
    uint32_t vx_received_step(msghdr *msg)
    void vx_put_control(msghdr *msg, void *control, int level, int type, int value)
    void vx_put_control16(msghdr *msg, void *control, int level, int type, uint16_t value)

cdef extern from "<sys/epoll.h>" nogil:
    cdef enum:
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CTL_MOD
        EPOLLIN
        EPOLL_CLOEXEC
    ctypedef union epoll_data_t:
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int maxevents, int timeout)

cdef extern from "<sys/eventfd.h>" nogil:
    cdef enum:
        EFD_CLOEXEC
        EFD_NONBLOCK
    int eventfd(unsigned int initval, int flags)

cdef extern from "<poll.h>" nogil:
    cdef enum:
        POLLIN
        POLLOUT
    cdef struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long nfds, int timeout)
