# include/vx_events.h: what a lane tells Python.
from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from "vx_events.h" nogil:
    cdef enum:
        VX_RING_LEN
        VX_LEARNED_EVENT
        VX_MOVED_EVENT
        VX_FROZEN_EVENT
        VX_AGED_EVENT
        VX_LIMIT_EVENT
        VX_MISS_EVENT
        VX_STRANGER_EVENT
        VX_LOOP_EVENT
    ctypedef int vx_event_kind "enum vx_event_kind"

    cdef struct vx_event:
        uint64_t mac
        uint32_t vni, kind
        uint32_t target, was
        uint8_t address[16]
    cdef struct vx_ring:
        uint64_t head, dropped, tail
        uint32_t kinds
        int wake_fd "bell.wake_fd"

    bint vx_is_wanted(const vx_ring *ring, vx_event_kind kind)
    void vx_tell(vx_ring *ring, vx_event_kind kind, uint32_t vni, uint64_t mac, uint32_t target, uint32_t was,
                 const uint8_t *address)
    void vx_wake_reader(vx_ring *ring)
    uint32_t vx_take(vx_ring *ring, vx_event *out)
    bint vx_may_sleep(vx_ring *ring)
