"""Packet sockets: the overlay port on an interface that exists, a veth, a bridge port or a NIC.

Place in the house: one kind of port; above port, packet_ring, gso and gro, below the lane. What the
interface receives comes from a ring, with a virtio-net header that says what its sender's offload left
undone; what it is to send goes out in as few system calls as the kernel allows. Where the kernel will not
cut a super-frame, or there is no such header, it is cut and summed here.
"""

from libc.errno cimport EINVAL, EIO, EMSGSIZE, ENETDOWN, ENODEV, ENXIO
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memmove, memset

from vxcore._fast.c_bytes cimport vx_store32
from vxcore._fast.c_net cimport *
from vxcore._fast.c_wire cimport *
from vxcore._fast.flow cimport Flow, dissect
from vxcore._fast.gro cimport describe_frame
from vxcore._fast.gso cimport HEADS_LEN, MAX_PIECES, Cuts, Whole, finish_partial, gso_begin, gso_cut
from vxcore._fast.packet_ring cimport *
from vxcore._fast.port cimport *
from vxcore._fast.verdict cimport *

cdef enum:
    MAX_MESSAGES = 256
    MAX_PARTS = 2048         # one for the virtio-net header, and those of the frame
    ADDRESSES_LEN = 12       # in front of a tag


cdef struct Message:
    vx_vnet vnet
    uint32_t n_packets


cdef struct Queue:
    mmsghdr msgs[256]
    Message messages[256]
    iovec parts[2048]
    uint32_t n, n_parts


cdef struct State:
    Overlay *port
    Ring ring
    Queue *queue
    Cuts cuts
    uint8_t *gathered        # room for a super-frame in one piece
    int send_fd
    bint vnet                # virtio-net headers go with the frames, both ways
    Patience patience        # of this flush
    bint tso, uso            # super-frames of that kind may be sent whole
    int gso_error            # why some no longer are, an errno


cdef class PacketOverlayPort(OverlayPort):
    """Packet sockets of one lane on an interface, by their descriptors, which the caller keeps open.

    `receiver` has a ring of `blocks` (number, bytes) with slots of `slot_len` bytes, and lets in all
    that the interface receives and nothing that it sends; `sender` is bound to the interface. `mtu` is
    the interface's in bytes, `segment` the number of its segment in the tables. `vnet` says that both
    have virtio-net headers, `uso` that the kernel cuts UDP super-frames, too. Raises OSError when the
    ring cannot be mapped.
    """

    cdef State s

    def __cinit__(self):
        self.s.queue = <Queue *>calloc(1, sizeof(Queue))
        self.s.cuts.heads = <uint8_t *>malloc(HEADS_LEN)
        self.s.cuts.pieces = <Piece *>malloc(MAX_PIECES * sizeof(Piece))
        self.s.gathered = <uint8_t *>malloc(SLOT_LEN)
        if not (self.s.queue and self.s.cuts.heads and self.s.cuts.pieces and self.s.gathered):
            raise MemoryError("no memory for a port")

    def __init__(self, name: str, receiver: int, sender: int, mtu: int, segment: int,
                 blocks: tuple[int, int], slot_len: int, *, vnet: bool = True, uso: bool = True):
        self.name = name
        ring_open(&self.s.ring, receiver, blocks[1], blocks[0], slot_len, vnet)
        self.s.send_fd, self.s.vnet = sender, vnet
        self.s.tso, self.s.uso = vnet, vnet and uso
        self.s.port = &self.port
        self.port.fd, self.port.mtu, self.port.segment = receiver, mtu, segment
        self.port.superframes, self.port.state = vnet, &self.s
        self.port.receive, self.port.send, self.port.flush = receive, send, flush

    def __dealloc__(self):
        ring_close(&self.s.ring)
        free(self.s.queue)
        free(self.s.cuts.heads)
        free(self.s.cuts.pieces)
        free(self.s.gathered)

    def rest(self) -> bytes:
        return ring_rest(&self.s.ring)

    def resume(self, where: bytes) -> None:
        ring_resume(&self.s.ring, where)

    @property
    def gso_error(self) -> int:
        """The errno with which the kernel refused a super-frame, after which its kind is cut here; else 0."""
        return self.s.gso_error


# -- receiving --------------------------------------------------------------------------------------


cdef int receive(void *state, Frame *out, uint32_t max, uint32_t budget) noexcept nogil:
    """Never fails for good: an interface that is down or gone may come back."""
    cdef State *s = <State *>state
    cdef uint32_t n = 0, n_bytes = 0, tries = 0
    cdef bint released = s.ring.n_held != 0
    cdef Take taken = NO_PACKET
    cdef Taken packet
    ring_release(&s.ring)
    while tries < max and n_bytes < budget:
        tries += 1
        taken = ring_take(&s.ring, &packet, out[n].data)
        if taken == NO_PACKET:
            break
        n_bytes += packet.length
        n += accept(s, taken, &packet, &out[n])
    if taken == NO_PACKET and n == 0 and not released:
        ring_error(&s.ring)  # which clears it: we are not woken for it again
    return <int>n


