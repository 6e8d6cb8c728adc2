/* The forwarding table: (VNI, MAC) -> target, looked up and learned into by all lanes at once.
 *
 * Buckets of four entries of two words. An entry's life, by its value's kind:
 *
 *   FREE or DEAD -> BUSY   claimed by whoever swapped the value; it alone writes the key
 *   BUSY -> a live kind    the key stands; published
 *   live -> live           refreshed, moved, replaced: one swap of the value
 *   live -> BUSY -> DEAD   removed by whoever swapped it to BUSY: the key is scrubbed first
 *
 * DEAD carries the epoch of the scrubbing, and nobody claims it until every lane has passed that
 * epoch. So to a lane that found its key in an entry, the value is that key's or none until its batch
 * ends: no torn entry, and no retry. Two lanes that insert the same key at once both see the other's
 * claim, or the later sees the earlier; who sees one withdraws before it publishes, so no key is ever
 * live twice.
 *
 * A search goes on from a bucket only while `passed` says that an entry went past it. */
#ifndef VX_FDB_H
#define VX_FDB_H

#include "vx_table.h"

enum {
    VX_WAYS = 4,        /* entries in a bucket, one cache line */
    VX_MAX_PROBES = 128, /* buckets searched at most: of ten million entries in a full table, none needs more */
    VX_PASSED_MAX = 255,
    VX_SCRUBBED = 1, /* the key of what was removed; no MAC */
    VX_KIND_SHIFT = 21,
    VX_TARGET_MASK = (1 << VX_KIND_SHIFT) - 1,
    VX_GENERATIONS = 1 << 12,
    VX_SECONDS = 1 << 20,
    VX_MAX_AGEING_S = VX_SECONDS / 2 - 1,
    VX_MOVE_WAYS = 8,
    VX_N_MOVES = 1 << 14,
    VX_BATCH = 32,
    VX_HUGE = 4 << 20, /* from this length on, ask for huge pages */
    VX_SWEEP_STEP = 32,
    VX_REMOVAL_COST = 8 /* in buckets swept */
};

enum vx_kind { VX_FREE, VX_LEARNED, VX_FROZEN, VX_STATIC, VX_CONTROL, VX_STICKY, VX_BUSY, VX_DEAD };

/* A value: target, kind, high 8 bits of the VNI, and 32 bits more: of a learned entry its generation
 * and the second it was last seen, of a control-plane entry its sequence number. */
static inline uint64_t vx_value(uint32_t vni, uint32_t target, enum vx_kind kind, uint32_t more)
{
    return (uint64_t)more << 32 | (uint64_t)(vni >> 16) << 24 | (uint64_t)kind << VX_KIND_SHIFT | target;
}

static inline uint32_t vx_learned_now(uint32_t generation, uint32_t now_s)
{
    return (now_s & (VX_SECONDS - 1)) << 12 | generation;
}

static inline enum vx_kind vx_kind_of(uint64_t value) { return (enum vx_kind)(value >> VX_KIND_SHIFT & 7); }
static inline uint32_t vx_target_of(uint64_t value) { return (uint32_t)value & VX_TARGET_MASK; }
static inline uint32_t vx_more_of(uint64_t value) { return (uint32_t)(value >> 32); }
static inline uint32_t vx_generation_of(uint64_t value) { return vx_more_of(value) & (VX_GENERATIONS - 1); }
/* A station's address: what may stand in the table. Zero and group addresses are no key, so that the
 * key of an entry that is free or scrubbed is none that anyone looks for. */
static inline int vx_is_station(uint64_t mac) { return mac && !(mac >> 40 & 1); }

static inline int vx_is_live(enum vx_kind kind) { return kind >= VX_LEARNED && kind <= VX_STICKY; }
static inline int vx_is_set(enum vx_kind kind) { return kind >= VX_STATIC && kind <= VX_STICKY; }

static inline uint32_t vx_entry_vni(uint64_t key, uint64_t value)
{
    return (uint32_t)(value >> 24 & 0xFF) << 16 | (uint32_t)(key & 0xFFFF);
}

/* Seconds since it was seen; 0 also for a time ahead of ours, by another lane's clock. */
static inline uint32_t vx_age(uint64_t value, uint32_t now_s)
{
    uint32_t age = (now_s - (vx_more_of(value) >> 12)) & (VX_SECONDS - 1);
    return age > VX_MAX_AGEING_S ? 0 : age;
}

/* Whether a generation came before the flush `limit`, of which 0 is none. */
static inline int vx_before(uint32_t generation, uint32_t limit)
{
    return limit && ((generation - limit) & (VX_GENERATIONS - 1)) >= VX_GENERATIONS / 2;
}

/* One address in one segment, and where its search begins. */
struct vx_where {
    uint64_t key, hash;
    uint32_t vni, bucket;
};

