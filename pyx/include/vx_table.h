/* What lanes look up, and how they look while it changes.
 *
 * One writer, many lanes. All but the forwarding table (vx_fdb.h) hangs off one view: immutable, and
 * published whole by one pointer. A lane enters before each batch, which says that it has done with
 * what came before, and takes the newest view; it leaves before it sleeps, so that nobody waits for
 * it. What the writer replaced goes to the bin and is freed when every lane has entered again or left
 * (quiescent-state-based reclamation). Neither side ever waits for the other. */
#ifndef VX_TABLE_H
#define VX_TABLE_H

#include <assert.h>
#include <sched.h>
#include <sys/mman.h>

#include "vx_atomic.h"
#include "vx_bytes.h"
#include "vx_events.h"
#include "vx_pages.h"

enum {
    VX_NONE = -1,
    VX_ADDRESS_LEN = 16,
    VX_NAME_LEN = 28,
    VX_TARGET_PORT = 1 << 20, /* a target is a remote's number, or an overlay port's with this bit */
    VX_MAX_REMOTES = 1 << 20,
    VX_MAX_PORTS = 1 << 16,
    VX_MAX_NEIGHBOURS = 1 << 22,
    VX_N_VNIS = 1 << 24,
    VX_ANY_VNI = VX_N_VNIS, /* the segment of all VNIs that have none */
    VX_MAX_SEATS = 128,
    VX_INLINE_FLOOD = 2,
    VX_MAX_DSTPORTS = 8,
    VX_SEGMENT_PRESENT = 1,
    VX_SEGMENT_LEARNS = 2,
    VX_SEGMENT_ANY_SOURCE = 4,
    VX_SEGMENT_ANSWERS = 16,   /* requests for the link addresses of neighbours that are known */
    VX_SEGMENT_HAS_POLICY = 8, /* its policy says what it floods, and whom else it takes packets from */
    VX_SEGMENT_COLLECTS = 32,  /* takes from the underlay what comes, and sends nothing */
    VX_SEGMENT_SWITCHES = 64,  /* has several overlay ports, and learns from them too; its policy lists them */
    VX_SEGMENT_PORTS = 8,      /* that it may have */
    VX_SEGMENT_RELAYS = 128,    /* some of its flood set are spokes */
    VX_REMOTE_LISTED = 1,      /* only in the segments that are paired with it under VX_LISTED */
    VX_REMOTE_SPOKE = 2,       /* what it sends to other spokes goes on to them from here */
    VX_LISTED = 1 << 30,
    VX_UNLIMITED = -1,
    VX_ASK = -2,
    VX_VNI_SHIFT = 2,
    VX_SEGMENT_SHIFT = 5,
    VX_REMOTE_SHIFT = 6,
    VX_PEER_SHIFT = 3,
    VX_POLICY_SHIFT = 6,
    VX_NEIGHBOUR_SHIFT = 5
};

/* A remote that is absent has family 0. */
struct vx_remote {
    uint8_t address[VX_ADDRESS_LEN]; /* IPv4 as ::ffff:a.b.c.d */
    uint8_t name[VX_NAME_LEN];       /* a sockaddr_in or sockaddr_in6 */
    uint32_t name_len;
    uint32_t family;  /* 4 or 6 */
    uint32_t flushed; /* what was learned before this generation is void; 0: all counts */
    uint32_t flags;
    uint32_t spare;
};
static_assert(sizeof(struct vx_remote) == 1 << VX_REMOTE_SHIFT, "a remote is one cache line");

struct vx_segment {
    uint32_t vni;
    uint16_t port;       /* index of its overlay port */
    uint16_t dstport_be; /* UDP port that its packets are sent to, here and there; 0: its policy has several */
    union {
        uint32_t few[VX_INLINE_FLOOD];
        uint32_t *many; /* ascending */
    } flood;
    uint32_t n_flood;
    uint32_t ageing_s;    /* 0: never */
    uint32_t max_learned; /* 0: what the table holds */
    uint16_t flushed;     /* as of a remote */
    uint16_t flags;
};
static_assert(sizeof(struct vx_segment) == 1 << VX_SEGMENT_SHIFT, "two segments to a cache line");

