"""Watch: packets that one lane shows, by a ring that the lane writes and one thread reads.

Place in the house: above c_watch, where what a lane executes is; below lane, that holds a list of them.
"""

from libc.stdlib cimport free
from libc.string cimport memset
from posix.stdlib cimport posix_memalign

from vxcore._fast.c_table cimport vx_get_relaxed
from vxcore._fast.c_watch cimport *

OUT, IN = VX_OUT, VX_IN
LEARNED = (None, "learned", "moved", "held", "refused", "overflow")
MAX_SNAP_LEN = 65535

cdef enum:
    CACHE_LINE = 64
    N_TAKEN = 1024


cdef class Watch:
    """Room for 4 MiB of packets, of one lane.

    `wake_fd` is an eventfd, kept open by the caller, that the lane writes to when it has shown something to
    a reader that sleeps. `vni` and `mac` (source or destination, a number) are wanted, None: any; `ways` are
    `OUT`, from overlay to underlay, and `IN`. Up to `snap_len` bytes of each are kept. `dropped_only` wants
    those whose verdict is not DELIVERED. Raises MemoryError.
    """

    def __cinit__(self, wake_fd: int, *, vni=None, mac=None, ways=(VX_OUT, VX_IN),
                  snap_len: int = MAX_SNAP_LEN, dropped_only: bool = False):
        cdef void *memory = NULL
        if posix_memalign(&memory, CACHE_LINE, sizeof(vx_watch)):
            raise MemoryError("no memory for a ring of packets")
        memset(memory, 0, sizeof(vx_watch) - VX_WATCH_LEN)
        self.watch = <vx_watch *>memory
        self.watch.wake_fd = wake_fd
        self.watch.vni = VX_ANY_WATCHED if vni is None else vni
        self.watch.mac = VX_ANY_WATCHED if mac is None else mac
        self.watch.ways = sum(1 << way for way in set(ways))
        self.watch.snap_len, self.watch.dropped_only = snap_len, dropped_only

    def __dealloc__(self):
        free(self.watch)

    @property
    def lost(self) -> int:
        """How many packets found the ring full."""
        return vx_get_relaxed(&self.watch.lost)

    def take(self):
        """What was shown since the last call, up to 1024 packets, the oldest first: tuples of way, verdict,
        time in ns since 1970, VNI, number of the overlay port, number of the remote (-1: none), source
        address (16 bytes), source port, TOS, segment size of a super-frame, what was learned (an index of
        `LEARNED`), length, and bytes.
        """
        cdef const vx_sight *s
        cdef list taken = []
        while len(taken) < N_TAKEN:
            s = vx_sight_next(self.watch)
            if s == NULL:
                break
            taken.append((s.way, s.verdict, s.time_ns, s.vni, s.port, s.remote, (<const char *>s.source)[:16],
                          s.source_port, s.tos, s.gso_size, s.learned, s.length,
                          (<const char *>(s + 1))[:s.kept]))
            vx_sight_done(self.watch, s)
        return taken

    def may_sleep(self) -> bool:
        """Whether nothing waits to be taken; from now on the lane wakes who sleeps on the eventfd."""
        return vx_watcher_may_sleep(self.watch)
