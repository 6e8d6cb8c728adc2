"""Ports: what a lane receives from and sends to, whatever their kind.

Place in the house: above table and flow, below the kinds of ports (tap, udp, ...) and the lane. The
interface is in port.pxd: two tables of functions.
"""


cdef class OverlayPort:
    """Base of the ports towards the hosts of a segment. One lane uses it, from one thread."""


cdef class UnderlayPort:
    """Base of the ports towards the other VTEPs. One lane uses it, from one thread."""