/* Frames to more than one, or to nobody that is known. */
enum vx_flooded { VX_BROADCAST, VX_MULTICAST, VX_UNKNOWN_UNICAST, VX_N_FLOODED };

struct vx_prefix {
    uint8_t address[VX_ADDRESS_LEN]; /* as of a remote */
    uint32_t n_bits;                 /* of all 128 */
};

/* What a segment that is not as most are has beside it, by the segment's number. */
struct vx_policy {
    uint32_t rate[VX_N_FLOODED]; /* packets a second of each kind; 0: none, VX_UNLIMITED: any; of
                                  * unknown unicast, VX_ASK: none, but Python is asked where it is */
    uint32_t burst[VX_N_FLOODED];
    struct vx_prefix *prefixes; /* sources beside the peers */
    uint32_t n_prefixes;
    uint32_t n_ports; /* of a segment that has several, all of them */
    union {
        uint16_t ports[VX_SEGMENT_PORTS];
        uint16_t dstports_be[VX_MAX_DSTPORTS]; /* of a collector; 0: no more */
    };
    uint32_t hold_ms; /* how long a frame waits for the answer; 0: it is dropped */
    uint32_t spare;
};
static_assert(sizeof(struct vx_policy) == 1 << VX_POLICY_SHIFT, "a policy is one cache line");

#define VX_NEIGHBOUR_ROUTER (1ull << 48) /* beside the MAC */
#define VX_NEIGHBOUR_PRESENT (1ull << 49)

/* Which link address an IP address has in a segment. */
struct vx_neighbour {
    uint8_t address[VX_ADDRESS_LEN]; /* as of a remote */
    uint64_t mac;                    /* with the two flags; 0: absent */
    uint32_t segment;
    uint32_t spare;
};
static_assert(sizeof(struct vx_neighbour) == 1 << VX_NEIGHBOUR_SHIFT, "two neighbours to a cache line");

struct vx_view {
    uint8_t **vnis;      /* uint32: segment + 1 of each VNI, and of VX_ANY_VNI */
    uint8_t **segments;  /* struct vx_segment, by number */
    uint8_t **remotes;   /* struct vx_remote, by number */
    uint8_t **addresses; /* uint32: remote + 1, open-addressed by address */
    uint8_t **peers;     /* uint64: (segment << 32 | remote) + 1, open-addressed */
    uint8_t **ports;     /* uint32: `flushed`, by port */
    uint8_t **policies;  /* struct vx_policy, by segment */
    uint8_t **neighbours; /* struct vx_neighbour, by number */
    uint8_t **asked;     /* uint32: neighbour + 1, open-addressed by segment and address */
    uint64_t addresses_mask, peers_mask, asked_mask;
    uint32_t generation; /* grows with each flush; learned entries carry it */
};

/* The arrays of a view, in its order. */
enum {
    VX_VNIS, VX_SEGMENTS, VX_REMOTES, VX_ADDRESSES, VX_PEERS, VX_PORTS, VX_POLICIES,
    VX_NEIGHBOURS, VX_ASKED, VX_N_ARRAYS
};

/* What one lane did to the forwarding table; the writer has a set of its own. */
struct vx_fdb_counters {
    uint64_t learned, moves, frozen, held, refused, overflow, aged, flushed;
};

#define VX_AWAY UINT64_MAX

/* A lane's place at the tables. Others read its epoch and its counters, and write nothing here. */
struct vx_seat {
    _Alignas(64) uint64_t epoch; /* the newest it has seen, or VX_AWAY */
    const struct vx_view *view;
    struct vx_tables *tables;
    uint64_t taken;
    struct vx_ring *ring; /* what the lane tells Python, or NULL */
    _Alignas(64) struct vx_fdb_counters counters;
};

/* Four to a cache line. vx_fdb.h tells their life. */
struct vx_entry {
    uint64_t key, value;
};

/* By VNI, written by all: how many entries are learned, and since which generation that counts. */
struct vx_state {
    uint64_t learned; /* flushed << 32 | count */
    uint64_t n_set;   /* static and control-plane entries; the writer's alone */
};

