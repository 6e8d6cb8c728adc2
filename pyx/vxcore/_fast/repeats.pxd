# Frames to more than one host that come again and again, byte for byte: a loop brings them round.
from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    N_REPEATS = 4096         # frames that are remembered

# One of them, by its hash: how often it came since a second.
cdef struct Repeat:
    uint32_t tag, since_s, n

cdef enum Repeated:
    NEW_ENOUGH, ONCE_TOO_OFTEN, TOO_OFTEN

cdef Repeated note_repeat(Repeat *rows, uint32_t segment, const uint8_t *frame, uint32_t length,
                          uint32_t now_s) noexcept nogil
