/* What a lane tells Python: a ring of events, of one lane that writes and one thread that reads.
 *
 * The lane never waits: when the ring is full it counts what it could not tell. Who reads sleeps on an
 * eventfd, and says so first; the lane writes to it once, at the end of a batch that told something. */
#ifndef VX_EVENTS_H
#define VX_EVENTS_H

#include "vx_bell.h"

enum { VX_RING_LEN = 1024 /* events; a power of two */ };

enum vx_event_kind {
    VX_LEARNED_EVENT, /* an address was learned */
    VX_MOVED_EVENT,   /* it was seen at another target */
    VX_FROZEN_EVENT,  /* too often: it stays where it is */
    VX_AGED_EVENT,    /* it was not heard from and is forgotten */
    VX_LIMIT_EVENT,   /* it could not be learned, for there are too many */
    VX_MISS_EVENT,    /* a frame is for an address that is not known */
    VX_STRANGER_EVENT, /* a frame was let in from a VTEP that is no remote yet */
    VX_LOOP_EVENT      /* an address is here and elsewhere by turns: it stays here, and its frames are held back */
};

struct vx_event {
    uint64_t mac;
    uint32_t vni, kind;
    uint32_t target, was; /* where it is, and where it was; UINT32_MAX is nowhere */
    uint8_t address[16];  /* of the stranger */
};

struct vx_ring {
    _Alignas(64) uint64_t head; /* the lane's: how many were told */
    uint64_t dropped;
    uint64_t limit_s;
    _Alignas(64) uint64_t tail; /* the reader's: how many it has taken */
    uint32_t kinds;             /* a bit for each kind that somebody wants */
    struct vx_bell bell;
    _Alignas(64) struct vx_event events[VX_RING_LEN];
};

/* -- the lane ------------------------------------------------------------------------------------- */

static inline int vx_is_wanted(const struct vx_ring *ring, enum vx_event_kind kind)
{
    return ring && vx_get_relaxed(&ring->kinds) >> kind & 1;
}

static inline void vx_tell(struct vx_ring *ring, enum vx_event_kind kind, uint32_t vni, uint64_t mac,
                           uint32_t target, uint32_t was, const uint8_t *address)
{
    if (!vx_is_wanted(ring, kind))
        return;
    uint64_t head = vx_get_relaxed(&ring->head);
    if (head - vx_get(&ring->tail) == VX_RING_LEN) {
        vx_count(&ring->dropped, 1);
        return;
    }
    struct vx_event *event = &ring->events[head % VX_RING_LEN];
    *event = (struct vx_event){mac, vni, kind, target, was, {0}};
    if (address)
        __builtin_memcpy(event->address, address, sizeof event->address);
    vx_put(&ring->head, head + 1);
}

/* A limit is told once a second: a flood of addresses beyond it is one event, not thousands. */
static inline void vx_tell_limit(struct vx_ring *ring, uint32_t vni, uint64_t mac, uint32_t target, uint32_t now_s)
{
    if (!ring || ring->limit_s == now_s)
        return;
    ring->limit_s = now_s;
    vx_tell(ring, VX_LIMIT_EVENT, vni, mac, target, UINT32_MAX, 0);
}

/* After a batch: wake the reader if it sleeps and there is something new. */
static inline void vx_wake_reader(struct vx_ring *ring) { vx_bell_sound(&ring->bell, vx_get_relaxed(&ring->head)); }

/* -- the reader ----------------------------------------------------------------------------------- */

/* Copy what was told; how many. */
static inline uint32_t vx_take(struct vx_ring *ring, struct vx_event *out)
{
    uint64_t tail = vx_get_relaxed(&ring->tail), head = vx_get(&ring->head);
    uint32_t n = 0;
    for (; tail != head; tail++)
        out[n++] = ring->events[tail % VX_RING_LEN];
    vx_put(&ring->tail, tail);
    return n;
}

/* Before sleeping: whether nothing is there, and from now on the lane wakes us. */
static inline int vx_may_sleep(struct vx_ring *ring)
{
    return vx_bell_may_sleep(&ring->bell, &ring->head, vx_get_relaxed(&ring->tail));
}

#endif
