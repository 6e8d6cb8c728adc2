# cython: language_level=3
"""Tells callgrind what to count: the instructions of a call, under a name.

Place in the house: built and used by bench_instructions.py alone. Outside of valgrind nothing is counted.
"""

cdef extern from *:
    """
    #include <valgrind/callgrind.h>
    static void vx_start(void) { CALLGRIND_START_INSTRUMENTATION; }
    static void vx_zero(void) { CALLGRIND_ZERO_STATS; }
    static void vx_dump(const char *name) { CALLGRIND_DUMP_STATS_AT(name); }
    static void vx_stop(void) { CALLGRIND_STOP_INSTRUMENTATION; }
    """
    void vx_start()
    void vx_zero()
    void vx_dump(const char *name)
    void vx_stop()


def count(bytes name, before, call):
    """Count one call, after one that is not counted; callgrind writes the sum to its next file."""
    vx_start()
    before()
    call()
    before()
    vx_zero()
    call()
    vx_dump(name)
    vx_stop()