struct vx_fdb {
    struct vx_entry *entries;
    uint8_t *passed; /* by bucket: how many entries of earlier buckets stand in later ones */
    struct vx_state *states;
    uint64_t *moves; /* open windows of moving addresses */
    uint64_t seed[2];
    uint64_t n_buckets;
    uint64_t max_entries;
    uint32_t max_moves, moves_window_s;
};

struct vx_tables {
    _Alignas(64) uint64_t epoch;
    const struct vx_view *view;
    uint64_t safe; /* an epoch that every lane has reached */
    struct vx_fdb fdb;
    _Alignas(64) uint64_t n_entries;
    uint64_t sweep_at;
    _Alignas(64) struct vx_array arrays[VX_N_ARRAYS]; /* from here on the writer's alone */
    uint64_t addresses_mask, peers_mask, asked_mask;
    uint32_t generation, renewed;
    struct vx_bin bin, fresh, stale;
    uint8_t *zeros;
    struct vx_seat seats[VX_MAX_SEATS];
};

/* -- lanes --------------------------------------------------------------------------------------- */

/* Before each batch: done with the last one; look at the newest view. */
static inline void vx_enter(struct vx_seat *seat)
{
    struct vx_tables *t = seat->tables;
    uint64_t epoch = vx_get_seq(&t->epoch);
    if (vx_get_relaxed(&seat->epoch) == VX_AWAY) {
        vx_swap_seq(&seat->epoch, epoch);
        vx_fence(); /* a writer that took us for away has published before we look */
    } else {
        vx_put(&seat->epoch, epoch);
    }
    seat->view = vx_get_seq(&t->view);
}

/* Before sleeping: nobody has to wait for us. The seat's view must not be used until vx_enter. */
static inline void vx_leave(struct vx_seat *seat)
{
    vx_put(&seat->epoch, VX_AWAY);
}

static inline const struct vx_segment *vx_segment_at(const struct vx_seat *seat, uint32_t segment)
{
    return vx_item(seat->view->segments, segment, VX_SEGMENT_SHIFT);
}

static inline const struct vx_remote *vx_remote_at(const struct vx_seat *seat, uint32_t remote)
{
    return vx_item(seat->view->remotes, remote, VX_REMOTE_SHIFT);
}

/* The members of the segment's flood set: n_flood remotes, ascending. */
static inline const uint32_t *vx_flood(const struct vx_segment *segment)
{
    return segment->n_flood <= VX_INLINE_FLOOD ? segment->flood.few : segment->flood.many;
}

static inline int32_t vx_segment_of(const struct vx_view *view, uint32_t vni)
{
    return (int32_t)*(uint32_t *)vx_item(view->vnis, vni & (VX_N_VNIS - 1), VX_VNI_SHIFT) - 1;
}

static inline int32_t vx_find_segment(const struct vx_seat *seat, uint32_t vni)
{
    int32_t found = vx_segment_of(seat->view, vni);
    if (vx_likely(found >= 0))
        return found;
    return (int32_t)*(uint32_t *)vx_item(seat->view->vnis, VX_ANY_VNI, VX_VNI_SHIFT) - 1;
}

static inline uint64_t vx_hash_address(const uint8_t *address)
{
    return vx_mix(vx_load64_raw(address) ^ VX_K0, vx_load64_raw(address + 8) ^ VX_K1);
}

static inline int32_t vx_find_remote(const struct vx_seat *seat, const uint8_t *address)
{
    const struct vx_view *view = seat->view;
    for (uint64_t at = vx_hash_address(address);; at++) {
        uint32_t found = *(uint32_t *)vx_item(view->addresses, at & view->addresses_mask, VX_VNI_SHIFT);
        if (!found)
            return VX_NONE;
        if (!memcmp(vx_remote_at(seat, found - 1)->address, address, VX_ADDRESS_LEN))
            return (int32_t)found - 1;
    }
}

static inline uint64_t vx_hash_neighbour(uint32_t segment, const uint8_t *address)
{
    return vx_mix(vx_hash_address(address) ^ VX_K2, segment ^ VX_K3);
}

static inline int vx_is_neighbour(const struct vx_neighbour *n, uint32_t segment, const uint8_t *address)
{
    return n->segment == segment && !memcmp(n->address, address, VX_ADDRESS_LEN);
}

