# include/vx_atomic.h: words that threads, and the kernel, hand over to each other.
from libc.stdint cimport uint32_t


cdef extern from "vx_atomic.h" nogil:
    uint32_t vx_load_acquire(const uint32_t *p)
    void vx_store_release(uint32_t *p, uint32_t value)
    uint32_t vx_load_after_reads(const uint32_t *p)
    void *vx_load_acquire_p(void **p)
    void vx_store_release_p(void **p, void *value)