cdef inline bint accept(State *s, Take taken, const Taken *packet, Frame *frame) noexcept nogil:
    """Describe a frame; count one that is none."""
    cdef Verdict verdict = TOO_BIG if taken == TOO_LONG else OVERLAY_OVERRUN
    if taken == TAKEN:
        verdict = DELIVERED if packet.length >= VX_ETH_LEN else INNER_TOO_SHORT
    if verdict != DELIVERED:
        count(s.port.tally, verdict, 1)
        return False
    frame.data, frame.length, frame.vnet = packet.data, packet.length, packet.vnet
    frame.vnet.flags &= VX_VNET_NEEDS_CSUM
    if packet.partial and not s.vnet:
        describe_frame(frame, s.port.mtu)
    if packet.tag:
        put_tag_back(frame, packet.tag)
    return True


cdef inline void put_tag_back(Frame *frame, uint32_t tag) noexcept nogil:
    """In the room in front of the frame, where its virtio-net header was."""
    frame.data -= VX_TAG_LEN
    frame.length += VX_TAG_LEN
    memmove(frame.data, frame.data + VX_TAG_LEN, ADDRESSES_LEN)
    vx_store32(frame.data + ADDRESSES_LEN, tag)
    if frame.vnet.flags & VX_VNET_NEEDS_CSUM:
        frame.vnet.csum_start += VX_TAG_LEN
    if frame.vnet.hdr_len:
        frame.vnet.hdr_len += VX_TAG_LEN


# -- sending ----------------------------------------------------------------------------------------


cdef void send(void *state, iovec *parts, uint32_t n, const vx_vnet *vnet,
               uint32_t n_packets) noexcept nogil:
    cdef State *s = <State *>state
    cdef Queue *q = s.queue
    cdef Message *message
    if not takes(s, vnet):
        flush(state)  # what waits came before
        send_undone(s, parts, n, vnet, n_packets)
        return
    if q.n == MAX_MESSAGES or q.n_parts + n > MAX_PARTS:
        flush(state)
    message = &q.messages[q.n]
    message.vnet, message.n_packets = vnet[0], n_packets
    memcpy(&q.parts[q.n_parts], parts, n * sizeof(iovec))
    q.parts[q.n_parts] = iovec(&message.vnet, VNET_LEN if s.vnet else 0)
    q.msgs[q.n].msg_hdr.msg_iov, q.msgs[q.n].msg_hdr.msg_iovlen = &q.parts[q.n_parts], n
    q.n += 1
    q.n_parts += n


cdef inline bint takes(const State *s, const vx_vnet *vnet) noexcept nogil:
    """Whether the kernel does what is yet to be done to the frame."""
    if vnet.gso_type:
        return s.uso if vnet.gso_type == VX_VNET_GSO_UDP_L4 else s.tso
    return s.vnet or not vnet.flags & VX_VNET_NEEDS_CSUM


cdef void flush(void *state) noexcept nogil:
    """Send what is queued. An error with nothing sent concerns the first message alone: go on behind it."""
    cdef State *s = <State *>state
    cdef uint32_t at = 0
    cdef int sent
    s.patience.stuck = False
    while at < s.queue.n:
        sent = send_some(&s.patience, s.send_fd, &s.queue.msgs[at], s.queue.n - at)
        if sent > 0:
            count_sent_frames(s, at, at + sent)
            at += sent
        else:
            refused(s, at, -sent)
            at += 1
    s.queue.n = s.queue.n_parts = 0


cdef void count_sent_frames(State *s, uint32_t at, uint32_t end) noexcept nogil:
    while at < end:
        count(s.port.tally, DELIVERED, s.queue.messages[at].n_packets)
        at += 1


cdef void refused(State *s, uint32_t at, int error) noexcept nogil:
    """Do for a frame what the kernel refused to do, or count it."""
    cdef Message *message = &s.queue.messages[at]
    cdef msghdr *msg = &s.queue.msgs[at].msg_hdr
    cdef bint undone = message.vnet.gso_type != 0 or message.vnet.flags & VX_VNET_NEEDS_CSUM != 0
    if not undone or (error != EIO and error != EINVAL and error != EMSGSIZE):
        count(s.port.tally, send_verdict(error), message.n_packets)
        return
    if send_undone(s, msg.msg_iov, <uint32_t>msg.msg_iovlen, &message.vnet, message.n_packets) == 0:
        return
    if message.vnet.gso_type == VX_VNET_GSO_UDP_L4:
        s.uso, s.gso_error = False, error
    elif message.vnet.gso_type:
        s.tso = s.port.superframes = False
        s.gso_error = error


cdef uint32_t send_undone(State *s, const iovec *parts, uint32_t n, const vx_vnet *vnet,
                          uint32_t n_packets) noexcept nogil:
    """Finish the frame in parts[1 .. n), or cut it, and send that; how many of the pieces were sent."""
    cdef Frame frame
    gather(s, parts, n, &frame)
    frame.vnet = vnet[0]
    if vnet.gso_type:
        return send_cut(s, &frame, n_packets)
    if not finish_partial(frame.data, frame.length, vnet):
        count(s.port.tally, BAD_OFFLOAD, n_packets)
        return 0
    return send_now(s, frame.data, frame.length, NULL, 0)


