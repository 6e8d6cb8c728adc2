/* Atomic words, as the tables use them. The names say the order; without one it is acquire or release. */
#ifndef VX_ATOMIC_H
#define VX_ATOMIC_H

#include <stdint.h>

#define vx_get(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define vx_get_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define vx_get_seq(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
#define vx_put(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define vx_put_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define vx_put_seq(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
#define vx_add_seq(p, v) __atomic_fetch_add((p), (v), __ATOMIC_SEQ_CST)
#define vx_swap_seq(p, v) __atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST)

/* Put `v` if `*p` is still `*old`; else set `*old` to what it is now. */
#define vx_put_if(p, old, v) \
    __atomic_compare_exchange_n((p), (old), (v), 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)

/* A counter that one thread writes and others read. */
#define vx_count(p, n) vx_put_relaxed((p), vx_get_relaxed(p) + (n))

/* ThreadSanitizer knows no fences; where we have one, a seq_cst exchange says as much to it. */
#ifdef __SANITIZE_THREAD__
#define vx_fence() ((void)0)
#else
#define vx_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#endif

/* What was written before the word was stored is seen by who loads it so. */
static inline uint32_t vx_load_acquire(const uint32_t *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline void vx_store_release(uint32_t *p, uint32_t value)
{
    __atomic_store_n(p, value, __ATOMIC_RELEASE);
}

/* The same for a pointer. */
static inline void *vx_load_acquire_p(void *const *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline void vx_store_release_p(void **p, void *value)
{
    __atomic_store_n(p, value, __ATOMIC_SEQ_CST);
}

/* A plain read that comes before the load of a word that is to prove it good. */
static inline uint32_t vx_load_after_reads(const uint32_t *p)
{
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return __atomic_load_n(p, __ATOMIC_RELAXED);
}

#endif
