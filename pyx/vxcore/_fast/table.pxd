# What a lane looks up: VNI -> segment, outer source -> remote, (VNI, MAC) -> remote.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from vxcore._fast.c_net cimport sockaddr_in6

cdef enum:
    NONE = -1
    ADDRESS_LEN = 16


cdef struct Remote:
    uint8_t address[16]      # IPv4 as ::ffff:a.b.c.d
    sockaddr_in6 name        # of the family below; a sockaddr_in is shorter and fits
    uint32_t name_len
    uint32_t family          # 4 or 6


cdef struct Segment:
    uint32_t vni
    uint32_t port            # index of its overlay port
    uint32_t flood_at        # its flood set: flood[flood_at .. flood_at + n_flood)
    uint32_t n_flood
    uint32_t ageing_s        # 0: never
    uint32_t max_learned     # 0: what the table holds
    uint32_t n_learned
    bint learning


# Four to a cache line. A free entry has no key; one that was removed keeps the key REMOVED, so that
# the search for an entry behind it goes on.
cdef struct Entry:
    uint64_t key             # MAC << 16 | low 16 bits of the VNI
    uint64_t value           # seen_s << 32 | static << 28 | high 8 bits of the VNI << 20 | remote


cdef struct FdbCounters:
    uint64_t entries
    uint64_t moves
    uint64_t overflow
    uint64_t aged


cdef class Tables:
    cdef Remote *remotes
    cdef Segment *segments
    cdef uint32_t *flood
    cdef Entry *fdb
    cdef uint32_t n_remotes, n_segments, n_flood, max_remotes, max_segments, max_flood
    cdef uint64_t fdb_mask   # buckets - 1
    cdef uint64_t sweep_at
    cdef FdbCounters counts
    cdef object _vni_index, _peers, _remote_ids
    cdef uint32_t *vni_index  # segment + 1 of each of the 2**24 VNIs
    cdef uint64_t *peers  # open-addressed set of (segment << 32 | remote) + 1
    cdef uint32_t *remote_ids
    cdef uint64_t peers_mask, remotes_mask

    cdef int32_t find_segment(self, uint32_t vni) noexcept nogil
    cdef int32_t find_remote(self, const uint8_t *address) noexcept nogil
    cdef bint is_peer(self, uint32_t segment, uint32_t remote) noexcept nogil
    cdef int32_t fdb_find(self, Segment *segment, uint64_t mac, uint32_t now_s) noexcept nogil
    cdef void fdb_learn(self, Segment *segment, uint64_t mac, uint32_t remote, uint32_t now_s) noexcept nogil
    cdef void fdb_sweep(self, uint32_t n_buckets, uint32_t now_s) noexcept nogil
    cdef Entry *_seek(self, uint32_t vni, uint64_t mac, Entry **room) noexcept nogil
    cdef void _remove(self, Entry *bucket, Entry *entry) noexcept nogil
