# include/vx_watch.h: what a lane shows of packets.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "vx_watch.h" nogil:
    cdef enum:
        VX_WATCH_LEN
        VX_ANY_WATCHED
        VX_OUT
        VX_IN
    ctypedef int vx_way "enum vx_way"

    cdef struct vx_sight:
        uint32_t room, kept, length
        int32_t remote
        uint64_t time_ns
        uint32_t vni, port
        uint16_t source_port, gso_size
        uint8_t way, verdict, tos, learned
        uint8_t source[16]
    cdef struct vx_watch:
        vx_watch *next
        int64_t vni, mac
        uint32_t ways, snap_len, dropped_only
        uint64_t lost
        int wake_fd "bell.wake_fd"

    bint vx_is_watched(const vx_watch *watch, vx_way way, uint32_t vni, uint64_t to, uint64_t source)
    vx_sight *vx_sight_begin(vx_watch *watch, const uint8_t *packet, uint32_t length)
    void vx_sight_end(vx_watch *watch, vx_sight *sight, const vx_sight *known)
    void vx_wake_watcher(vx_watch *watch)
    const vx_sight *vx_sight_next(vx_watch *watch)
    void vx_sight_done(vx_watch *watch, const vx_sight *sight)
    bint vx_watcher_may_sleep(vx_watch *watch)