static inline struct vx_where vx_where(const struct vx_fdb *fdb, uint32_t vni, uint64_t mac)
{
    uint64_t key = mac << 16 | (vni & 0xFFFF);
    /* Twice: addresses one after the other, multiplied once, gather in few buckets under one seed in a hundred. */
    uint64_t hash = vx_mix(vx_mix(key ^ fdb->seed[0], vni ^ fdb->seed[1]) ^ VX_K0, VX_K1);
    return (struct vx_where){key, hash, vni, (uint32_t)((hash >> 32) * fdb->n_buckets >> 32)};
}

static inline uint32_t vx_next_bucket(const struct vx_fdb *fdb, uint32_t bucket)
{
    return bucket + 1 == fdb->n_buckets ? 0 : bucket + 1;
}

static inline int vx_is_of(uint64_t value, uint32_t vni) { return (value >> 24 & 0xFF) == vni >> 16; }

/* Which entries of a bucket have the key, a bit for each: one comparison of all, as which it will be is
 * nothing that a processor could guess. */
static inline unsigned vx_match(const struct vx_entry *bucket, uint64_t key)
{
    unsigned found = 0;
    for (int way = 0; way < VX_WAYS; way++)
        found |= (unsigned)(vx_get(&bucket[way].key) == key) << way;
    return found;
}

/* The live entry of an address and what it says, or NULL. */
static inline struct vx_entry *vx_seek(const struct vx_fdb *fdb, const struct vx_where *w, uint64_t *value)
{
    uint32_t bucket = w->bucket;
    for (int probe = 0; probe < VX_MAX_PROBES; probe++) {
        struct vx_entry *entries = &fdb->entries[(uint64_t)bucket * VX_WAYS];
        for (unsigned found = vx_match(entries, w->key); found; found &= found - 1) {
            struct vx_entry *entry = &entries[__builtin_ctz(found)];
            *value = vx_get(&entry->value);
            if (vx_likely(vx_is_of(*value, w->vni) && vx_is_live(vx_kind_of(*value))))
                return entry;
        }
        if (vx_likely(!vx_get(&fdb->passed[bucket])))
            return NULL;
        bucket = vx_next_bucket(fdb, bucket);
    }
    return NULL;
}

/* -- whether an entry counts --------------------------------------------------------------------- */

/* The flush after which entries to the target count, or -1 when there is no such remote. */
static inline int32_t vx_target_limit(const struct vx_view *view, uint32_t target)
{
    if (target & VX_TARGET_PORT)
        return (int32_t)*(uint32_t *)vx_item(view->ports, target & (VX_MAX_PORTS - 1), VX_VNI_SHIFT);
    const struct vx_remote *remote = vx_item(view->remotes, target, VX_REMOTE_SHIFT);
    return remote->family ? (int32_t)remote->flushed : -1;
}

static inline int vx_is_flushed(const struct vx_view *view, const struct vx_segment *s, uint64_t value)
{
    int32_t limit = vx_target_limit(view, vx_target_of(value));
    uint32_t generation = vx_generation_of(value);
    if (limit < 0 || vx_is_set(vx_kind_of(value)))
        return limit < 0;
    return vx_before(generation, s->flushed) || vx_before(generation, (uint32_t)limit);
}

static inline int vx_is_aged(const struct vx_segment *s, uint64_t value, uint32_t now_s)
{
    return s->ageing_s && !vx_is_set(vx_kind_of(value)) && vx_age(value, now_s) >= s->ageing_s;
}

static inline int32_t vx_answer(const struct vx_view *view, const struct vx_segment *s, uint64_t value,
                                uint32_t now_s)
{
    if (vx_is_aged(s, value, now_s) || vx_is_flushed(view, s, value))
        return VX_NONE;
    return (int32_t)vx_target_of(value);
}

/* -- looking up ---------------------------------------------------------------------------------- */

/* The target of an address (a remote, or VX_TARGET_PORT | an overlay port), or VX_NONE. */
static inline int32_t vx_fdb_find(const struct vx_seat *seat, const struct vx_segment *s, uint64_t mac,
                                  uint32_t now_s)
{
    const struct vx_fdb *fdb = &seat->tables->fdb;
    struct vx_where w = vx_where(fdb, s->vni, mac);
    uint64_t value;
    if (vx_is_station(mac) && vx_seek(fdb, &w, &value))
        return vx_answer(seat->view, s, value, now_s);
    return VX_NONE;
}

static inline void vx_fdb_prefetch(const struct vx_fdb *fdb, const struct vx_where *w)
{
    vx_prefetch(&fdb->entries[(uint64_t)w->bucket * VX_WAYS]);
}

