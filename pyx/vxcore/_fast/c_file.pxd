# The kernel's interface of files by a directory's descriptor, and of timers.
from libc.stdint cimport int64_t, uint32_t
from posix.time cimport timespec
from posix.types cimport mode_t, time_t


cdef extern from "<fcntl.h>" nogil:
    cdef enum:
        O_WRONLY
        O_CREAT
        O_EXCL
        O_CLOEXEC
        F_OK
    int openat(int directory, const char *name, int flags, mode_t mode)

cdef extern from "<stdio.h>" nogil:
    int renameat(int directory, const char *old, int new_directory, const char *new)
    int snprintf(char *out, size_t size, const char *form, ...)

cdef extern from "<unistd.h>" nogil:
    int faccessat(int directory, const char *name, int mode, int flags)
    int unlinkat(int directory, const char *name, int flags)
    int ftruncate(int fd, int64_t length)

cdef extern from "<sys/file.h>" nogil:
    cdef enum:
        LOCK_EX
        LOCK_NB
    int flock(int fd, int operation)

cdef extern from "<arpa/inet.h>" nogil:
    const char *inet_ntop(int family, const void *address, char *out, uint32_t size)

cdef extern from "<time.h>" nogil:
    cdef struct tm:
        int tm_sec
    tm *gmtime_r(const time_t *time, tm *out)
    size_t strftime(char *out, size_t size, const char *form, const tm *time)

cdef extern from "<sys/timerfd.h>" nogil:
    cdef enum:
        TFD_CLOEXEC
        TFD_NONBLOCK
    cdef struct itimerspec:
        timespec it_interval
        timespec it_value
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec *new, itimerspec *old)
