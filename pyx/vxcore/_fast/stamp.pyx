"""The stamp of generated frames, and the filler behind it.

Place in the house: below generator, which writes stamps, and checker, which reads them; stamp.pxd says what
stands where. The filler is the same in every frame, and no two places near each other in it look alike.
"""

from libc.stdint cimport uint8_t, uint32_t

cdef uint8_t FILLER[9152]


cdef void make_filler() noexcept:
    """The high bytes of a linear congruential sequence (the constants are those of Numerical Recipes)."""
    cdef uint32_t i, value = 7348
    for i in range(<uint32_t>FILLER_LEN):
        value = value * 1664525 + 1013904223
        FILLER[i] = <uint8_t>(value >> 24)


make_filler()


cdef const uint8_t *filler() noexcept nogil:
    return FILLER


def stamp_of(payload) -> dict | None:
    """What the stamp at the start of a UDP payload, a bytes-like object, says; None: there is none."""
    cdef const uint8_t[::1] view = payload
    cdef Stamp stamp
    if view.shape[0] == 0 or not read_stamp(&view[0], <uint32_t>view.shape[0], &stamp):
        return None
    return {"run": stamp.run, "stream": stamp.stream, "sequence": stamp.sequence, "time": stamp.time}