/* The targets of `n` addresses of one segment, as vx_fdb_find tells them. */
static inline void vx_fdb_find_batch(const struct vx_seat *seat, const struct vx_segment *s,
                                     const uint64_t *macs, uint32_t n, int32_t *out, uint32_t now_s)
{
    const struct vx_fdb *fdb = &seat->tables->fdb;
    struct vx_where w[VX_BATCH];
    uint64_t value;
    for (uint32_t at = 0; at < n; at += VX_BATCH) {
        uint32_t some = n - at < VX_BATCH ? n - at : VX_BATCH;
        for (uint32_t i = 0; i < some; i++) {
            w[i] = vx_where(fdb, s->vni, macs[at + i]);
            vx_fdb_prefetch(fdb, &w[i]);
        }
        for (uint32_t i = 0; i < some; i++) {
            int found = vx_is_station(macs[at + i]) && vx_seek(fdb, &w[i], &value);
            out[at + i] = found ? vx_answer(seat->view, s, value, now_s) : VX_NONE;
        }
    }
}

/* -- counting ------------------------------------------------------------------------------------ */

/* One more learned entry of a segment; 0 when it has all it may, or `generation` was flushed since. */
static inline int vx_count_up(struct vx_state *state, uint32_t generation, uint32_t max)
{
    uint64_t old = vx_get(&state->learned);
    do {
        if (vx_before(generation, (uint32_t)(old >> 32)) || (max && (uint32_t)old >= max))
            return 0;
    } while (!vx_put_if(&state->learned, &old, old + 1));
    return 1;
}

/* Whether an entry is among those that its segment counts: not flushed with the segment. */
static inline int vx_is_counted(struct vx_state *state, uint64_t value)
{
    return !vx_before(vx_generation_of(value), (uint32_t)(vx_get(&state->learned) >> 32));
}

static inline void vx_count_down(struct vx_state *state, uint64_t value)
{
    uint64_t old = vx_get(&state->learned);
    do {
        if (vx_before(vx_generation_of(value), (uint32_t)(old >> 32)) || !(uint32_t)old)
            return;
    } while (!vx_put_if(&state->learned, &old, old - 1));
}

/* A place in the whole table; 0 when there is none. */
static inline int vx_take_place(struct vx_tables *t)
{
    if (vx_add_seq(&t->n_entries, 1) < t->fdb.max_entries)
        return 1;
    vx_add_seq(&t->n_entries, -1);
    return 0;
}

/* -- claiming and removing ----------------------------------------------------------------------- */

/* Note that an entry stands past a bucket, or no longer. A note that ran full stays. */
static inline void vx_note_passed(uint8_t *passed, int change)
{
    uint8_t old = vx_get(passed);
    do {
        if (old == VX_PASSED_MAX)
            return;
    } while (!vx_put_if(passed, &old, (uint8_t)(old + change)));
}

static inline void vx_note_path(const struct vx_fdb *fdb, const struct vx_where *w, uint32_t end, int change)
{
    for (uint32_t bucket = w->bucket; bucket != end; bucket = vx_next_bucket(fdb, bucket))
        vx_note_passed(&fdb->passed[bucket], change);
}

static inline uint32_t vx_bucket_of(const struct vx_fdb *fdb, const struct vx_entry *entry)
{
    return (uint32_t)((uint64_t)(entry - fdb->entries) / VX_WAYS);
}

/* Whether all lanes have passed the epoch in which a dead entry lost its key. */
static inline int vx_is_reusable(struct vx_tables *t, uint64_t value)
{
    if (vx_kind_of(value) == VX_DEAD)
        return (int32_t)((uint32_t)vx_get(&t->safe) - vx_more_of(value)) > 0;
    return value == 0;
}

static inline int vx_claim_one(struct vx_tables *t, struct vx_entry *entry, uint32_t vni)
{
    uint64_t value = vx_get(&entry->value);
    return vx_is_reusable(t, value) && vx_put_if(&entry->value, &value, vx_value(vni, 0, VX_BUSY, 0));
}

/* An entry that is ours, with the key of the address, to be published or scrubbed; NULL without room. */
static inline struct vx_entry *vx_claim(struct vx_tables *t, const struct vx_where *w)
{
    uint32_t bucket = w->bucket;
    for (int probe = 0; probe < VX_MAX_PROBES; probe++) {
        struct vx_entry *entry = &t->fdb.entries[(uint64_t)bucket * VX_WAYS];
        for (int way = 0; way < VX_WAYS; way++, entry++) {
            if (!vx_claim_one(t, entry, w->vni))
                continue;
            vx_note_path(&t->fdb, w, bucket, 1);
            vx_put_seq(&entry->key, w->key);
            return entry;
        }
        bucket = vx_next_bucket(&t->fdb, bucket);
    }
    return NULL;
}

/* Whether the key stands in another entry too, published or about to be. */
static inline int vx_is_double(const struct vx_fdb *fdb, const struct vx_where *w, const struct vx_entry *own)
{
    uint32_t bucket = w->bucket;
    for (int probe = 0; probe < VX_MAX_PROBES; probe++) {
        struct vx_entry *entry = &fdb->entries[(uint64_t)bucket * VX_WAYS];
        for (int way = 0; way < VX_WAYS; way++, entry++)
            if (entry != own && vx_get_seq(&entry->key) == w->key && vx_is_of(vx_get_seq(&entry->value), w->vni))
                return 1;
        if (!vx_get_seq(&fdb->passed[bucket]))
            return 0;
        bucket = vx_next_bucket(fdb, bucket);
    }
    return 0;
}

