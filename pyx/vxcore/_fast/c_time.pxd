# The kernel's clocks, and waiting for a time of one.
from posix.time cimport timespec


cdef extern from "<time.h>" nogil:
    cdef enum:
        CLOCK_MONOTONIC
        CLOCK_REALTIME
        TIMER_ABSTIME
    int clock_gettime(int clock, timespec *now)
    int clock_nanosleep(int clock, int flags, const timespec *until, timespec *left)

cdef extern from "<sys/prctl.h>" nogil:
    cdef enum:
        PR_SET_TIMERSLACK
    int prctl(int option, unsigned long value)
