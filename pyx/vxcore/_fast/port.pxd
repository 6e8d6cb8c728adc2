# What a lane and its ports say to each other. A port is an endpoint of packets; each kind is a module
# of its own (tap, udp, ...) that fills in one of the two tables of functions below. `state` is the
# port's own; all functions are called by the one lane that owns the port.
from libc.errno cimport EAGAIN, EINTR, EMSGSIZE, ENOBUFS, ENOMEM, errno
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from vxcore._fast.c_net cimport MSG_DONTWAIT, POLLOUT, iovec, mmsghdr, msghdr, poll, pollfd, sendmmsg, sendmsg
from vxcore._fast.c_wire cimport VX_VXLAN_LEN, vx_vnet
from vxcore._fast.flow cimport Flow
from vxcore._fast.hops cimport SharedHop
from vxcore._fast.table cimport Remote
from vxcore._fast.verdict cimport DELIVERED, N_VERDICTS, TOO_BIG, UNDERLAY_FULL, UNDERLAY_REFUSED, Verdict

cdef enum:
    MAX_BURST = 64           # frames or datagrams that one receive gives at the most
    SLOT_ROOM = 256          # bytes in front of what is received that may be written to
    # The largest datagram, or super-frame, there is: what an IP packet holds, and an Ethernet header.
    SLOT_LEN = 65536 + 64
    # One slot to the next. The odd 192 bytes keep the slots from sharing the sets of a cache.
    SLOT_STRIDE = SLOT_ROOM + SLOT_LEN + 192
    MAX_OVERSIZE = 8         # frames too large for the underlay that one burst remembers, to answer them
    OVERSIZE_LEN = 576       # and how much of each
    N_VLANS = 4096
    NO_SEGMENT = 0xFFFFFFFF  # of a port: what comes without a tag is nobody's


# What a lane has counted; written by its thread alone, read by Python at any time.
cdef struct Carried:
    uint64_t rx_packets, rx_bytes, tx_packets, tx_bytes

# The start of a frame that was too large for the way to its remote, for the answer to its sender.
cdef struct Oversize:
    uint32_t segment
    uint32_t mtu             # largest IP packet of the underlay on that way; 0: not known
    uint32_t length
    bint six                 # the underlay's family
    uint8_t frame[576]

cdef struct Tally:
    uint64_t verdicts[N_VERDICTS]
    Carried *segments
    Carried *remotes         # and at -1 what came from those that are none
    uint32_t n_oversize
    Oversize oversize[8]


# An inner frame. Its memory belongs to the slot or ring it was received into, until the port's next
# receive. `vnet` says what its sender left to be done: a checksum to finish, a super-frame to cut.
cdef struct Frame:
    uint8_t *data
    uint32_t length
    vx_vnet vnet

# What arrived for our UDP port: a VXLAN header and a frame, or several that came joined (UDP_GRO), each
# of `step` bytes but the last. `vnet` is the inner frame's, its offsets counted from that frame's start.
cdef struct Datagram:
    uint8_t *data
    uint32_t length
    uint32_t step
    vx_vnet vnet
    uint16_t source_port
    uint16_t dstport_be      # which of our UDP ports it came to
    uint8_t tos
    uint8_t source[16]       # IPv4 as ::ffff:a.b.c.d

# One UDP payload to send, in two parts: the headers, and the rest of the frame where it was received.
cdef struct Piece:
    uint8_t *head
    const uint8_t *body
    uint32_t head_len, body_len

# Where a run goes, and how its outer headers are filled in.
cdef struct Heading:
    const Remote *remote
    uint32_t remote_id
    uint32_t segment         # whose counters it goes under
    uint32_t hash            # of the inner flow: chooses the source port
    uint16_t dstport_be      # of the segment, in the place of the remote's
    uint8_t tos, ttl         # ttl 0: the port's own
    bint df
    vx_vnet vnet             # of the one frame, where the port takes super-frames


# -- towards the hosts of a segment ---------------------------------------------------------------

# Where the frame that is sent next came from, for a port that asks.
cdef struct Origin:
    uint32_t vni
    const uint8_t *vtep      # as Datagram.source

cdef struct Overlay:
    void *state
    int fd                   # readable when frames wait
    uint32_t lost            # the errno for which the lane reads from it no more, else 0
    uint32_t mtu
    uint32_t segment         # changed by Python where VLANs share the port
    uint32_t number          # in the lane's list
    Overlay **vlans          # by VLAN id, the ports of a trunk's segments; NULL: frames are not told apart
    bint superframes         # takes frames that are yet to be cut or whose checksum is yet to be finished
    Origin *origin           # filled in before a send, for a collector; NULL: the port does not ask
    Tally *tally
    # Up to `max` frames into the slots that out[i].data points to, or, of a port that has memory of its
    # own, with out[i].data set to where they are; at most `budget` bytes. Their number, or -errno when the
    # port has failed for good.
    int (*receive)(void *state, Frame *out, uint32_t max, uint32_t budget) noexcept nogil
    # One frame in parts[1 .. n), made of n_packets that arrived; parts[0] is the port's to use. The bytes
    # stay where they are until flush, the parts themselves do not.
    void (*send)(void *state, iovec *parts, uint32_t n, const vx_vnet *vnet,
                 uint32_t n_packets) noexcept nogil
    void (*flush)(void *state) noexcept nogil


cdef inline void tell_origin(Overlay *port, uint32_t vni, const uint8_t *vtep) noexcept nogil:
    port.origin.vni = vni
    port.origin.vtep = vtep


