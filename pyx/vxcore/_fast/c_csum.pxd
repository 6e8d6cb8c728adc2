# include/vx_csum.h: the Internet checksum.
from libc.stdint cimport uint8_t, uint16_t, uint64_t


cdef extern from "vx_csum.h" nogil:
    uint64_t vx_csum_add(const uint8_t *p, size_t length, uint64_t sum)
    uint16_t vx_csum_fold(uint64_t sum)
    uint16_t vx_csum_replace(uint16_t check, uint16_t old, uint16_t new)
