# A trunk: one port whose frames are of several segments, told apart by their VLAN.
from libc.stdint cimport uint32_t

from vxcore._fast.port cimport Frame, Overlay
from vxcore._fast.verdict cimport Verdict

# The segment that a frame of the trunk is for, and its port there; the frame's tag is taken off. NO_SEGMENT
# and why, if it is for none.
cdef uint32_t claim(Overlay *trunk, Frame *frame, Overlay **port, Verdict *why) noexcept nogil