cdef void gather(State *s, const iovec *parts, uint32_t n, Frame *frame) noexcept nogil:
    """A frame in one part stays where it is."""
    cdef uint32_t i
    frame.data, frame.length = <uint8_t *>parts[1].iov_base, <uint32_t>parts[1].iov_len
    if n == 2:
        return
    frame.data, frame.length = s.gathered, 0
    for i in range(1, n):
        if frame.length + parts[i].iov_len > SLOT_LEN:
            return  # longer than an IP packet can be, which no lane makes
        memcpy(frame.data + frame.length, parts[i].iov_base, parts[i].iov_len)
        frame.length += <uint32_t>parts[i].iov_len


cdef uint32_t send_cut(State *s, Frame *frame, uint32_t n_packets) noexcept nogil:
    cdef Whole whole
    cdef Flow flow
    cdef Piece *piece
    cdef uint32_t i, n_sent = 0
    dissect(frame.data, frame.length, &flow, False)
    if not gso_begin(&whole, frame, &flow):
        count(s.port.tally, BAD_OFFLOAD, n_packets)
        return 0
    while whole.done < whole.payload_len:
        s.cuts.n = s.cuts.used = 0
        gso_cut(&whole, &s.cuts, 0)
        for i in range(s.cuts.n):
            piece = &s.cuts.pieces[i]
            n_sent += send_now(s, piece.head + VX_VXLAN_LEN, piece.head_len - VX_VXLAN_LEN,
                               piece.body, piece.body_len)
    return n_sent


cdef bint send_now(State *s, uint8_t *head, uint32_t head_len, const uint8_t *body,
                   uint32_t body_len) noexcept nogil:
    """One finished frame, in two parts; whether it was sent."""
    cdef iovec parts[3]
    cdef msghdr msg
    cdef vx_vnet nothing
    cdef int failed
    memset(&nothing, 0, sizeof(vx_vnet))
    memset(&msg, 0, sizeof(msghdr))
    parts[0] = iovec(&nothing, VNET_LEN if s.vnet else 0)
    parts[1], parts[2] = iovec(head, head_len), iovec(<void *>body, body_len)
    msg.msg_iov, msg.msg_iovlen = parts, 3
    failed = send_one_now(&s.patience, s.send_fd, &msg)
    count(s.port.tally, send_verdict(failed) if failed else DELIVERED, 1)
    return not failed


cdef Verdict send_verdict(int error) noexcept nogil:
    if error == ENETDOWN or error == ENXIO or error == ENODEV:  # it is down, or was deleted
        return OVERLAY_DOWN
    return OVERLAY_FULL if is_shortage(error) else OVERLAY_REFUSED


# -- for tests --------------------------------------------------------------------------------------


def taken(PacketOverlayPort port not None, budget: int = 1 << 18) -> tuple[list, dict[int, int]]:
    """What a lane would receive: (frame, virtio-net header) pairs, and the counts of verdicts.

    A frame too large for a slot of the ring is left out of the pairs if it does not fit 64 KiB.
    """
    cdef Tally tally
    cdef Frame frames[MAX_BURST]
    cdef uint8_t *slots = <uint8_t *>calloc(MAX_BURST, SLOT_STRIDE)
    cdef int i, n
    if not slots:
        raise MemoryError("no memory for frames")
    memset(&tally, 0, sizeof(Tally))
    for i in range(MAX_BURST):
        frames[i].data = slots + i * <size_t>SLOT_STRIDE + SLOT_ROOM
    port.port.tally = &tally
    n = port.port.receive(port.port.state, frames, MAX_BURST, budget)
    pairs = [(frames[i].data[: frames[i].length], (<uint8_t *>&frames[i].vnet)[:VNET_LEN]) for i in range(n)]
    free(slots)
    return pairs, counts(&tally)


def sent(frames, sender: int, vnet: bool = True, uso: bool = True) -> dict[int, int]:
    """Send frames by a socket as a lane would, and return the counts of verdicts.

    `frames` are (writable buffers, virtio-net header, number of packets): the parts of a frame, which may
    be changed.
    """
    cdef PacketOverlayPort port = PacketOverlayPort.__new__(PacketOverlayPort)
    cdef Tally tally
    cdef iovec parts[66]
    cdef uint8_t[::1] view
    cdef const uint8_t[::1] said
    cdef uint32_t n
    memset(&tally, 0, sizeof(Tally))
    port.s.port, port.port.tally, port.s.send_fd = &port.port, &tally, sender
    port.s.vnet, port.s.tso, port.s.uso, port.port.superframes = vnet, vnet, vnet and uso, vnet
    for buffers, said, n_packets in frames:
        n = 1
        for view in buffers:
            parts[n] = iovec(&view[0], view.shape[0])
            n += 1
        send(&port.s, parts, n, <const vx_vnet *>&said[0], n_packets)
    flush(&port.s)
    return counts(&tally)


cdef dict counts(const Tally *tally):
    return {i: tally.verdicts[i] for i in range(N_VERDICTS) if tally.verdicts[i]}
