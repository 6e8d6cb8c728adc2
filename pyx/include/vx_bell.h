/* How a lane wakes who reads its ring: once for a batch, and only one that sleeps.
 *
 * The reader says that it is about to sleep, and looks once more; the lane publishes, and then looks whether
 * somebody sleeps. Whichever is later sees what the other did. */
#ifndef VX_BELL_H
#define VX_BELL_H

#include <unistd.h>

#include "vx_atomic.h"

struct vx_bell {
    uint64_t woken; /* the lane's: how far it had come when it woke the reader last */
    uint32_t sleeping;
    int wake_fd; /* an eventfd */
};

/* The lane, after a batch: wake the reader if it sleeps and there is something new before `head`. */
static inline void vx_bell_sound(struct vx_bell *bell, uint64_t head)
{
    uint64_t one = 1;
    if (head == bell->woken)
        return;
    bell->woken = head;
    if (vx_swap_seq(&bell->sleeping, 0) && write(bell->wake_fd, &one, sizeof one) < 0)
        return; /* the eventfd is full, so the reader is awake */
}

/* The reader, before sleeping: whether nothing is there behind `tail`, and from now on the lane wakes it. */
static inline int vx_bell_may_sleep(struct vx_bell *bell, const uint64_t *head, uint64_t tail)
{
    vx_swap_seq(&bell->sleeping, 1);
    return vx_get_seq(head) == tail;
}

#endif