/* The MAC of an address in a segment, with its flags, or 0. */
static inline uint64_t vx_find_neighbour(const struct vx_seat *seat, uint32_t segment, const uint8_t *address)
{
    const struct vx_view *view = seat->view;
    for (uint64_t at = vx_hash_neighbour(segment, address);; at++) {
        uint32_t found = *(uint32_t *)vx_item(view->asked, at & view->asked_mask, VX_VNI_SHIFT);
        if (!found)
            return 0;
        const struct vx_neighbour *n = vx_item(view->neighbours, found - 1, VX_NEIGHBOUR_SHIFT);
        if (vx_is_neighbour(n, segment, address))
            return n->mac;
    }
}

static inline int vx_in_flood(const struct vx_segment *segment, uint32_t remote)
{
    const uint32_t *members = vx_flood(segment);
    uint32_t first = 0, n = segment->n_flood;
    while (n > 1) {
        uint32_t half = n / 2;
        first = members[first + half] <= remote ? first + half : first;
        n -= half;
    }
    return n && members[first] == remote;
}

static inline uint64_t vx_peer_key(uint32_t segment, uint32_t remote)
{
    return ((uint64_t)segment << 32 | remote) + 1;
}

static inline uint64_t vx_hash_peer(uint64_t key)
{
    return vx_mix(key ^ VX_K0, VX_K1);
}

static inline int vx_is_paired(const struct vx_view *view, uint32_t segment, uint32_t remote)
{
    uint64_t key = vx_peer_key(segment, remote), found;
    for (uint64_t at = vx_hash_peer(key);; at++) {
        found = *(uint64_t *)vx_item(view->peers, at & view->peers_mask, VX_PEER_SHIFT);
        if (found == key || !found)
            return found == key;
    }
}

/* Whether the segment takes packets from the remote: any, a member of its flood set, or a known peer. */
static inline int vx_is_peer(const struct vx_seat *seat, uint32_t segment, uint32_t remote)
{
    const struct vx_segment *s = vx_segment_at(seat, segment);
    if (s->flags & VX_SEGMENT_ANY_SOURCE || vx_in_flood(s, remote))
        return 1;
    return vx_is_paired(seat->view, segment, remote);
}

/* Whether the remote may speak in the segment: in all, or in those on its list. */
static inline int vx_may_speak(const struct vx_seat *seat, uint32_t segment, uint32_t remote)
{
    if (vx_likely(!(vx_remote_at(seat, remote)->flags & VX_REMOTE_LISTED)))
        return 1;
    return vx_is_paired(seat->view, segment, remote | VX_LISTED);
}

static inline const struct vx_policy *vx_policy_of(const struct vx_seat *seat, uint32_t segment)
{
    return vx_item(seat->view->policies, segment, VX_POLICY_SHIFT);
}

/* Whether the segment takes packets that were sent to a UDP port. */
static inline int vx_takes_port(const struct vx_seat *seat, uint32_t segment, uint16_t dstport_be)
{
    uint16_t own = vx_segment_at(seat, segment)->dstport_be;
    if (vx_likely(own))
        return own == dstport_be;
    const struct vx_policy *policy = vx_policy_of(seat, segment);
    for (uint32_t i = 0; i < VX_MAX_DSTPORTS; i++)
        if (policy->dstports_be[i] == dstport_be)
            return 1;
    return 0;
}

static inline int vx_has_prefix(const uint8_t *address, const struct vx_prefix *prefix)
{
    uint32_t n_bytes = prefix->n_bits / 8, rest = prefix->n_bits % 8;
    if (memcmp(address, prefix->address, n_bytes))
        return 0;
    return !rest || !((address[n_bytes] ^ prefix->address[n_bytes]) >> (8 - rest));
}

/* Whether the segment takes packets from an address, be it a remote or not. */
static inline int vx_is_welcome(const struct vx_seat *seat, uint32_t segment, const uint8_t *address)
{
    uint16_t flags = vx_segment_at(seat, segment)->flags;
    if (flags & VX_SEGMENT_ANY_SOURCE || !(flags & VX_SEGMENT_HAS_POLICY))
        return flags & VX_SEGMENT_ANY_SOURCE;
    const struct vx_policy *policy = vx_policy_of(seat, segment);
    for (uint32_t i = 0; i < policy->n_prefixes; i++)
        if (vx_has_prefix(address, &policy->prefixes[i]))
            return 1;
    return 0;
}

