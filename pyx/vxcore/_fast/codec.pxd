# What ports take from the codec: compiled headers and policies, the outer headers written and walked.
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from vxcore._fast.verdict cimport Verdict


# Two cache lines; a set of tunnels is an array of these.
cdef struct Template:
    uint8_t header[80]       # right-aligned: its last byte stands in front of the frame
    uint32_t vni
    uint32_t port_min, n_ports
    uint32_t ip_sum          # of the IPv4 header's words with what is patched at zero, host order
    uint32_t label
    uint32_t flags
    uint32_t header_len      # of all that the tunnel has
    uint32_t ip_len          # from the IP header on
    uint16_t ip_id
    uint8_t version, tos, ttl, layer
    uint8_t quick            # encap_quick may be tried
    uint8_t unused[9]


cdef struct RuleBits:
    uint32_t flags
    uint8_t ports[8192]      # a bit for each port


# Where the walk through one packet's headers is.
cdef struct Walk:
    uint8_t *packet
    uint32_t at, end
    uint32_t ip_off
    uint32_t missing         # bytes that the IP header promises and a capture's snap length cut off
    uint32_t vni, gbp
    uint16_t source_port
    uint8_t version, next, tos, protocol


cdef class Tunnel:
    cdef Template template
    cdef readonly object spec


cdef class TunnelSet:
    cdef object _memory
    cdef Template *templates
    cdef readonly uint32_t count


cdef class Rules:
    cdef RuleBits bits
    cdef readonly object spec


cdef uint32_t put_outer(Template *t, uint8_t *vxlan, uint32_t payload_len, uint32_t hashed, uint8_t tos,
                        uint8_t ttl) noexcept nogil
cdef bint has_checksum(const Template *t) noexcept nogil
cdef void put_outer_checksum(const Template *t, uint8_t *vxlan, uint32_t head_len, const uint8_t *body,
                             uint32_t body_len, bint partial) noexcept nogil
cdef Verdict walk_to_vxlan(Walk *w, uint8_t *packet, uint32_t length, const RuleBits *rules) noexcept nogil
cdef void put_source(uint8_t *source, const Walk *w) noexcept nogil