/* Let go of an entry that we have made BUSY. */
static inline void vx_scrub(struct vx_tables *t, struct vx_entry *entry, const struct vx_where *w)
{
    vx_put_seq(&entry->key, VX_SCRUBBED);
    vx_note_path(&t->fdb, w, vx_bucket_of(&t->fdb, entry), -1);
    vx_put(&entry->value, vx_value(0, 0, VX_DEAD, (uint32_t)vx_get_seq(&t->epoch)));
    vx_add_seq(&t->n_entries, -1);
}

/* Remove an entry if it still says `value`. */
static inline int vx_remove(struct vx_tables *t, struct vx_entry *entry, const struct vx_where *w, uint64_t value)
{
    uint64_t old = value;
    if (!vx_put_if(&entry->value, &old, vx_value(w->vni, 0, VX_BUSY, 0)))
        return 0;
    if (vx_is_set(vx_kind_of(value)))
        t->fdb.states[w->vni].n_set--;
    else
        vx_count_down(&t->fdb.states[w->vni], value);
    vx_scrub(t, entry, w);
    return 1;
}

/* A new entry; 1 when published, 0 without room, -1 when the address is being inserted elsewhere. */
static inline int vx_insert(struct vx_tables *t, const struct vx_where *w, uint64_t value)
{
    if (!vx_take_place(t))
        return 0;
    struct vx_entry *entry = vx_claim(t, w);
    if (!entry) {
        vx_add_seq(&t->n_entries, -1);
        return 0;
    }
    if (vx_is_double(&t->fdb, w, entry)) {
        vx_scrub(t, entry, w);
        return -1;
    }
    vx_put(&entry->value, value);
    return 1;
}

/* -- learning ------------------------------------------------------------------------------------ */

/* A window of moves is one word: a tag of the address << 32 | its first second << 8 | moves in it. */
static inline uint32_t vx_window_age(uint64_t window, uint32_t now_s)
{
    return (now_s - (uint32_t)(window >> 8)) & 0xFFFFFF;
}

/* The window of an address, or the one to give up for it: a free one, else the oldest. */
static inline uint64_t *vx_window_of(const struct vx_fdb *fdb, uint64_t hash, uint32_t tag, uint32_t now_s)
{
    uint64_t *windows = &fdb->moves[hash % (VX_N_MOVES / VX_MOVE_WAYS) * VX_MOVE_WAYS], *oldest = windows;
    uint32_t age = 0;
    for (int i = 0; i < VX_MOVE_WAYS; i++) {
        uint64_t window = vx_get(&windows[i]);
        if (window >> 32 == tag || !window)
            return &windows[i];
        if (vx_window_age(window, now_s) > age) {
            age = vx_window_age(window, now_s);
            oldest = &windows[i];
        }
    }
    return oldest;
}

static inline uint32_t vx_window_tag(const struct vx_where *w)
{
    return (uint32_t)vx_mix(w->hash ^ VX_K2, VX_K3) | 1;
}

/* Whether the window in which a frozen address moved too often is still open. */
static inline int vx_is_restless(const struct vx_fdb *fdb, const struct vx_where *w, uint32_t now_s)
{
    uint32_t tag = vx_window_tag(w);
    uint64_t window = vx_get(vx_window_of(fdb, w->hash, tag, now_s));
    return window >> 32 == tag && vx_window_age(window, now_s) < fdb->moves_window_s;
}

/* Count a move of an address; how many that makes in its window. */
static inline uint32_t vx_note_move(const struct vx_fdb *fdb, const struct vx_where *w, uint32_t now_s)
{
    uint32_t tag = vx_window_tag(w);
    uint64_t *window = vx_window_of(fdb, w->hash, tag, now_s);
    uint64_t first = (uint64_t)tag << 32 | (uint64_t)(now_s & 0xFFFFFF) << 8 | 1;
    uint64_t old = vx_get(window), next;
    do {
        int open = old >> 32 == tag && vx_window_age(old, now_s) < fdb->moves_window_s;
        next = !open ? first : old + ((old & 0xFF) < 0xFF);
    } while (!vx_put_if(window, &old, next));
    return next & 0xFF;
}

/* What the source of a frame says of it. An address that is seen at one of our own overlay ports and
 * elsewhere by turns moves as any other does, but is frozen to a port of ours, and for as long as its
 * window is open: most often its frames come round in a loop. */
enum vx_seen {
    VX_SEEN_WELL,
    VX_SEEN_ELSEWHERE, /* it is held to a port of ours, and this is another place: nobody gets the frame */
    VX_SEEN_LOOPING    /* it is held to this port */
};

static inline void vx_tell_move(struct vx_seat *seat, const struct vx_where *w, uint64_t fresh, uint32_t other,
                                int freeze)
{
    enum vx_event_kind kind = VX_MOVED_EVENT;
    if (freeze)
        kind = (vx_target_of(fresh) | other) & VX_TARGET_PORT ? VX_LOOP_EVENT : VX_FROZEN_EVENT;
    vx_tell(seat->ring, kind, w->vni, w->key >> 16, vx_target_of(fresh), other, NULL);
}

