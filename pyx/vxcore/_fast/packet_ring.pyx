"""Receive ring of a packet socket: packets are read where the kernel put them, without a system call.

Place in the house: under both packet ports. The ring is TPACKET_V2: the kernel wakes us for each
packet. TPACKET_V3, which hands over blocks of packets, does so only when a block is full or its timer
has run out, at the least a millisecond later. V2's slots are of one size; here it is that of usual
packets, and the kernel queues the few larger ones, super-frames, whole on the socket as well
(PACKET_COPY_THRESH), from where they are received in their turn.
"""

from libc.errno cimport EINTR, ENODEV, errno
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap

import os

from vxcore._fast.c_atomic cimport vx_load_acquire, vx_store_release
from vxcore._fast.c_net cimport *
from vxcore._fast.c_packet cimport *
from vxcore._fast.flow cimport ETHERTYPE_VLAN
from vxcore._fast.port cimport SLOT_LEN

cdef int ring_open(Ring *r, int fd, uint32_t block_len, uint32_t n_blocks, uint32_t slot_len,
                   bint vnet) except -1:
    """Map the ring that was set up on the socket with these sizes. Raises OSError."""
    cdef void *memory = mmap(NULL, <size_t>block_len * n_blocks, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
    if memory == MAP_FAILED:
        raise OSError(errno, f"packet socket: mapping its ring: {os.strerror(errno)}")
    memset(r, 0, sizeof(Ring))
    r.memory, r.memory_len, r.fd = <uint8_t *>memory, <size_t>block_len * n_blocks, fd
    r.block_len, r.slot_len, r.slots_in_block = block_len, slot_len, block_len // slot_len
    r.n_slots, r.vnet = n_blocks * r.slots_in_block, vnet
    return 0


cdef void ring_close(Ring *r) noexcept:
    if r.memory != NULL:
        munmap(r.memory, r.memory_len)
        r.memory = NULL


cdef bytes ring_rest(Ring *r):
    ring_release(r)
    return r.at.to_bytes(4, "little")


cdef int ring_resume(Ring *r, bytes where) except -1:
    at = int.from_bytes(where, "little")
    if at >= r.n_slots:
        raise ValueError(f"slot {at} of a ring of {r.n_slots}")
    r.at = r.held_from = at
    r.n_held = 0
    return 0


cdef inline uint8_t *slot_at(Ring *r, uint32_t index) noexcept nogil:
    return (r.memory + <size_t>(index / r.slots_in_block) * r.block_len
            + <size_t>(index % r.slots_in_block) * r.slot_len)


cdef inline uint32_t after(Ring *r, uint32_t index) noexcept nogil:
    return 0 if index + 1 == r.n_slots else index + 1


cdef void ring_release(Ring *r) noexcept nogil:
    cdef uint32_t i = r.held_from, _held
    for _held in range(r.n_held):
        vx_store_release(<uint32_t *>slot_at(r, i), TP_STATUS_KERNEL)
        i = after(r, i)
    r.held_from, r.n_held = r.at, 0


cdef Take ring_take(Ring *r, Taken *out, uint8_t *room) noexcept nogil:
    cdef uint8_t *slot = slot_at(r, r.at)
    cdef tpacket2_hdr *header = <tpacket2_hdr *>slot
    cdef uint32_t status = vx_load_acquire(<uint32_t *>slot)
    if not status & TP_STATUS_USER or r.n_held == r.n_slots:
        return NO_PACKET
    r.at = after(r, r.at)
    r.n_held += 1
    out.tag = stripped_tag(header, status) if status & TP_STATUS_VLAN_VALID else 0
    out.partial = status & TP_STATUS_CSUMNOTREADY != 0
    if header.tp_snaplen < header.tp_len:
        return take_large(r, status, out, room)
    out.data, out.length = slot + header.tp_mac, header.tp_snaplen
    if r.vnet:
        memcpy(&out.vnet, out.data - VNET_LEN, VNET_LEN)
    else:
        memset(&out.vnet, 0, VNET_LEN)
    return TAKEN


cdef inline uint32_t stripped_tag(const tpacket2_hdr *header, uint32_t status) noexcept nogil:
    """The tag that the kernel, or the NIC, took off, as it stood in the frame."""
    cdef uint32_t tpid = header.tp_vlan_tpid if status & TP_STATUS_VLAN_TPID_VALID else ETHERTYPE_VLAN
    return tpid << 16 | header.tp_vlan_tci


cdef Take take_large(Ring *r, uint32_t status, Taken *out, uint8_t *room) noexcept nogil:
    """Receive what did not fit its slot; the kernel could not queue it if the queue was full."""
    cdef iovec parts[2]
    cdef msghdr msg
    cdef ssize_t length, vnet_len = VNET_LEN if r.vnet else 0
    if not status & TP_STATUS_COPY:
        return LOST
    parts[0], parts[1] = iovec(&out.vnet, vnet_len), iovec(room, SLOT_LEN)
    memset(&out.vnet, 0, VNET_LEN)
    memset(&msg, 0, sizeof(msghdr))
    msg.msg_iov, msg.msg_iovlen = parts, 2
    length = recvmsg(r.fd, &msg, MSG_DONTWAIT)
    while length < 0 and errno == EINTR:
        length = recvmsg(r.fd, &msg, MSG_DONTWAIT)
    if length < vnet_len:
        return LOST
    out.data, out.length = room, <uint32_t>(length - vnet_len)
    return TOO_LONG if msg.msg_flags & MSG_TRUNC else TAKEN


cdef int ring_error(Ring *r) noexcept nogil:
    cdef int error = 0
    cdef sockaddr_ll name
    cdef unsigned int length = sizeof(error)
    if getsockopt(r.fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0:
        return errno
    length = sizeof(name)
    if getsockname(r.fd, <sockaddr *>&name, &length) == 0 and name.sll_ifindex < 0:
        return ENODEV
    return error
