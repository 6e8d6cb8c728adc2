"""Ring: what one lane tells Python, by a ring that the lane writes and one thread reads.

Place in the house: above c_events, where what a lane executes is; below lane, that holds one. The lane
never waits for who reads: what finds the ring full is counted.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memset
from posix.stdlib cimport posix_memalign

import numpy as np

from vxcore._fast.c_events cimport *
from vxcore._fast.c_table cimport vx_get_relaxed

KINDS = {"learned": VX_LEARNED_EVENT, "moved": VX_MOVED_EVENT, "frozen": VX_FROZEN_EVENT,
         "aged": VX_AGED_EVENT, "limit": VX_LIMIT_EVENT, "miss": VX_MISS_EVENT,
         "stranger": VX_STRANGER_EVENT, "loop": VX_LOOP_EVENT}
ROW = np.dtype([("mac", "u8"), ("vni", "u4"), ("kind", "u4"), ("target", "u4"), ("was", "u4"),
                ("address", "u1", 16)])
NOWHERE = 0xFFFFFFFF

cdef enum:
    CACHE_LINE = 64


cdef class Ring:
    """Room for 1024 events. `wake_fd` is an eventfd, kept open by the caller, that the lane writes to when
    it has told something to a reader that sleeps. Raises MemoryError.
    """

    def __cinit__(self, wake_fd: int):
        cdef void *memory = NULL
        if posix_memalign(&memory, CACHE_LINE, sizeof(vx_ring)):
            raise MemoryError("no memory for a ring of events")
        memset(memory, 0, sizeof(vx_ring))
        self.ring = <vx_ring *>memory
        self.ring.wake_fd = wake_fd

    def __dealloc__(self):
        free(self.ring)

    @property
    def dropped(self) -> int:
        """How many events found the ring full."""
        return vx_get_relaxed(&self.ring.dropped)

    def want(self, kinds) -> None:
        """Be told events of these kinds (names of `KINDS`), and of no others, from now on."""
        cdef uint32_t bits = 0
        for kind in kinds:
            bits |= <uint32_t>1 << <int>KINDS[kind]
        self.ring.kinds = bits

    def take(self):
        """What was told since the last call: a structured array of `ROW`, the oldest first."""
        rows = np.empty(VX_RING_LEN, ROW)
        cdef uint8_t[::1] memory = rows.view(np.uint8)
        return rows[:vx_take(self.ring, <vx_event *>&memory[0])]

    def may_sleep(self) -> bool:
        """Whether nothing waits to be taken; from now on the lane wakes who sleeps on the eventfd."""
        return vx_may_sleep(self.ring)