/* The address is seen elsewhere than its live entry says. */
static inline enum vx_seen vx_move(struct vx_seat *seat, const struct vx_where *w, struct vx_entry *entry,
                                   uint64_t value, uint64_t fresh, uint32_t now_s)
{
    const struct vx_fdb *fdb = &seat->tables->fdb;
    uint32_t was = vx_target_of(value), target = vx_target_of(fresh);
    int ours = ((was | target) & VX_TARGET_PORT) != 0;
    if (vx_kind_of(value) == VX_FROZEN && (!ours || (was & VX_TARGET_PORT && vx_is_restless(fdb, w, now_s)))) {
        vx_count(&seat->counters.held, 1);
        return ours ? VX_SEEN_ELSEWHERE : VX_SEEN_WELL;
    }
    int freeze = fdb->max_moves && vx_note_move(fdb, w, now_s) >= fdb->max_moves;
    int stays = freeze && ours && !(target & VX_TARGET_PORT);
    if (freeze)
        fresh += (uint64_t)(VX_FROZEN - VX_LEARNED) << VX_KIND_SHIFT;
    if (stays)
        fresh = (fresh & ~(uint64_t)VX_TARGET_MASK) | was;
    if (vx_put_if(&entry->value, &value, fresh)) {
        vx_count(&seat->counters.moves, 1);
        vx_count(&seat->counters.frozen, freeze);
        vx_tell_move(seat, w, fresh, stays ? target : was, freeze);
    }
    if (!freeze || !ours)
        return VX_SEEN_WELL;
    return stays ? VX_SEEN_ELSEWHERE : VX_SEEN_LOOPING;
}

/* There is no room to learn an address. */
static inline void vx_overflow(struct vx_seat *seat, const struct vx_where *w, uint64_t fresh, uint32_t now_s)
{
    vx_count(&seat->counters.overflow, 1);
    vx_tell_limit(seat->ring, w->vni, w->key >> 16, vx_target_of(fresh), now_s);
}

/* The address is seen again and its entry no longer counts: as if it were new. */
static inline void vx_revive(struct vx_seat *seat, const struct vx_segment *s, const struct vx_where *w,
                             struct vx_entry *entry, uint64_t value, uint64_t fresh, uint32_t now_s)
{
    struct vx_state *state = &seat->tables->fdb.states[s->vni];
    int counted = vx_is_counted(state, value);
    if (!counted && !vx_count_up(state, vx_generation_of(fresh), s->max_learned)) {
        vx_overflow(seat, w, fresh, now_s);
    } else if (vx_put_if(&entry->value, &value, fresh)) {
        vx_count(&seat->counters.learned, 1);
        vx_tell(seat->ring, VX_LEARNED_EVENT, w->vni, w->key >> 16, vx_target_of(fresh), UINT32_MAX, NULL);
    } else if (!counted) {
        vx_count_down(state, fresh);
    }
}

static inline enum vx_seen vx_learn_again(struct vx_seat *seat, const struct vx_segment *s,
                                          const struct vx_where *w, struct vx_entry *entry, uint64_t value,
                                          uint64_t fresh, uint32_t now_s)
{
    int moved = vx_target_of(value) != vx_target_of(fresh);
    uint64_t again = (fresh & ~(7ull << VX_KIND_SHIFT)) | (value & 7ull << VX_KIND_SHIFT);
    if (vx_is_set(vx_kind_of(value)))
        vx_count(&seat->counters.refused, moved);
    else if (vx_before(vx_generation_of(fresh), vx_generation_of(value)))
        return VX_SEEN_WELL; /* by a lane that knows of a flush which we shall see at our next batch */
    else if (vx_answer(seat->view, s, value, now_s) == VX_NONE)
        vx_revive(seat, s, w, entry, value, fresh, now_s);
    else if (moved)
        return vx_move(seat, w, entry, value, fresh, now_s);
    else if (vx_age(value, now_s))
        (void)vx_put_if(&entry->value, &value, again); /* who was quicker knows as much */
    int held = vx_kind_of(value) == VX_FROZEN && !moved && vx_target_of(value) & VX_TARGET_PORT;
    return held && vx_is_restless(&seat->tables->fdb, w, now_s) ? VX_SEEN_LOOPING : VX_SEEN_WELL;
}

/* What hosts here are seen to send, where their addresses are not kept: only one that was learned elsewhere
 * matters, for it has moved. */
