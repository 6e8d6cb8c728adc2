"""Ports: what a lane receives from and sends to, whatever their kind.

Place in the house: above table and flow, below the kinds of ports (tap, udp, ...) and the lane. The
interface is in port.pxd: two tables of functions.
"""

from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free

from vxcore._fast.c_atomic cimport vx_store_release, vx_store_release_p

UNCLAIMED = <uint32_t>NO_SEGMENT


cdef class OverlayPort:
    """Base of the ports towards the hosts of a segment. One lane uses it, from one thread."""

    @property
    def mtu(self) -> int:
        """The interface's, in bytes: to be set when somebody changed it, from any thread."""
        return self.port.mtu

    @mtu.setter
    def mtu(self, value: int):
        self.port.mtu = value

    @property
    def segment(self) -> int:
        """The number of the segment that frames without a tag are for, or UNCLAIMED: to be set when lanes see
        the segment in the tables, from any thread.
        """
        return self.port.segment

    @segment.setter
    def segment(self, value: int):
        vx_store_release(&self.port.segment, value)

    def set_vlan(self, vlan: int, OverlayPort port):
        """Give the frames of a VLAN, 1 to 4094, to a port of it, or with None to nobody, from any thread. It
        must stay until lanes have begun a new batch since it was taken away. Raises MemoryError.
        """
        if not 1 <= vlan < N_VLANS - 1:
            raise ValueError(f"VLAN {vlan}: 1 to {N_VLANS - 2} is right")
        if self.vlans == NULL:
            self.vlans = <Overlay **>calloc(N_VLANS, sizeof(Overlay *))
            if self.vlans == NULL:
                raise MemoryError("no memory for a table of VLANs")
            vx_store_release_p(<void **>&self.port.vlans, self.vlans)
        vx_store_release_p(<void **>&self.vlans[<int>vlan], NULL if port is None else &port.port)

    def rest(self) -> bytes:
        """Keep nothing of the last burst, while the lane stands; where to ``resume``, here or elsewhere."""
        return b""

    def resume(self, where: bytes) -> None:
        """Receive from there on: what ``rest`` said, of the same descriptors. Raises ValueError."""

    def __dealloc__(self):
        free(self.vlans)


cdef class UnderlayPort:
    """Base of the ports towards the other VTEPs. One lane uses it, from one thread."""

    def rest(self) -> bytes:
        """Keep nothing of the last burst, while the lane stands; where to ``resume``, here or elsewhere."""
        return b""

    def resume(self, where: bytes) -> None:
        """Receive from there on: what ``rest`` said, of the same descriptors. Raises ValueError."""
