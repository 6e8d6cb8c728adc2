/* Byte order, unaligned access, prefetch and the hash step. Knows nothing of packets. */
#ifndef VX_BYTES_H
#define VX_BYTES_H

#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define vx_be16(x) __builtin_bswap16(x)
#define vx_be32(x) __builtin_bswap32(x)
#define vx_be64(x) __builtin_bswap64(x)
#else
#define vx_be16(x) ((uint16_t)(x))
#define vx_be32(x) ((uint32_t)(x))
#define vx_be64(x) ((uint64_t)(x))
#endif

/* memcpy is the one way to unaligned access that C defines; it compiles to a single move. */
static inline uint16_t vx_load16_raw(const uint8_t *p) { uint16_t v; memcpy(&v, p, 2); return v; }
static inline uint32_t vx_load32_raw(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; }
static inline uint64_t vx_load64_raw(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return v; }
static inline void vx_store16_raw(uint8_t *p, uint16_t v) { memcpy(p, &v, 2); }
static inline void vx_store32_raw(uint8_t *p, uint32_t v) { memcpy(p, &v, 4); }
static inline void vx_store64_raw(uint8_t *p, uint64_t v) { memcpy(p, &v, 8); }

static inline uint16_t vx_load16(const uint8_t *p) { return vx_be16(vx_load16_raw(p)); }
static inline uint32_t vx_load32(const uint8_t *p) { return vx_be32(vx_load32_raw(p)); }
static inline uint64_t vx_load64(const uint8_t *p) { return vx_be64(vx_load64_raw(p)); }
static inline uint64_t vx_load48(const uint8_t *p) { return (uint64_t)vx_load16(p) << 32 | vx_load32(p + 2); }
static inline void vx_store16(uint8_t *p, uint16_t v) { vx_store16_raw(p, vx_be16(v)); }
static inline void vx_store32(uint8_t *p, uint32_t v) { vx_store32_raw(p, vx_be32(v)); }

static inline uint16_t vx_swap16(uint16_t v) { return __builtin_bswap16(v); }
static inline uint32_t vx_swap32(uint32_t v) { return __builtin_bswap32(v); }

/* A time in units of 2^-bits seconds, in nanoseconds. */
static inline uint64_t vx_binary_ns(uint64_t stamp, unsigned bits)
{
    return (uint64_t)(((unsigned __int128)stamp * 1000000000u) >> (bits & 127));
}

/* Multiply and fold: both halves of the 128-bit product, the step of our hashes. */
static inline uint64_t vx_mix(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Seeds of the hashes: the first digits of pi's fraction, made odd. */
#define VX_K0 0x243F6A8885A308D3ull
#define VX_K1 0x13198A2E03707345ull
#define VX_K2 0xA4093822299F31D1ull
#define VX_K3 0x082EFA98EC4E6C89ull

#define vx_likely(x) __builtin_expect(!!(x), 1)
#define vx_unlikely(x) __builtin_expect(!!(x), 0)
#define vx_prefetch(p) __builtin_prefetch((p), 0, 3)
#define vx_prefetch_write(p) __builtin_prefetch((p), 1, 3)

#endif
