# Packets: the plain C view of a batch that every kernel works on.
# PacketBatch: the Python object that owns the memory behind it.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from vxcore._fast.c_batch cimport Packets


# Packet i lies in mem[slot[i] .. slot[i + 1]), at mem[offset[i] .. offset[i] + length[i]).
# slot is ours alone and trusted. offset, length and the rest are writable from Python: a kernel reads
# each once, checks it against the slot, and only then touches memory.
cdef inline bint in_slot(const Packets *p, uint32_t i, uint32_t offset, uint32_t length) noexcept nogil:
    """Whether the packet lies wholly in its slot; the one check that makes later access safe."""
    return offset >= p.slot[i] and offset <= p.slot[i + 1] and length <= p.slot[i + 1] - offset


cdef class PacketBatch:
    cdef Packets p
    cdef readonly uint32_t capacity
    cdef readonly uint32_t headroom
    cdef object _data, _described
    cdef dict _arrays
    cdef int _describe(self, uint32_t capacity) except -1
    cdef int _hold(self, uint64_t size) except -1
    cdef object _array(self, str name, const void *start, object dtype)
    cdef void _reset_packet(self, uint32_t i) noexcept nogil
    cdef int _put(self, uint32_t i, const uint8_t *frame, size_t length) except -1


cdef PacketBatch batch_over(uint64_t size, uint32_t capacity)
