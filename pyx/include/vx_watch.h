/* What a lane shows of packets, and of what became of them: a ring of bytes, of one lane that writes and one
 * thread that reads.
 *
 * Watches of a lane form a list that Python changes; without any the lane tests one pointer for a packet. What
 * is watched is copied before it is dealt with, for that may change it, goes through by itself, so that what its
 * port makes of it is known, and is shown then. The lane never waits: what finds no room is counted. */
#ifndef VX_WATCH_H
#define VX_WATCH_H

#include <string.h>

#include "vx_bell.h"

enum {
    VX_WATCH_LEN = 4 << 20, /* bytes of a ring */
    VX_WATCH_ALIGN = 16,
    VX_ANY_WATCHED = -1,
};

enum vx_way { VX_OUT, VX_IN }; /* overlay to underlay, underlay to overlay */

/* One packet, and the bytes of it that are kept behind: of an inner frame, or (VX_IN) from the VXLAN header on. */
struct vx_sight {
    uint32_t room;   /* from here to the next one; all that is here when `kept` is UINT32_MAX */
    uint32_t kept, length;
    int32_t remote;  /* where it came from or goes; -1: a stranger, or all of the flood set */
    uint64_t time_ns; /* of CLOCK_REALTIME */
    uint32_t vni, port;
    uint16_t source_port, gso_size;
    uint8_t way, verdict, tos, learned;
    uint8_t source[16];
};

_Static_assert(sizeof(struct vx_sight) == 56, "size of a sight");

struct vx_watch {
    struct vx_watch *next;
    /* what is wanted: set before the lane sees it, and not changed */
    int64_t vni, mac; /* VX_ANY_WATCHED, or one; an address is source or destination */
    uint32_t ways, snap_len;
    uint32_t dropped_only;
    _Alignas(64) uint64_t head; /* the lane's, in bytes since the beginning */
    uint64_t lost;
    _Alignas(64) uint64_t tail; /* the reader's */
    struct vx_bell bell;
    _Alignas(64) uint8_t bytes[VX_WATCH_LEN];
};

/* -- the lane ------------------------------------------------------------------------------------- */

static inline int vx_is_watched(const struct vx_watch *watch, enum vx_way way, uint32_t vni, uint64_t to, uint64_t from)
{
    return watch->ways >> way & 1 && (watch->vni == VX_ANY_WATCHED || watch->vni == (int64_t)vni) &&
           (watch->mac == VX_ANY_WATCHED || watch->mac == (int64_t)to || watch->mac == (int64_t)from);
}

/* Room for a packet, with its bytes in it; NULL when there is none. */
static inline struct vx_sight *vx_sight_begin(struct vx_watch *watch, const uint8_t *packet, uint32_t length)
{
    uint32_t kept = length < watch->snap_len ? length : watch->snap_len;
    uint32_t room = (uint32_t)(sizeof(struct vx_sight) + kept + VX_WATCH_ALIGN - 1) & ~(uint32_t)(VX_WATCH_ALIGN - 1);
    uint64_t head = vx_get_relaxed(&watch->head), left = VX_WATCH_LEN - head % VX_WATCH_LEN;
    uint64_t skipped = left < room ? left : 0;
    if (head + skipped + room - vx_get(&watch->tail) > VX_WATCH_LEN)
        return NULL;
    if (skipped) {
        struct vx_sight *rest = (struct vx_sight *)&watch->bytes[head % VX_WATCH_LEN];
        rest->room = (uint32_t)skipped;
        rest->kept = UINT32_MAX;
        vx_put(&watch->head, head + skipped);
    }
    struct vx_sight *sight = (struct vx_sight *)&watch->bytes[(head + skipped) % VX_WATCH_LEN];
    *sight = (struct vx_sight){.room = room, .kept = kept, .length = length};
    memcpy(sight + 1, packet, kept);
    return sight;
}

/* Show what was begun, with what is known of it; of what found no room (NULL), count it. */
static inline void vx_sight_end(struct vx_watch *watch, struct vx_sight *sight, const struct vx_sight *known)
{
    if (watch->dropped_only && !known->verdict)
        return;
    if (!sight) {
        vx_count(&watch->lost, 1);
        return;
    }
    uint32_t room = sight->room, kept = sight->kept, length = sight->length;
    *sight = *known;
    sight->room = room;
    sight->kept = kept;
    sight->length = length;
    vx_put(&watch->head, vx_get_relaxed(&watch->head) + room);
}

/* After a burst: wake the reader if it sleeps and there is something new. */
static inline void vx_wake_watcher(struct vx_watch *watch)
{
    vx_bell_sound(&watch->bell, vx_get_relaxed(&watch->head));
}

/* -- the reader ----------------------------------------------------------------------------------- */

/* The oldest that was not taken, or NULL. */
static inline const struct vx_sight *vx_sight_next(struct vx_watch *watch)
{
    uint64_t tail = vx_get_relaxed(&watch->tail);
    while (tail != vx_get(&watch->head)) {
        const struct vx_sight *sight = (const struct vx_sight *)&watch->bytes[tail % VX_WATCH_LEN];
        if (sight->kept != UINT32_MAX)
            return sight;
        tail += sight->room;
        vx_put(&watch->tail, tail);
    }
    return NULL;
}

/* It was taken: its room is free. */
static inline void vx_sight_done(struct vx_watch *watch, const struct vx_sight *sight)
{
    vx_put(&watch->tail, vx_get_relaxed(&watch->tail) + sight->room);
}

/* Before sleeping: whether nothing is there, and from now on the lane wakes us. */
static inline int vx_watcher_may_sleep(struct vx_watch *watch)
{
    return vx_bell_may_sleep(&watch->bell, &watch->head, vx_get_relaxed(&watch->tail));
}

#endif
