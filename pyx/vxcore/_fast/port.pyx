"""Ports: what a lane receives from and sends to, whatever their kind.

Place in the house: above table and flow, below the kinds of ports (tap, udp, ...) and the lane. The
interface is in port.pxd: two tables of functions.
"""


cdef class OverlayPort:
    """Base of the ports towards the hosts of a segment. One lane uses it, from one thread."""

    @property
    def mtu(self) -> int:
        """The interface's, in bytes: to be set when somebody changed it, from any thread."""
        return self.port.mtu

    @mtu.setter
    def mtu(self, value: int):
        self.port.mtu = value


cdef class UnderlayPort:
    """Base of the ports towards the other VTEPs. One lane uses it, from one thread."""
