# include/vx_quick.h: the codec's loops over the common case.
from libc.stdint cimport uint16_t, uint32_t

from vxcore._fast.c_batch cimport Packets, Template


cdef extern from "vx_quick.h" nogil:
    ctypedef uint32_t (*vx_encap_general)(const Packets *, uint32_t, Template *, uint32_t, const uint32_t *,
                                          int) noexcept nogil
    ctypedef uint32_t (*vx_decap_general)(const Packets *, uint32_t, const void *, int) noexcept nogil

    uint32_t vx_encap_one_tunnel(const Packets *packets, Template *t, int layer, vx_encap_general general)
    uint32_t vx_encap_tunnels(const Packets *packets, Template *templates, uint32_t n_templates,
                              const uint32_t *picks, int layer, vx_encap_general general)
    uint32_t vx_decap_quick(const Packets *packets, uint16_t port, const void *rules, int layer,
                            vx_decap_general general)