static inline enum vx_seen vx_fdb_notice(struct vx_seat *seat, const struct vx_segment *s, uint64_t mac,
                                         uint32_t target, uint32_t now_s)
{
    struct vx_where w = vx_where(&seat->tables->fdb, s->vni, mac);
    uint64_t value, fresh = vx_value(s->vni, target, VX_LEARNED, vx_learned_now(seat->view->generation, now_s));
    struct vx_entry *entry = vx_is_station(mac) ? vx_seek(&seat->tables->fdb, &w, &value) : NULL;
    if (!entry || vx_answer(seat->view, s, value, now_s) == VX_NONE)
        return VX_SEEN_WELL;
    return vx_learn_again(seat, s, &w, entry, value, fresh, now_s);
}

/* Learn or refresh from a frame that came from `target`. Group and zero addresses are not learned. */
static inline enum vx_seen vx_fdb_learn(struct vx_seat *seat, const struct vx_segment *s, uint64_t mac,
                                        uint32_t target, uint32_t now_s)
{
    struct vx_tables *t = seat->tables;
    uint32_t generation = seat->view->generation;
    struct vx_where w = vx_where(&t->fdb, s->vni, mac);
    uint64_t value, fresh = vx_value(s->vni, target, VX_LEARNED, vx_learned_now(generation, now_s));
    if (vx_unlikely(!vx_is_station(mac)))
        return VX_SEEN_WELL;
    struct vx_entry *entry = vx_seek(&t->fdb, &w, &value);
    if (vx_likely(entry != NULL))
        return vx_learn_again(seat, s, &w, entry, value, fresh, now_s);
    int done = vx_count_up(&t->fdb.states[s->vni], generation, s->max_learned);
    if (done) {
        done = vx_insert(t, &w, fresh);
        if (done != 1)
            vx_count_down(&t->fdb.states[s->vni], fresh);
    }
    vx_count(&seat->counters.learned, done == 1);
    if (done == 0)
        vx_overflow(seat, &w, fresh, now_s);
    else if (done == 1)
        vx_tell(seat->ring, VX_LEARNED_EVENT, w.vni, mac, target, UINT32_MAX, NULL);
    return VX_SEEN_WELL;
}

/* -- forgetting ---------------------------------------------------------------------------------- */

/* Forget a learned entry that no longer counts; whether it did. */
static inline int vx_forget(struct vx_seat *seat, struct vx_entry *entry, uint64_t key, uint64_t value, uint32_t now_s)
{
    static const struct vx_segment nowhere;
    struct vx_tables *t = seat->tables;
    uint32_t vni = vx_entry_vni(key, value);
    int32_t number = vx_segment_of(seat->view, vni);
    const struct vx_segment *s = number < 0 ? &nowhere : vx_segment_at(seat, (uint32_t)number);
    int flushed = number < 0 || vx_is_flushed(seat->view, s, value);
    if (!flushed && !vx_is_aged(s, value, now_s))
        return 0;
    struct vx_where w = vx_where(&t->fdb, vni, key >> 16);
    if (!vx_remove(t, entry, &w, value))
        return 0;
    vx_count(&seat->counters.flushed, flushed);
    vx_count(&seat->counters.aged, !flushed);
    if (!flushed)
        vx_tell(seat->ring, VX_AGED_EVENT, vni, key >> 16, UINT32_MAX, vx_target_of(value), NULL);
    return 1;
}

static inline int vx_sweep_entry(struct vx_seat *seat, struct vx_entry *entry, uint32_t now_s)
{
    uint64_t key = vx_get(&entry->key), value = vx_get(&entry->value);
    enum vx_kind kind = vx_kind_of(value);
    if (kind == VX_DEAD && vx_is_reusable(seat->tables, value))
        (void)vx_put_if(&entry->value, &value, 0); /* before the epoch's 32 bits come round */
    if ((kind != VX_LEARNED && kind != VX_FROZEN) || !vx_is_station(key >> 16))
        return 0;
    return vx_forget(seat, entry, key, value, now_s);
}

/* Forget what has aged or was flushed in the next `n_buckets` buckets, or fewer when there is much to
 * forget; calls of all lanes take turns over the table. Static entries are left alone. */
static inline void vx_fdb_sweep(struct vx_seat *seat, uint32_t n_buckets, uint32_t now_s)
{
    struct vx_tables *t = seat->tables;
    uint32_t done = 0;
    vx_add_seq(&t->epoch, 1);
    vx_put(&t->safe, vx_oldest(t));
    while (done < n_buckets) {
        uint64_t at = vx_add_seq(&t->sweep_at, VX_SWEEP_STEP);
        for (uint64_t i = 0; i < VX_SWEEP_STEP * VX_WAYS; i++) {
            struct vx_entry *entry = &t->fdb.entries[(at * VX_WAYS + i) % (t->fdb.n_buckets * VX_WAYS)];
            done += VX_REMOVAL_COST * (uint32_t)vx_sweep_entry(seat, entry, now_s);
        }
        done += VX_SWEEP_STEP;
    }
}

/* The same for the whole table, for who has the time. */
static inline void vx_fdb_sweep_all(struct vx_seat *seat, uint32_t now_s)
{
    for (uint64_t i = 0; i < seat->tables->fdb.n_buckets * VX_WAYS; i++)
        (void)vx_sweep_entry(seat, &seat->tables->fdb.entries[i], now_s);
}

