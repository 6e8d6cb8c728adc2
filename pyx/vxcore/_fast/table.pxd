# What lanes look up: VNI -> segment, outer source -> remote, (VNI, MAC) -> target. A lane holds a Reader
# and calls the functions of c_table on its seat.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from vxcore._fast.c_table cimport vx_neighbour, vx_policy, vx_remote, vx_seat, vx_segment, vx_tables
from vxcore._fast.events cimport Ring

cdef enum:
    NONE = -1
    ADDRESS_LEN = 16

ctypedef vx_remote Remote
ctypedef vx_segment Segment
ctypedef vx_seat Seat


cdef class Tables:
    cdef vx_tables *t
    cdef readonly uint32_t max_segments, max_remotes
    cdef uint64_t max_flood, n_flood
    # One more than the highest number in use.
    cdef uint32_t n_segments, n_remotes, n_neighbours
    cdef uint64_t n_peers, n_addresses, n_asked
    cdef object _lock, _free_segments, _free_remotes, _free_neighbours, _before, _undo, _flushed
    cdef set _cleared
    cdef int _depth
    cdef bint _failed, _purge

    cdef Seat *take_seat(self) except NULL
    cdef Segment *_edit_segment(self, uint32_t segment) except NULL
    cdef const Segment *_segment(self, uint32_t segment) noexcept nogil
    cdef const Remote *_remote(self, uint32_t remote) noexcept nogil
    cdef const vx_neighbour *_neighbour(self, uint32_t number) noexcept nogil
    cdef int _put_neighbour(self, uint32_t segment, const uint8_t *address, uint64_t mac) except -1
    cdef int _drop_neighbour(self, uint32_t number) except -1
    cdef uint32_t _n_learned(self, uint32_t vni) noexcept nogil
    cdef int _mark_relaying(self, uint32_t segment) except -1
    cdef Remote *_edit_remote(self, uint32_t remote) except NULL
    cdef void *_edit(self, int which, uint64_t at) except NULL
    cdef void _let_lanes_pass(self) noexcept nogil
    cdef int32_t _segment_of(self, uint32_t vni) noexcept nogil
    cdef int _set_word(self, int which, uint64_t at, uint32_t word) except -1
    cdef int _add_peer(self, uint64_t key) except -1
    cdef int _remove_peer(self, uint64_t key) except -1
    cdef int _add_address(self, uint32_t remote) except -1
    cdef int _remove_address(self, uint32_t remote) except -1
    cdef int _set_prefixes(self, vx_policy *policy, list prefixes) except -1
    cdef uint64_t *_mask(self, int which) noexcept nogil
    cdef uint64_t _slot(self, int which, uint64_t at) noexcept nogil
    cdef uint64_t _home(self, int which, uint64_t item) noexcept nogil
    cdef int _set_slot(self, int which, uint64_t at, uint64_t item) except -1
    cdef int _close_gap(self, int which, uint64_t gap) except -1
    cdef int _regrow(self, int array) except -1
    cdef int _fill_remote(self, uint32_t number, address, name) except -1
    cdef uint32_t _next_generation(self) noexcept
    cdef int _remove_segment(self, uint32_t number) except -1
    cdef int _fill_segment(self, const Segment *model, uint32_t number, const uint32_t *members,
                           uint32_t n) except -1
    cdef uint64_t _fill_rows(self, uint8_t[::1] memory, uint64_t room, uint32_t now_s) noexcept nogil
    cdef uint64_t _set_rows(self, const uint32_t[::1] vni, const uint64_t[::1] mac,
                            const uint32_t[::1] target, const uint32_t[::1] more, int kind, bint only_new,
                            uint64_t[::1] old) noexcept nogil
    cdef uint64_t _unset_rows(self, const uint32_t[::1] vni, const uint64_t[::1] mac, bint missing_ok,
                              uint64_t[::1] old) noexcept nogil
    cdef uint64_t _first_unknown(self, const uint32_t[::1] vni) noexcept nogil
    cdef uint64_t _first_absent(self, const uint32_t[::1] target) noexcept nogil


cdef class Reader:
    cdef readonly Tables tables
    cdef Ring ring
    cdef Seat *seat

    cdef const Segment *_entered(self, segment) except NULL