/* -- the writer ---------------------------------------------------------------------------------- */

/* The oldest epoch that a lane may still be in. */
static inline uint64_t vx_oldest(struct vx_tables *t)
{
    uint64_t oldest = vx_get_seq(&t->epoch);
    vx_fence();
    for (uint32_t i = 0; i < VX_MAX_SEATS; i++) {
        uint64_t epoch = vx_get_seq(&t->seats[i].epoch);
        oldest = epoch < oldest ? epoch : oldest;
    }
    return oldest;
}

/* Wait until every lane but the writer, whose seat is `own`, has entered again or left. */
static inline void vx_wait_for_lanes(struct vx_tables *t, const struct vx_seat *own)
{
    uint64_t epoch = vx_add_seq(&t->epoch, 1) + 1;
    vx_fence();
    for (uint32_t i = 0; i < VX_MAX_SEATS; i++)
        while (&t->seats[i] != own && vx_get_seq(&t->seats[i].epoch) < epoch)
            sched_yield();
}

static inline void vx_free_all(struct vx_bin *bin)
{
    vx_bin_empty(bin, UINT64_MAX);
}

/* Forget the change that was prepared. */
static inline void vx_abort(struct vx_tables *t)
{
    for (int i = 0; i < VX_N_ARRAYS; i++)
        vx_array_abort(&t->arrays[i]);
    vx_free_all(&t->fresh);
    t->stale.n_items = 0;
    if (t->view) {
        t->addresses_mask = t->view->addresses_mask;
        t->peers_mask = t->view->peers_mask;
        t->asked_mask = t->view->asked_mask;
        t->generation = t->view->generation;
    }
}

static inline uint8_t **vx_newest(const struct vx_array *array)
{
    return array->draft ? array->draft : array->live;
}

static inline int vx_is_changed(const struct vx_tables *t)
{
    int changed = t->generation != t->view->generation;
    for (int i = 0; i < VX_N_ARRAYS; i++)
        changed |= t->arrays[i].draft != NULL;
    return changed;
}

/* The view that the prepared change makes, or NULL without memory. */
static inline struct vx_view *vx_prepare(struct vx_tables *t)
{
    size_t waste = t->stale.n_items + 1;
    for (int i = 0; i < VX_N_ARRAYS; i++)
        waste += vx_array_waste(&t->arrays[i]);
    struct vx_view *view = vx_bin_reserve(&t->bin, waste) ? malloc(sizeof *view) : NULL;
    if (view)
        *view = (struct vx_view){
            vx_newest(&t->arrays[VX_VNIS]), vx_newest(&t->arrays[VX_SEGMENTS]),
            vx_newest(&t->arrays[VX_REMOTES]), vx_newest(&t->arrays[VX_ADDRESSES]),
            vx_newest(&t->arrays[VX_PEERS]), vx_newest(&t->arrays[VX_PORTS]),
            vx_newest(&t->arrays[VX_POLICIES]), vx_newest(&t->arrays[VX_NEIGHBOURS]),
            vx_newest(&t->arrays[VX_ASKED]),
            t->addresses_mask, t->peers_mask, t->asked_mask, t->generation,
        };
    return view;
}

/* Begin an epoch, and free what nobody reads any more. */
static inline void vx_collect(struct vx_tables *t)
{
    vx_add_seq(&t->epoch, 1);
    uint64_t oldest = vx_oldest(t);
    vx_put(&t->safe, oldest);
    vx_bin_empty(&t->bin, oldest);
}

/* Make a prepared view what lanes see from their next batch on. Cannot fail and waits for nobody. */
static inline void vx_publish(struct vx_tables *t, const struct vx_view *view)
{
    struct vx_view *old = (struct vx_view *)t->view;
    vx_put_seq(&t->view, view);
    uint64_t epoch = vx_add_seq(&t->epoch, 1) + 1;
    for (int i = 0; i < VX_N_ARRAYS; i++)
        vx_array_commit(&t->arrays[i], &t->bin, epoch);
    for (size_t i = 0; i < t->stale.n_items; i++)
        vx_bin_put(&t->bin, t->stale.items[i].memory, epoch);
    vx_bin_put(&t->bin, old, epoch);
    t->fresh.n_items = t->stale.n_items = 0;
    vx_collect(t);
}