/* -- the writer; its seat is entered, so that no entry that it holds is used again -------------- */

/* Whether a set entry `value` may stand in the place of `old`. A static one always may. Of two
 * control-plane ones the higher sequence number wins, then the sticky one, then the remote with the
 * lower address (RFC 7432 section 15); a sticky one gives way to sticky ones only; and what a target
 * says of itself replaces what it said before. */
static inline int vx_outranks(const struct vx_tables *t, uint64_t value, uint64_t old)
{
    enum vx_kind kind = vx_kind_of(value), old_kind = vx_kind_of(old);
    uint32_t target = vx_target_of(value), old_target = vx_target_of(old);
    if (kind == VX_STATIC || !vx_is_set(old_kind))
        return 1;
    if (old_kind == VX_STATIC || kind < old_kind)
        return old_kind != VX_STATIC && target == old_target;
    if (target == old_target || vx_more_of(value) != vx_more_of(old))
        return target == old_target || vx_more_of(value) > vx_more_of(old);
    if (kind != old_kind || (target | old_target) & VX_TARGET_PORT)
        return kind != old_kind;
    const struct vx_remote *one = vx_array_get(&t->arrays[VX_REMOTES], target);
    const struct vx_remote *other = vx_array_get(&t->arrays[VX_REMOTES], old_target);
    return memcmp(one->address, other->address, VX_ADDRESS_LEN) < 0;
}

/* Keep the counts of a VNI when an entry's value goes from `old` to `value`; 0 is no entry. */
static inline void vx_recount(struct vx_state *state, uint64_t old, uint64_t value)
{
    enum vx_kind kind = vx_kind_of(value), old_kind = vx_kind_of(old);
    state->n_set += (uint64_t)vx_is_set(kind) - (uint64_t)vx_is_set(old_kind);
    if (vx_is_live(old_kind) && !vx_is_set(old_kind))
        vx_count_down(state, old);
    if (vx_is_live(kind) && !vx_is_set(kind))
        (void)vx_count_up(state, vx_generation_of(value), 0);
}

/* What vx_fdb_set found to be so. */
enum vx_set { VX_SET_FULL, VX_SET_NEW, VX_SET_CHANGED, VX_SET_KEPT };

/* Make the entry of an address say `value` if that outranks what it says or `force`; `old` is what it
 * said, 0 for nothing. */
static inline enum vx_set vx_fdb_set(struct vx_tables *t, const struct vx_where *w, uint64_t value,
                                     int force, uint64_t *old)
{
    for (;;) {
        struct vx_entry *entry = vx_seek(&t->fdb, w, old);
        if (entry && !force && !vx_outranks(t, value, *old))
            return VX_SET_KEPT;
        int done = 0;
        if (entry) {
            uint64_t expected = *old;
            done = vx_put_if(&entry->value, &expected, value);
        } else {
            *old = 0;
            done = vx_insert(t, w, value);
            if (!done)
                return VX_SET_FULL;
        }
        if (done == 1) {
            vx_recount(&t->fdb.states[w->vni], *old, value);
            return entry ? VX_SET_CHANGED : VX_SET_NEW;
        }
        sched_yield(); /* a lane is at the same address: let it finish */
    }
}

/* Remove the entry of an address; what it said, or 0. */
static inline uint64_t vx_fdb_unset(struct vx_tables *t, const struct vx_where *w)
{
    uint64_t value;
    for (;;) {
        struct vx_entry *entry = vx_seek(&t->fdb, w, &value);
        if (!entry)
            return 0;
        if (vx_remove(t, entry, w, value))
            return value;
    }
}

/* Remove what belongs to no segment or no remote of the writer's view, of any kind. No lane may be in
 * an older view. */
static inline void vx_fdb_purge(struct vx_seat *seat)
{
    struct vx_tables *t = seat->tables;
    for (uint64_t i = 0; i < t->fdb.n_buckets * VX_WAYS; i++) {
        struct vx_entry *entry = &t->fdb.entries[i];
        uint64_t key = vx_get(&entry->key), value = vx_get(&entry->value);
        uint32_t vni = vx_entry_vni(key, value);
        if (!vx_is_live(vx_kind_of(value)) || !vx_is_station(key >> 16))
            continue;
        if (vx_segment_of(seat->view, vni) >= 0 && vx_target_limit(seat->view, vx_target_of(value)) >= 0)
            continue;
        struct vx_where w = vx_where(&t->fdb, vni, key >> 16);
        vx_remove(t, entry, &w, value);
    }
}

/* The flushes of a VNI are history: every entry that is left counts. */
static inline void vx_forget_flush(struct vx_state *state)
{
    uint64_t old = vx_get(&state->learned);
    while (!vx_put_if(&state->learned, &old, (uint64_t)(uint32_t)old)) {
    }
}

/* Bring every learned entry that counts to the present generation and forget the others, so that
 * generations may be counted from anew. No lane may be in an older view. */
