/* Faults of the kernel and the machine in a vxcore process, when a test wants them: preloaded (LD_PRELOAD).
 *
 * Place in the house: under tests/support/faults.py, which writes to the file of VX_FAULTS what is to happen while
 * the process runs. Only calls of lanes fail: read(2) is a TAP's if it is as long as theirs. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { SENDMMSG, RECVMMSG, READ, WRITEV, EPOLL_WAIT, N_CALLS, TAP_READ_LEN = 1 << 16 };

struct fault {
    int32_t error; /* an errno, or minus a signal that is raised */
    int32_t n;     /* of how many calls from now on */
};

static struct {
    struct fault calls[N_CALLS];
    int64_t clock_s; /* how far the clock has been set forth */
} *faults;

__attribute__((constructor)) static void open_faults(void)
{
    const char *path = getenv("VX_FAULTS");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *memory = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *faults, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        _exit(99);
    faults = memory;
    close(fd);
}

static int fails(int call)
{
    struct fault *fault = &faults->calls[call];
    if (__atomic_load_n(&fault->n, __ATOMIC_ACQUIRE) <= 0)
        return 0;
    __atomic_sub_fetch(&fault->n, 1, __ATOMIC_ACQ_REL);
    if (fault->error < 0)
        raise(-fault->error);
    errno = fault->error;
    return 1;
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) \
        *(void **)&real = dlsym(RTLD_NEXT, #name)

int sendmmsg(int fd, struct mmsghdr *msgs, unsigned n, int flags)
{
    REAL(sendmmsg);
    return fails(SENDMMSG) ? -1 : real(fd, msgs, n, flags);
}

int recvmmsg(int fd, struct mmsghdr *msgs, unsigned n, int flags, struct timespec *timeout)
{
    REAL(recvmmsg);
    return fails(RECVMMSG) ? -1 : real(fd, msgs, n, flags, timeout);
}

ssize_t read(int fd, void *data, size_t n)
{
    REAL(read);
    return n > TAP_READ_LEN && n < TAP_READ_LEN + 4096 && fails(READ) ? -1 : real(fd, data, n);
}

ssize_t writev(int fd, const struct iovec *parts, int n)
{
    REAL(writev);
    return fails(WRITEV) ? -1 : real(fd, parts, n);
}

int epoll_wait(int fd, struct epoll_event *events, int n, int timeout)
{
    REAL(epoll_wait);
    return timeout == 1000 && fails(EPOLL_WAIT) ? -1 : real(fd, events, n, timeout);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    REAL(clock_gettime);
    int failed = real(clock, now);
    if (!failed && clock == CLOCK_REALTIME && faults)
        now->tv_sec += __atomic_load_n(&faults->clock_s, __ATOMIC_ACQUIRE);
    return failed;
}
