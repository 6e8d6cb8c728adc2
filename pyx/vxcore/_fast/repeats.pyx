"""Repeats: a frame to more than one host that comes again and again is being brought round by a loop.

Place in the house: above the C headers, below the lane, which asks before it floods what comes from hosts. A
frame that goes round is the same each time, byte for byte; no host has a reason to say the same to all
dozens of times in a second.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from vxcore._fast.c_bytes cimport VX_K0, VX_K1, VX_K2, VX_K3, vx_load64_raw, vx_mix

cdef enum:
    MOST_PER_S = 32          # of one frame; then it is held back
    HELD_S = 10              # for so long
    WAYS = 4                 # rows in which a frame may stand
    HASHED_LEN = 128         # of a frame: enough for what tells two packets of a flow apart


cdef Repeated note_repeat(Repeat *rows, uint32_t segment, const uint8_t *frame, uint32_t length,
                          uint32_t now_s) noexcept nogil:
    """Count a frame of at least 14 bytes, and say whether it came too often."""
    cdef uint64_t hash = hash_of(segment, frame, length)
    cdef Repeat *row = row_of(&rows[hash % (N_REPEATS / WAYS) * WAYS], <uint32_t>(hash >> 32) | 1)
    if now_s - row.since_s >= <uint32_t>(HELD_S if row.n > MOST_PER_S else 1):
        row.since_s, row.n = now_s, 0
    if row.n > MOST_PER_S:
        return TOO_OFTEN
    row.n += 1
    return ONCE_TOO_OFTEN if row.n > MOST_PER_S else NEW_ENOUGH


cdef inline Repeat *row_of(Repeat *rows, uint32_t tag) noexcept nogil:
    """The row of a frame, or that of the rarest, which is given up for it."""
    cdef Repeat *rarest = rows
    cdef int i
    for i in range(WAYS):
        if rows[i].tag == tag:
            return &rows[i]
        if rows[i].n < rarest.n:
            rarest = &rows[i]
    rarest.tag, rarest.since_s, rarest.n = tag, 0, 0
    return rarest


cdef inline uint64_t hash_of(uint32_t segment, const uint8_t *frame, uint32_t length) noexcept nogil:
    """Over the start of a frame, by eight bytes, the last of which may overlap."""
    cdef uint64_t hash = vx_mix(segment ^ VX_K0, length ^ VX_K1)
    cdef uint32_t end = min(length, <uint32_t>HASHED_LEN) - 8
    cdef uint32_t at
    for at in range(0, end, 8):
        hash = vx_mix(hash ^ VX_K2, vx_load64_raw(frame + at) ^ VX_K3)
    return vx_mix(hash ^ VX_K2, vx_load64_raw(frame + end) ^ VX_K3)


# -- for tests --------------------------------------------------------------------------------------

def held_back(frames) -> list[bool]:
    """Of frames of at least 14 bytes, each with its segment and the second it comes in, which are held."""
    cdef Repeat *rows = <Repeat *>calloc(N_REPEATS, sizeof(Repeat))
    cdef const uint8_t[::1] view
    if rows == NULL:
        raise MemoryError("no memory for frames")
    held = []
    for view, segment, now_s in frames:
        held.append(note_repeat(rows, segment, &view[0], <uint32_t>view.shape[0], now_s) != NEW_ENOUGH)
    free(rows)
    return held