cdef class OverlayPort:
    cdef Overlay port
    cdef Overlay **vlans     # the memory of port.vlans
    cdef readonly object name


# -- towards the other VTEPs ----------------------------------------------------------------------

cdef struct Underlay:
    void *state
    int fd                   # readable when datagrams wait
    uint16_t dstport_be      # of a UDP socket: the port that fd is bound to
    bint superframes         # takes frames whole, as Heading.vnet describes them
    const SharedHop *hops    # by the remotes' numbers; NULL: the kernel knows the way
    Tally *tally
    int (*receive)(void *state, Datagram *out, uint32_t max) noexcept nogil
    # A run: n pieces, all of one length but the last, which may be shorter. All that they point to stays
    # until flush. What becomes of them is counted in `tally`.
    void (*send)(void *state, const Piece *pieces, uint32_t n, const Heading *heading) noexcept nogil
    void (*flush)(void *state) noexcept nogil


cdef class UnderlayPort:
    cdef Underlay port
    cdef readonly object name


cdef inline void count(Tally *tally, Verdict verdict, uint64_t n) noexcept nogil:
    tally.verdicts[<int>verdict] += n


cdef inline void count_drop(Tally *tally, Verdict verdict) noexcept nogil:
    if verdict != DELIVERED:  # what is delivered its port counts
        tally.verdicts[<int>verdict] += 1


cdef inline void count_received(Tally *tally, uint32_t segment, int32_t remote,
                                uint64_t n_bytes) noexcept nogil:
    tally.segments[segment].rx_packets += 1
    tally.segments[segment].rx_bytes += n_bytes
    tally.remotes[remote].rx_packets += 1
    tally.remotes[remote].rx_bytes += n_bytes


cdef inline void count_sent(Tally *tally, uint32_t segment, uint32_t remote, uint64_t n,
                            uint64_t n_bytes) noexcept nogil:
    tally.segments[segment].tx_packets += n
    tally.segments[segment].tx_bytes += n_bytes
    tally.remotes[remote].tx_packets += n
    tally.remotes[remote].tx_bytes += n_bytes


cdef inline void note_oversize(Tally *tally, uint32_t segment, uint32_t mtu, bint six,
                               const iovec *parts, uint32_t n) noexcept nogil:
    """Remember a frame for an answer, if there is room; its VXLAN header is the first of the parts' bytes."""
    cdef Oversize *o = &tally.oversize[tally.n_oversize]
    cdef uint32_t i, take, skip = VX_VXLAN_LEN
    if tally.n_oversize == MAX_OVERSIZE:
        return
    o.segment, o.mtu, o.six, o.length = segment, mtu, six, 0
    for i in range(n):
        take = <uint32_t>parts[i].iov_len - skip
        if take > OVERSIZE_LEN - o.length:
            take = OVERSIZE_LEN - o.length
        memcpy(o.frame + o.length, <const uint8_t *>parts[i].iov_base + skip, take)
        o.length += take
        skip = 0
    tally.n_oversize += 1


# -- sending, when the kernel has no room -----------------------------------------------------------

cdef enum:
    MAX_TRIES = 3
    SEND_WAIT_MS = 10        # how long a full send queue may hold the lane before packets are dropped


cdef struct Patience:        # of one flush, zeroed where it begins
    bint stuck               # no room came in time: wait no more, for the lane has others to serve
    int tries                # of the message that is to be sent; 0 again behind it


cdef inline bint is_passing(Patience *p, int fd, int error) noexcept nogil:
    """Whether the same call may succeed now. It is tried again so many times at the most, since poll and
    send may disagree for ever about whether there is room.
    """
    if error == EINTR:
        return True
    p.tries += 1
    if p.tries > MAX_TRIES:
        return False
    return error == ENOBUFS or (error == EAGAIN and wait_writable(p, fd))


cdef inline bint wait_writable(Patience *p, int fd) noexcept nogil:
    cdef pollfd wanted = pollfd(fd, POLLOUT, 0)
    if not p.stuck:
        p.stuck = poll(&wanted, 1, SEND_WAIT_MS) <= 0 or not wanted.revents & POLLOUT
    return not p.stuck


cdef inline int send_some(Patience *p, int fd, mmsghdr *msgs, uint32_t n) noexcept nogil:
    """How many messages were sent; or, below 0, the errno for which the first alone cannot be."""
    cdef int sent, error
    p.tries = 0
    while True:
        sent = sendmmsg(fd, msgs, n, MSG_DONTWAIT)
        error = errno
        if sent > 0:
            return sent
        if not is_passing(p, fd, error):
            return -error


cdef inline int send_one_now(Patience *p, int fd, const msghdr *msg) noexcept nogil:
    """0, or the errno why a message cannot be sent."""
    cdef int error
    p.tries = 0
    while sendmsg(fd, msg, MSG_DONTWAIT) < 0:
        error = errno
        if not is_passing(p, fd, error):
            return error
    return 0


cdef inline bint is_shortage(int error) noexcept nogil:
    """Whether a call failed for want of room or memory: the port is well, and the next call may succeed."""
    return error == EAGAIN or error == ENOBUFS or error == ENOMEM


cdef inline Verdict underlay_verdict(int error) noexcept nogil:
    """Why a packet was not sent."""
    if error == EMSGSIZE:
        return TOO_BIG
    return UNDERLAY_FULL if is_shortage(error) else UNDERLAY_REFUSED