static inline void vx_fdb_renew(struct vx_seat *seat)
{
    struct vx_tables *t = seat->tables;
    for (uint64_t i = 0; i < t->fdb.n_buckets * VX_WAYS; i++) {
        struct vx_entry *entry = &t->fdb.entries[i];
        uint64_t key = vx_get(&entry->key), value = vx_get(&entry->value), age;
        enum vx_kind kind = vx_kind_of(value);
        if ((kind != VX_LEARNED && kind != VX_FROZEN) || !vx_is_station(key >> 16))
            continue;
        if (vx_forget(seat, entry, key, value, vx_more_of(value) >> 12))
            continue;
        do {
            age = value >> 44 << 12 | seat->view->generation;
            kind = vx_kind_of(value);
        } while ((kind == VX_LEARNED || kind == VX_FROZEN) &&
                 !vx_put_if(&entry->value, &value, age << 32 | (uint32_t)value));
    }
}

/* -- from nothing and back ------------------------------------------------------------------------ */

static inline void vx_unmap(void *memory, size_t length)
{
    if (memory)
        munmap(memory, length);
}

/* Free everything; no lane may be left. Also right after a vx_open that failed. */
static inline void vx_close(struct vx_tables *t, uint32_t n_segments)
{
    struct vx_fdb *fdb = &t->fdb;
    vx_abort(t);
    for (uint32_t i = 0; t->arrays[VX_SEGMENTS].live && i < n_segments; i++) {
        const struct vx_segment *s = vx_array_get(&t->arrays[VX_SEGMENTS], i);
        if (s->n_flood > VX_INLINE_FLOOD)
            free(s->flood.many);
    }
    for (uint32_t i = 0; t->arrays[VX_POLICIES].live && i < n_segments; i++)
        free(((const struct vx_policy *)vx_array_get(&t->arrays[VX_POLICIES], i))->prefixes);
    for (int i = 0; i < VX_N_ARRAYS; i++)
        vx_array_close(&t->arrays[i]);
    vx_free_all(&t->bin);
    free(t->bin.items);
    free(t->fresh.items);
    free(t->stale.items);
    free((void *)t->view);
    free(t->zeros);
    vx_unmap(fdb->entries, fdb->n_buckets * VX_WAYS * sizeof *fdb->entries);
    vx_unmap(fdb->passed, fdb->n_buckets);
    vx_unmap(fdb->states, (VX_ANY_VNI + 1) * sizeof *fdb->states);
    vx_unmap(fdb->moves, VX_N_MOVES * sizeof *fdb->moves);
}

/* Room for `max_entries` at two thirds of the entries' places. */
static inline int vx_open_fdb(struct vx_fdb *fdb, uint64_t max_entries)
{
    uint64_t n_buckets = (max_entries * 3 / 2 + VX_WAYS - 1) / VX_WAYS + 2;
    size_t length = n_buckets * VX_WAYS * sizeof *fdb->entries;
    fdb->max_entries = max_entries;
    fdb->n_buckets = n_buckets;
    fdb->entries = vx_map(length, length >= VX_HUGE);
    fdb->passed = vx_map(n_buckets, n_buckets >= VX_HUGE);
    fdb->states = vx_map((VX_ANY_VNI + 1) * sizeof *fdb->states, 0);
    fdb->moves = vx_map(VX_N_MOVES * sizeof *fdb->moves, 0);
    return fdb->entries && fdb->passed && fdb->states && fdb->moves;
}

/* Empty tables in zeroed memory; 0 without memory, and then vx_close frees what there is. */
static inline int vx_open(struct vx_tables *t, uint64_t max_segments, uint64_t max_entries)
{
    static const uint32_t shifts[] = {VX_VNI_SHIFT, VX_SEGMENT_SHIFT, VX_REMOTE_SHIFT,
                                      VX_VNI_SHIFT, VX_PEER_SHIFT,    VX_VNI_SHIFT,     VX_POLICY_SHIFT,
                                      VX_NEIGHBOUR_SHIFT, VX_VNI_SHIFT};
    const uint64_t n_items[] = {VX_ANY_VNI + 1, max_segments,  VX_MAX_REMOTES, 16, 16,
                                VX_MAX_PORTS,   max_segments,  VX_MAX_NEIGHBOURS, 16};
    int done = vx_open_fdb(&t->fdb, max_entries) && (t->zeros = calloc(1, VX_PAGE_LEN)) != NULL;
    for (int i = 0; done && i < VX_N_ARRAYS; i++)
        done = vx_array_open(&t->arrays[i], n_items[i], shifts[i], t->zeros);
    for (int i = 0; i < VX_MAX_SEATS; i++) {
        t->seats[i].tables = t;
        t->seats[i].epoch = VX_AWAY;
    }
    t->addresses_mask = t->peers_mask = t->asked_mask = 15;
    t->generation = t->renewed = 1;
    t->epoch = 1;
    t->view = done ? vx_prepare(t) : NULL;
    return t->view != NULL;
}

#endif