/* Memory that the prepared change adds, and that it no longer needs; room was reserved in both bins. */
static inline void *vx_fresh(struct vx_tables *t, size_t length)
{
    void *memory = vx_bin_reserve(&t->fresh, 1) && vx_bin_reserve(&t->stale, 1) ? malloc(length) : NULL;
    vx_bin_put(&t->fresh, memory, 0);
    return memory;
}

/* Give a segment of the draft its flood set, ascending and each member once; 0 without memory. */
static inline int vx_set_flood(struct vx_tables *t, struct vx_segment *s, const uint32_t *members, uint32_t n)
{
    uint32_t *many = n > VX_INLINE_FLOOD ? vx_fresh(t, n * sizeof *many) : NULL;
    if ((n > VX_INLINE_FLOOD && !many) || !vx_bin_reserve(&t->stale, 1))
        return 0;
    if (s->n_flood > VX_INLINE_FLOOD)
        vx_bin_put(&t->stale, s->flood.many, 0);
    s->n_flood = n;
    if (many)
        s->flood.many = many;
    if (n)
        memcpy(many ? many : s->flood.few, members, n * sizeof *members);
    return 1;
}

/* Give a policy of the draft its prefixes; 0 without memory. */
static inline int vx_set_prefixes(struct vx_tables *t, struct vx_policy *policy,
                                  const struct vx_prefix *prefixes, uint32_t n)
{
    struct vx_prefix *own = n ? vx_fresh(t, n * sizeof *own) : NULL;
    if ((n && !own) || !vx_bin_reserve(&t->stale, 1))
        return 0;
    if (policy->prefixes)
        vx_bin_put(&t->stale, policy->prefixes, 0);
    if (n)
        memcpy(own, prefixes, n * sizeof *own);
    policy->prefixes = own;
    policy->n_prefixes = n;
    return 1;
}

/* -- the writer's hash sets ----------------------------------------------------------------------- */

/* Where the probes for `key` end: at it, or at the free place after the last. */
static inline uint64_t vx_peer_place(const struct vx_tables *t, uint64_t key)
{
    uint64_t at = vx_hash_peer(key) & t->peers_mask;
    for (;; at = (at + 1) & t->peers_mask) {
        uint64_t found = *(const uint64_t *)vx_array_get(&t->arrays[VX_PEERS], at);
        if (!found || found == key)
            return at;
    }
}

static inline uint64_t vx_address_place(const struct vx_tables *t, const uint8_t *address)
{
    uint64_t at = vx_hash_address(address) & t->addresses_mask;
    for (;; at = (at + 1) & t->addresses_mask) {
        uint32_t found = *(const uint32_t *)vx_array_get(&t->arrays[VX_ADDRESSES], at);
        if (!found)
            return at;
        const struct vx_remote *remote = vx_array_get(&t->arrays[VX_REMOTES], found - 1);
        if (!memcmp(remote->address, address, VX_ADDRESS_LEN))
            return at;
    }
}

static inline uint64_t vx_neighbour_place(const struct vx_tables *t, uint32_t segment, const uint8_t *address)
{
    uint64_t at = vx_hash_neighbour(segment, address) & t->asked_mask;
    for (;; at = (at + 1) & t->asked_mask) {
        uint32_t found = *(const uint32_t *)vx_array_get(&t->arrays[VX_ASKED], at);
        if (!found || vx_is_neighbour(vx_array_get(&t->arrays[VX_NEIGHBOURS], found - 1), segment, address))
            return at;
    }
}

/* Zeroed memory that costs nothing until it is touched; `huge` asks for huge pages, for what is read at
 * random. */
static inline void *vx_map(size_t length, int huge)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    if (huge)
        (void)madvise(memory, length, MADV_HUGEPAGE); /* without them it is slower and no less right */
    return memory;
}

#endif
