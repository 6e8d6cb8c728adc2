"""TAP: the overlay port that is a network device of this host.

Place in the house: one kind of port; above port, below the lane. A frame and the virtio-net header in
front of it (IFF_VNET_HDR) cross in one system call each way, super-frames of up to 64 KiB among them.
"""

from libc.errno cimport EBADFD, EINTR, EIO, errno
from libc.stdint cimport uint32_t
from libc.string cimport memcpy
from posix.unistd cimport read

from vxcore._fast.c_net cimport iovec, writev
from vxcore._fast.c_wire cimport VX_ETH_LEN, vx_vnet
from vxcore._fast.port cimport SLOT_LEN, Frame, Overlay, OverlayPort, count, is_shortage
from vxcore._fast.verdict cimport *

cdef enum:
    VNET_LEN = 10


cdef class TapPort(OverlayPort):
    """One queue of a TAP device by its descriptor, which the caller keeps open.

    `mtu` is the device's, `segment` the number of its segment in the tables. `superframes` says that
    the device was told (TUNSETOFFLOAD) that super-frames and partial checksums are welcome.
    """

    def __init__(self, name: str, fd: int, mtu: int, segment: int, superframes: bool = True):
        self.name = name
        self.port.fd, self.port.mtu, self.port.segment = fd, mtu, segment
        self.port.superframes = superframes
        self.port.state = &self.port
        self.port.receive, self.port.send, self.port.flush = receive, send, flush


cdef int receive(void *state, Frame *out, uint32_t max, uint32_t budget) noexcept nogil:
    """Read until the queue is empty; EBADFD is tun's answer when the device was deleted."""
    cdef Overlay *port = <Overlay *>state
    cdef uint32_t n = 0, n_bytes = 0
    cdef ssize_t length
    while n < max and n_bytes < budget:
        length = read(port.fd, out[n].data - VNET_LEN, VNET_LEN + SLOT_LEN)
        if length < 0 and errno == EINTR:
            continue
        if length < 0 and (is_shortage(errno) or n):
            break
        if length < 0:
            return -errno
        if length < VNET_LEN + VX_ETH_LEN:
            count(port.tally, INNER_TOO_SHORT, 1)
            continue
        out[n].length = <uint32_t>length - VNET_LEN
        memcpy(&out[n].vnet, out[n].data - VNET_LEN, VNET_LEN)
        n_bytes += out[n].length
        n += 1
    return <int>n


cdef void send(void *state, iovec *parts, uint32_t n, const vx_vnet *vnet,
               uint32_t n_packets) noexcept nogil:
    cdef Overlay *port = <Overlay *>state
    cdef ssize_t written
    parts[0].iov_base, parts[0].iov_len = <void *>vnet, VNET_LEN
    written = writev(port.fd, parts, n)
    while written < 0 and errno == EINTR:
        written = writev(port.fd, parts, n)
    count(port.tally, DELIVERED if written >= 0 else write_verdict(errno), n_packets)


cdef Verdict write_verdict(int error) noexcept nogil:
    if error == EIO or error == EBADFD:  # tun's answers while the device is down, and when it is gone
        return OVERLAY_DOWN
    return OVERLAY_FULL if is_shortage(error) else OVERLAY_REFUSED


cdef void flush(void *state) noexcept nogil:
    """Nothing waits: every frame was written when it came."""
