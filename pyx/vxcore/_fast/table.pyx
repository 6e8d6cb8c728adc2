"""Tables of a lane: segments by VNI, remotes by address, and the forwarding table (FDB).

Place in the house: above memory, below lane. Filled by the engine before lanes start; from then on
written by the one lane alone (learning and ageing). Reading from Python meanwhile is safe: every
field is a word of its own.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

import numpy as np

from vxcore._fast.c_bytes cimport VX_K0, VX_K1, vx_load64_raw, vx_mix

cdef enum:
    WAYS = 4            # entries in a bucket, one cache line
    MAX_PROBES = 8      # buckets searched at most
    STATIC_BIT = 28
    VNI_BIT = 20
    REMOVED = 1
    MAX_REMOTE_ID = 0xFFFFF


cdef inline uint64_t key_of(uint32_t vni, uint64_t mac) noexcept nogil:
    return mac << 16 | (vni & 0xFFFF)


cdef inline uint64_t value_of(uint32_t vni, uint32_t remote, bint static, uint32_t now_s) noexcept nogil:
    return (<uint64_t>now_s << 32 | <uint64_t>static << STATIC_BIT
            | <uint64_t>(vni >> 16) << VNI_BIT | remote)


cdef inline bint is_free(const Entry *entry) noexcept nogil:
    return entry.key >> 16 == 0


cdef inline bint is_static(const Entry *entry) noexcept nogil:
    return entry.value >> STATIC_BIT & 1


cdef inline uint32_t remote_of(const Entry *entry) noexcept nogil:
    return entry.value & MAX_REMOTE_ID


cdef inline uint32_t vni_of(const Entry *entry) noexcept nogil:
    return <uint32_t>((entry.value >> VNI_BIT & 0xFF) << 16 | (entry.key & 0xFFFF))


cdef inline bint is_stale(const Entry *entry, uint32_t ageing_s, uint32_t now_s) noexcept nogil:
    return ageing_s != 0 and not is_static(entry) and now_s - <uint32_t>(entry.value >> 32) >= ageing_s


cdef uint64_t power_of_two(uint64_t at_least):
    return 1 << (at_least - 1).bit_length() if at_least > 1 else 1


cdef class Tables:
    """Fixed room for `max_segments`, `max_remotes`, `max_flood` flood-set members in all, and at
    least `max_entries` FDB entries. Raises MemoryError.
    """

    def __cinit__(self, max_segments: int, max_remotes: int, max_flood: int, max_entries: int = 65536):
        if not 0 <= max_remotes <= MAX_REMOTE_ID:
            raise ValueError(f"{max_remotes} remotes: at most {MAX_REMOTE_ID}")
        self.max_segments, self.max_remotes, self.max_flood = max_segments, max_remotes, max_flood
        self.segments = <Segment *>calloc(max_segments + 1, sizeof(Segment))
        self.remotes = <Remote *>calloc(max_remotes + 1, sizeof(Remote))
        self.flood = <uint32_t *>calloc(max_flood + 1, sizeof(uint32_t))
        self.fdb_mask = power_of_two(max_entries // 2) - 1  # half full at the most, in fours
        self.fdb = <Entry *>calloc((self.fdb_mask + 1) * WAYS, sizeof(Entry))
        if not (self.segments and self.remotes and self.flood and self.fdb):
            raise MemoryError("no memory for the tables")
        self._make_indexes()

    def _make_indexes(self) -> None:
        self._vni_index = np.zeros(1 << 24, np.uint32)  # pages that hold no VNI stay untouched
        self.vni_index = <uint32_t *><uintptr_t>self._vni_index.ctypes.data
        self.remotes_mask = power_of_two(2 * self.max_remotes + 2) - 1
        self._remote_ids = np.zeros(self.remotes_mask + 1, np.uint32)
        self.remote_ids = <uint32_t *><uintptr_t>self._remote_ids.ctypes.data
        self.peers_mask = 0
        self._peers = np.zeros(1, np.uint64)
        self.peers = <uint64_t *><uintptr_t>self._peers.ctypes.data

    def __dealloc__(self):
        free(self.segments)
        free(self.remotes)
        free(self.flood)
        free(self.fdb)

    # -- filling, before a lane runs -----------------------------------------------------------

    def add_remote(self, address: bytes, name: bytes) -> int:
        """Add a remote by its 16-byte address and the sockaddr to send to; return its number."""
        cdef Remote *remote = &self.remotes[self.n_remotes]
        cdef uint64_t at
        if self.n_remotes == self.max_remotes:
            raise ValueError(f"more than {self.max_remotes} remotes")
        if len(address) != ADDRESS_LEN or len(name) > <Py_ssize_t>sizeof(sockaddr_in6):
            raise ValueError(f"{len(address)} address bytes, {len(name)} sockaddr bytes")
        memcpy(remote.address, <const char *>address, ADDRESS_LEN)
        memcpy(&remote.name, <const char *>name, len(name))
        remote.name_len = len(name)
        remote.family = 4 if len(name) < <Py_ssize_t>sizeof(sockaddr_in6) else 6
        at = hash_address(remote.address) & self.remotes_mask
        while self.remote_ids[at]:
            at = (at + 1) & self.remotes_mask
        self.n_remotes += 1
        self.remote_ids[at] = self.n_remotes
        return self.n_remotes - 1

    def add_segment(self, vni: int, port: int, flood, *,
                    learning: bool, ageing_s: int, max_learned: int) -> int:
        """Add a segment with its overlay port and flood set (remote numbers); return its number."""
        cdef Segment *segment = &self.segments[self.n_segments]
        if self.n_segments == self.max_segments or self.n_flood + len(flood) > self.max_flood:
            raise ValueError(f"more than {self.max_segments} segments or {self.max_flood} flood members")
        segment.vni, segment.port = vni, port
        segment.flood_at, segment.n_flood = self.n_flood, len(flood)
        segment.learning, segment.ageing_s, segment.max_learned = learning, ageing_s, max_learned
        for remote in flood:
            self.flood[self.n_flood] = remote
            self.n_flood += 1
        self.n_segments += 1
        self.vni_index[vni] = self.n_segments
        return self.n_segments - 1

    def set_peers(self, pairs) -> None:
        """Set which (segment, remote) pairs are known peers; packets from others are refused."""
        cdef uint64_t key, at
        self.peers_mask = power_of_two(2 * len(pairs) + 2) - 1
        self._peers = np.zeros(self.peers_mask + 1, np.uint64)
        self.peers = <uint64_t *><uintptr_t>self._peers.ctypes.data
        for segment, remote in pairs:
            key = (<uint64_t>segment << 32 | <uint64_t>remote) + 1
            at = vx_mix(key ^ VX_K0, VX_K1) & self.peers_mask
            while self.peers[at] and self.peers[at] != key:
                at = (at + 1) & self.peers_mask
            self.peers[at] = key

    def add_static(self, vni: int, mac: int, remote: int) -> None:
        """Add a static FDB entry; it never ages and learning cannot change it.

        Raises ValueError when its part of the table is full.
        """
        cdef Entry *room = NULL
        cdef Entry *entry = self._seek(vni, mac, &room)
        entry = entry if entry else room
        if not entry:
            raise ValueError(f"no room in the forwarding table for {mac:012x} in VNI {vni}")
        self.counts.entries += is_free(entry)
        entry.value = value_of(vni, remote, True, 0)
        entry.key = key_of(vni, mac)

    # -- reading from Python -------------------------------------------------------------------

    def fdb_rows(self) -> list[tuple[int, int, int, bool]]:
        """The entries as (vni, mac, remote, static), in no order."""
        cdef uint64_t i
        rows = []
        for i in range((self.fdb_mask + 1) * WAYS):
            if not is_free(&self.fdb[i]):
                rows.append((vni_of(&self.fdb[i]), self.fdb[i].key >> 16, remote_of(&self.fdb[i]),
                             bool(is_static(&self.fdb[i]))))
        return rows

    def fdb_counters(self) -> dict[str, int]:
        """Entries now; moves, refused learns and aged entries since the start."""
        return {"entries": self.counts.entries, "moves": self.counts.moves,
                "overflow": self.counts.overflow, "aged": self.counts.aged}

    # -- what a lane calls ---------------------------------------------------------------------

    cdef int32_t find_segment(self, uint32_t vni) noexcept nogil:
        return <int32_t>self.vni_index[vni & 0xFFFFFF] - 1

    cdef int32_t find_remote(self, const uint8_t *address) noexcept nogil:
        cdef uint64_t at = hash_address(address) & self.remotes_mask
        while self.remote_ids[at]:
            if memcmp(self.remotes[self.remote_ids[at] - 1].address, address, ADDRESS_LEN) == 0:
                return <int32_t>self.remote_ids[at] - 1
            at = (at + 1) & self.remotes_mask
        return NONE

    cdef bint is_peer(self, uint32_t segment, uint32_t remote) noexcept nogil:
        cdef uint64_t key = (<uint64_t>segment << 32 | remote) + 1
        cdef uint64_t at = vx_mix(key ^ VX_K0, VX_K1) & self.peers_mask
        while self.peers[at]:
            if self.peers[at] == key:
                return True
            at = (at + 1) & self.peers_mask
        return False

    cdef Entry *_seek(self, uint32_t vni, uint64_t mac, Entry **room) noexcept nogil:
        """The entry of (vni, mac), or NULL and in `room` where it could go, NULL when there is none."""
        cdef uint64_t key = key_of(vni, mac)
        cdef uint64_t at = vx_mix(key ^ VX_K0, vni ^ VX_K1)
        cdef Entry *bucket
        cdef int probe, way
        room[0] = NULL
        for probe in range(MAX_PROBES):
            bucket = &self.fdb[((at + probe) & self.fdb_mask) * WAYS]
            for way in range(WAYS):
                if bucket[way].key == key and (bucket[way].value >> VNI_BIT & 0xFF) == vni >> 16:
                    return &bucket[way]
                if room[0] == NULL and is_free(&bucket[way]):
                    room[0] = &bucket[way]
                if bucket[way].key == 0:
                    return NULL
        return NULL

    cdef int32_t fdb_find(self, Segment *segment, uint64_t mac, uint32_t now_s) noexcept nogil:
        cdef Entry *room
        cdef Entry *entry = self._seek(segment.vni, mac, &room)
        if entry == NULL or is_stale(entry, segment.ageing_s, now_s):
            return NONE
        return <int32_t>remote_of(entry)

    cdef void fdb_learn(self, Segment *segment, uint64_t mac, uint32_t remote, uint32_t now_s) noexcept nogil:
        """Learn or refresh from a frame received from `remote`; group and zero MACs are not learned."""
        cdef Entry *room
        cdef Entry *entry
        cdef uint64_t value = value_of(segment.vni, remote, False, now_s)
        if mac == 0 or mac >> 40 & 1:
            return
        entry = self._seek(segment.vni, mac, &room)
        if entry != NULL:
            if not is_static(entry) and entry.value != value:  # at most one write a second if unmoved
                self.counts.moves += remote_of(entry) != remote
                entry.value = value
            return
        if room == NULL or (segment.max_learned and segment.n_learned >= segment.max_learned):
            self.counts.overflow += 1
            return
        room.value = value
        room.key = key_of(segment.vni, mac)
        segment.n_learned += 1
        self.counts.entries += 1

    cdef void fdb_sweep(self, uint32_t n_buckets, uint32_t now_s) noexcept nogil:
        """Forget what has aged in the next `n_buckets` buckets; calls take turns over the table."""
        cdef Entry *bucket
        cdef int32_t segment
        cdef int way
        cdef uint32_t _i
        for _i in range(n_buckets):
            bucket = &self.fdb[(self.sweep_at & self.fdb_mask) * WAYS]
            self.sweep_at += 1
            for way in range(WAYS):
                if is_free(&bucket[way]):
                    continue
                segment = self.find_segment(vni_of(&bucket[way]))
                if segment != NONE and is_stale(&bucket[way], self.segments[segment].ageing_s, now_s):
                    self.segments[segment].n_learned -= 1
                    self._remove(bucket, &bucket[way])

    cdef void _remove(self, Entry *bucket, Entry *entry) noexcept nogil:
        # The ways fill from the left: behind a free last one no search ever went on.
        entry.key = 0 if bucket[WAYS - 1].key == 0 and entry == last_used(bucket) else REMOVED
        self.counts.entries -= 1
        self.counts.aged += 1


cdef Entry *last_used(Entry *bucket) noexcept nogil:
    cdef int way = WAYS - 1
    while way > 0 and bucket[way].key == 0:
        way -= 1
    return &bucket[way]


cdef inline uint64_t hash_address(const uint8_t *address) noexcept nogil:
    return vx_mix(vx_load64_raw(address) ^ VX_K0, vx_load64_raw(address + 8) ^ VX_K1)
