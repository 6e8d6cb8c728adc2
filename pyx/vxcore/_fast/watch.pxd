# What lanes show of packets: a ring of each lane and watch.
from vxcore._fast.c_watch cimport vx_watch


cdef class Watch:
    cdef vx_watch *watch
