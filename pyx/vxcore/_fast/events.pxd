# What lanes tell Python: a ring of each lane.
from vxcore._fast.c_events cimport vx_ring


cdef class Ring:
    cdef vx_ring *ring
