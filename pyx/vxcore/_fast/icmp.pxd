# Answers to frames that are too large for the underlay.
from libc.stdint cimport uint8_t, uint32_t

from vxcore._fast.port cimport Oversize

cdef enum:
    MAX_ANSWER_LEN = 14 + 40 + 8 + 576

cdef uint32_t too_big_answer(uint8_t *answer, const Oversize *o) noexcept nogil
