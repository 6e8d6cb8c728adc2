# include/vx_bytes.h: byte order, unaligned access, prefetch.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "vx_bytes.h" nogil:
    uint16_t vx_be16(uint16_t value)
    uint32_t vx_be32(uint32_t value)
    uint64_t vx_be64(uint64_t value)
    uint16_t vx_load16_raw(const uint8_t *p)
    uint32_t vx_load32_raw(const uint8_t *p)
    uint64_t vx_load64_raw(const uint8_t *p)
    uint16_t vx_load16(const uint8_t *p)
    uint32_t vx_load32(const uint8_t *p)
    uint64_t vx_load64(const uint8_t *p)
    uint64_t vx_load48(const uint8_t *p)
    void vx_store16_raw(uint8_t *p, uint16_t value)
    void vx_store32_raw(uint8_t *p, uint32_t value)
    void vx_store64_raw(uint8_t *p, uint64_t value)
    void vx_store16(uint8_t *p, uint16_t value)
    void vx_store32(uint8_t *p, uint32_t value)
    const uint64_t VX_K0, VX_K1, VX_K2, VX_K3
    uint16_t vx_swap16(uint16_t value)
    uint32_t vx_swap32(uint32_t value)
    uint64_t vx_binary_ns(uint64_t stamp, unsigned int bits)
    uint64_t vx_mix(uint64_t a, uint64_t b)
    bint vx_likely(bint condition)
    bint vx_unlikely(bint condition)
    void vx_prefetch(const void *p)
    void vx_prefetch_write(const void *p)
