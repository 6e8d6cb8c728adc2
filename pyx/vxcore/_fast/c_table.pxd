# include/vx_table.h and vx_fdb.h: what lanes look up, and how one writer changes it under them.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from vxcore._fast.c_events cimport vx_ring


cdef extern from "vx_fdb.h" nogil:
    cdef enum:
        VX_NONE
        VX_ADDRESS_LEN
        VX_NAME_LEN
        VX_TARGET_PORT
        VX_MAX_REMOTES
        VX_MAX_PORTS
        VX_MAX_NEIGHBOURS
        VX_MAX_DSTPORTS
        VX_N_VNIS
        VX_ANY_VNI
        VX_MAX_SEATS
        VX_SEGMENT_PRESENT
        VX_SEGMENT_LEARNS
        VX_SEGMENT_ANY_SOURCE
        VX_SEGMENT_ANSWERS
        VX_SEGMENT_HAS_POLICY
        VX_SEGMENT_COLLECTS
        VX_SEGMENT_SWITCHES
        VX_SEGMENT_PORTS
        VX_SEGMENT_RELAYS
        VX_REMOTE_LISTED
        VX_REMOTE_SPOKE
        VX_LISTED
        VX_UNLIMITED
        VX_ASK
        VX_BROADCAST
        VX_MULTICAST
        VX_UNKNOWN_UNICAST
        VX_N_FLOODED
        VX_VNI_SHIFT
        VX_SEGMENT_SHIFT
        VX_REMOTE_SHIFT
        VX_PEER_SHIFT
        VX_VNIS
        VX_SEGMENTS
        VX_REMOTES
        VX_ADDRESSES
        VX_PEERS
        VX_PORTS
        VX_POLICIES
        VX_NEIGHBOURS
        VX_ASKED
        VX_N_ARRAYS
        VX_PAGE_LEN
        VX_WAYS
        VX_GENERATIONS
        VX_MAX_AGEING_S
        VX_N_MOVES
        VX_KIND_SHIFT
        VX_LEARNED
        VX_FROZEN
        VX_STATIC
        VX_CONTROL
        VX_STICKY
        VX_SET_FULL
        VX_SET_NEW
        VX_SET_CHANGED
        VX_SET_KEPT
        VX_SEEN_WELL
        VX_SEEN_ELSEWHERE
        VX_SEEN_LOOPING
    const uint64_t VX_AWAY
    const uint64_t VX_NEIGHBOUR_ROUTER
    const uint64_t VX_NEIGHBOUR_PRESENT

    cdef struct vx_remote:
        uint8_t address[16]
        uint8_t name[28]
        uint32_t name_len
        uint32_t family
        uint32_t flushed
        uint32_t flags
    cdef struct vx_prefix:
        uint8_t address[16]
        uint32_t n_bits
    cdef struct vx_policy:
        uint32_t rate[3]
        uint32_t burst[3]
        vx_prefix *prefixes
        uint32_t n_prefixes
        uint32_t n_ports
        uint16_t ports[8]
        uint16_t dstports_be[8]
        uint32_t hold_ms
    cdef struct vx_neighbour:
        uint8_t address[16]
        uint64_t mac
        uint32_t segment
    cdef struct vx_segment:
        uint32_t vni
        uint16_t port
        uint16_t dstport_be
        uint32_t n_flood
        uint32_t ageing_s
        uint32_t max_learned
        uint16_t flushed
        uint16_t flags
    cdef struct vx_view:
        uint32_t generation
    cdef struct vx_fdb_counters:
        uint64_t learned, moves, frozen, held, refused, overflow, aged, flushed
    cdef struct vx_seat:
        uint64_t epoch
        const vx_view *view
        vx_tables *tables
        uint64_t taken
        vx_ring *ring
        vx_fdb_counters counters
    cdef struct vx_entry:
        uint64_t key, value
    cdef struct vx_state:
        uint64_t learned
        uint64_t n_set
    cdef struct vx_fdb:
        vx_entry *entries
        uint8_t *passed
        vx_state *states
        uint64_t *moves
        uint64_t seed[2]
        uint64_t n_buckets, max_entries
        uint32_t max_moves, moves_window_s
    cdef struct vx_bin:
        size_t n_items
    cdef struct vx_array:
        uint8_t **live
    cdef struct vx_tables:
        uint64_t epoch
        const vx_view *view
        uint64_t n_entries
        vx_fdb fdb
        vx_array arrays[9]
        uint64_t addresses_mask, peers_mask, asked_mask
        uint32_t generation, renewed
        vx_bin bin
        uint8_t *zeros
        vx_seat seats[128]
    cdef struct vx_where:
        uint64_t key, hash
        uint32_t vni, bucket

    # what a lane calls, between vx_enter and its next vx_enter or vx_leave
    void vx_enter(vx_seat *seat)
    void vx_leave(vx_seat *seat)
    const vx_segment *vx_segment_at(const vx_seat *seat, uint32_t segment)
    const vx_remote *vx_remote_at(const vx_seat *seat, uint32_t remote)
    const uint32_t *vx_flood(const vx_segment *segment)
    int32_t vx_find_segment(const vx_seat *seat, uint32_t vni)
    int32_t vx_find_remote(const vx_seat *seat, const uint8_t *address)
    bint vx_is_peer(const vx_seat *seat, uint32_t segment, uint32_t remote)
    bint vx_is_paired(const vx_view *view, uint32_t segment, uint32_t remote)
    bint vx_may_speak(const vx_seat *seat, uint32_t segment, uint32_t remote)
    bint vx_is_welcome(const vx_seat *seat, uint32_t segment, const uint8_t *address)
    uint64_t vx_find_neighbour(const vx_seat *seat, uint32_t segment, const uint8_t *address)
    const vx_policy *vx_policy_of(const vx_seat *seat, uint32_t segment)
    bint vx_takes_port(const vx_seat *seat, uint32_t segment, uint16_t dstport_be)
    int32_t vx_fdb_find(const vx_seat *seat, const vx_segment *s, uint64_t mac, uint32_t now_s)
    void vx_fdb_find_batch(const vx_seat *seat, const vx_segment *s, const uint64_t *macs, uint32_t n,
                           int32_t *out, uint32_t now_s)
    int vx_fdb_learn(vx_seat *seat, const vx_segment *s, uint64_t mac, uint32_t target, uint32_t now_s)
    int vx_fdb_notice(vx_seat *seat, const vx_segment *s, uint64_t mac, uint32_t target, uint32_t now_s)
    void vx_fdb_sweep(vx_seat *seat, uint32_t n_buckets, uint32_t now_s)

    # what the writer calls
    void *vx_map(size_t length, bint huge)
    void vx_unmap(void *memory, size_t length)
    bint vx_array_open(vx_array *array, uint64_t n_items, unsigned int item_shift, uint8_t *zeros)
    void vx_array_close(vx_array *array)
    const void *vx_array_get(const vx_array *array, uint64_t i)
    void *vx_array_edit(vx_array *array, uint64_t i)
    bint vx_array_renew(vx_array *array, uint64_t n_items)
    void vx_abort(vx_tables *t)
    bint vx_is_changed(const vx_tables *t)
    vx_view *vx_prepare(vx_tables *t)
    void vx_publish(vx_tables *t, const vx_view *view)
    void vx_collect(vx_tables *t)
    bint vx_open(vx_tables *t, uint64_t max_segments, uint64_t max_entries)
    void vx_close(vx_tables *t, uint32_t n_segments)
    void vx_wait_for_lanes(vx_tables *t, const vx_seat *own)
    bint vx_set_flood(vx_tables *t, vx_segment *s, const uint32_t *members, uint32_t n)
    bint vx_set_prefixes(vx_tables *t, vx_policy *policy, const vx_prefix *prefixes, uint32_t n)
    uint64_t vx_peer_key(uint32_t segment, uint32_t remote)
    uint64_t vx_hash_peer(uint64_t key)
    uint64_t vx_hash_address(const uint8_t *address)
    uint64_t vx_peer_place(const vx_tables *t, uint64_t key)
    uint64_t vx_hash_neighbour(uint32_t segment, const uint8_t *address)
    uint64_t vx_neighbour_place(const vx_tables *t, uint32_t segment, const uint8_t *address)
    uint64_t vx_address_place(const vx_tables *t, const uint8_t *address)
    vx_where vx_fdb_where "vx_where" (const vx_fdb *fdb, uint32_t vni, uint64_t mac)
    vx_entry *vx_seek(const vx_fdb *fdb, const vx_where *w, uint64_t *value)
    int vx_fdb_set(vx_tables *t, const vx_where *w, uint64_t value, bint force, uint64_t *old)
    uint64_t vx_fdb_unset(vx_tables *t, const vx_where *w)
    void vx_fdb_purge(vx_seat *seat)
    void vx_fdb_sweep_all(vx_seat *seat, uint32_t now_s)
    void vx_forget_flush(vx_state *state)
    void vx_fdb_renew(vx_seat *seat)
    uint64_t vx_value(uint32_t vni, uint32_t target, int kind, uint32_t more)
    int vx_kind_of(uint64_t value)
    uint32_t vx_target_of(uint64_t value)
    uint32_t vx_more_of(uint64_t value)
    bint vx_is_live(int kind)
    bint vx_is_set(int kind)
    bint vx_is_station(uint64_t mac)
    uint32_t vx_entry_vni(uint64_t key, uint64_t value)
    uint32_t vx_age(uint64_t value, uint32_t now_s)
    bint vx_is_flushed(const vx_view *view, const vx_segment *s, uint64_t value)
    bint vx_is_aged(const vx_segment *s, uint64_t value, uint32_t now_s)
    uint64_t vx_get "vx_get" (const uint64_t *p)
    uint64_t vx_get_relaxed "vx_get_relaxed" (const uint64_t *p)
    void vx_put "vx_put" (uint64_t *p, uint64_t value)
