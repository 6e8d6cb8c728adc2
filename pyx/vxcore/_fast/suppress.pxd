# ARP requests and neighbour solicitations, and their answers from what is known.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    MAX_REPLY_LEN = 14 + 8 + 40 + 32

cdef enum Ask:
    ASK_NOTHING              # no request, or one that is not to be answered: it goes on as any frame
    ASK_ARP
    ASK_SOLICITATION


cdef struct Question:
    Ask kind
    uint8_t target[16]       # the address that is asked for; IPv4 as ::ffff:a.b.c.d
    uint64_t asker           # the MAC of the requester, as in its request
    bint probe               # it looks whether the address is free: it has none itself
    uint32_t l3_off          # behind Ethernet and tags


cdef bint read_question(const uint8_t *frame, uint32_t length, Question *q) noexcept nogil
cdef uint32_t write_reply(uint8_t *out, const uint8_t *frame, const Question *q, uint64_t mac,
                          bint router) noexcept nogil
