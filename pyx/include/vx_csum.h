/* The Internet checksum (RFC 1071), and its incremental update (RFC 1624).
 *
 * Sums are kept in memory byte order: a sum of words loaded as they stand, folded and stored as it
 * stands, is right on either byte order (RFC 1071 section 2 (B)). */
#ifndef VX_CSUM_H
#define VX_CSUM_H

#include "vx_bytes.h"

/* On x86-64 glibc picks the widest variant at load time; elsewhere the one loop is compiled for the
 * baseline, which the compiler vectorises on AArch64 (NEON is always there). */
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(VX_NO_CLONES)
#define VX_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define VX_CLONES
#endif

/* The sum of n 32-bit words: a 64-bit lane takes 2^32 of them, so none overflows below 16 GiB. */
VX_CLONES static uint64_t vx_sum_words(const uint8_t *p, size_t n)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += vx_load32_raw(p + 4 * i);
    return sum;
}

/* Add to `sum` the bytes p[0..len); an odd last byte counts as if a zero byte followed. */
static inline uint64_t vx_csum_add(const uint8_t *p, size_t len, uint64_t sum)
{
    uint32_t tail = 0;
    sum += vx_sum_words(p, len / 4);
    memcpy(&tail, p + (len & ~(size_t)3), len & 3);
    return sum + tail;
}

static inline uint16_t vx_csum_fold(uint64_t sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

/* The checksum field after one 16-bit word under it changed; all in memory order (RFC 1624 eqn. 3). */
static inline uint16_t vx_csum_replace(uint16_t check, uint16_t old, uint16_t new_)
{
    return (uint16_t)~vx_csum_fold((uint64_t)(uint16_t)~check + (uint16_t)~old + new_);
}

#endif
