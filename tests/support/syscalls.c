/* sendmmsg, sendmsg, sendto and recvmmsg as a test wants them: preloaded (LD_PRELOAD) they stand in front of libc's.
 *
 * Place in the house: under tests/support/scripted.py, which keeps what is sent and says what each call
 * returns; and, told by environment alone, in front of a vxcore process, where what is not refused is
 * passed on: VX_REFUSE_RUNS=ERRNO refuses every message with UDP_SEGMENT, VX_REFUSE_SUPERFRAMES=ERRNO every
 * one that starts with a virtio-net header with a GSO type, VX_AT_MOST=N takes no more messages than that
 * in one call, VX_REFUSE_WAKEUPS=ERRNO refuses the calls that let the kernel send from an AF_XDP ring, all or
 * VX_WAKEUPS=N of each N + 1. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { VNET_LEN = 10, UDP_SEGMENT_OPTION = 103, UDP_GRO_OPTION = 104, MAX_STEPS = 1 << 16, ROOM = 64 << 20 };

static int steps[MAX_STEPS]; /* of each call: below 0 an errno, else how many messages it takes; 0: all */
static size_t n_steps, at_step;
static unsigned n_calls;
static int keeping, refused_runs, refused_superframes;
static int refused_wakeups;
static unsigned at_most, mtu, wakeups, n_wakeups;
static uint8_t kept[ROOM], waiting[ROOM];
static size_t n_kept, n_waiting, at_waiting;

__attribute__((constructor)) static void read_environment(void)
{
    const char *runs = getenv("VX_REFUSE_RUNS"), *most = getenv("VX_AT_MOST");
    const char *whole = getenv("VX_REFUSE_SUPERFRAMES");
    refused_runs = runs ? atoi(runs) : 0;
    refused_superframes = whole ? atoi(whole) : 0;
    const char *wake = getenv("VX_REFUSE_WAKEUPS"), *many = getenv("VX_WAKEUPS");
    refused_wakeups = wake ? atoi(wake) : 0;
    wakeups = many ? (unsigned)atoi(many) : 0;
    at_most = most ? (unsigned)atoi(most) : 0;
}

/* Keep what is sent from now on; super-frames are refused with this errno, if not 0, and runs with segments
 * longer than `longest`, and single messages that are longer with EMSGSIZE; 0 is no limit. */
void vx_keep(const int *script, size_t n, int refuse, unsigned longest)
{
    memcpy(steps, script, n * sizeof *steps);
    n_steps = n;
    at_step = n_kept = n_calls = 0;
    keeping = 1;
    refused_runs = refused_superframes = refuse;
    mtu = longest;
}

const uint8_t *vx_kept(size_t *n, unsigned *calls)
{
    *n = n_kept;
    *calls = n_calls;
    return kept;
}

/* Let the next recvmmsg bring this: records of uint32 length, uint32 segment size (0: none), bytes. */
void vx_wait(const uint8_t *records, size_t n)
{
    memcpy(waiting, records, n);
    at_waiting = 0;
    __atomic_store_n(&n_waiting, n, __ATOMIC_RELEASE);
}

/* And then this. */
void vx_wait_more(const uint8_t *records, size_t n)
{
    memcpy(waiting + n_waiting, records, n);
    __atomic_store_n(&n_waiting, n_waiting + n, __ATOMIC_RELEASE);
}

int vx_is_taken(void) { return __atomic_load_n(&at_waiting, __ATOMIC_ACQUIRE) == n_waiting; }

static uint32_t segment_of(struct msghdr *msg)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c))
        if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_SEGMENT_OPTION) {
            uint16_t size;
            memcpy(&size, CMSG_DATA(c), sizeof size);
            return size;
        }
    return 0;
}

static uint32_t length_of(const struct msghdr *msg)
{
    size_t n = 0;
    for (size_t i = 0; i < msg->msg_iovlen; i++)
        n += msg->msg_iov[i].iov_len;
    return (uint32_t)n;
}

static int is_superframe(const struct msghdr *msg)
{
    return msg->msg_iovlen > 1 && msg->msg_iov[0].iov_len == VNET_LEN && ((uint8_t *)msg->msg_iov[0].iov_base)[1];
}

static int refusal_of(struct msghdr *msg)
{
    uint32_t size = segment_of(msg);
    if (size && refused_runs && (!mtu || size > mtu))
        return refused_runs;
    if (refused_superframes && is_superframe(msg))
        return refused_superframes;
    return mtu && !size && length_of(msg) > mtu ? EMSGSIZE : 0;
}

static void put(const void *bytes, size_t n)
{
    if (n_kept + n > sizeof kept)
        abort();
    memcpy(kept + n_kept, bytes, n);
    n_kept += n;
}

static void keep(int fd, struct msghdr *msg)
{
    uint32_t head[3] = {(uint32_t)fd, segment_of(msg), length_of(msg)};
    put(head, sizeof head);
    for (size_t i = 0; i < msg->msg_iovlen; i++)
        put(msg->msg_iov[i].iov_base, msg->msg_iov[i].iov_len);
}

static int fail(int error)
{
    errno = error;
    return -1;
}

/* How many of the messages are taken; or -1. */
static int taken(struct mmsghdr *msgs, unsigned n)
{
    int step = at_step < n_steps ? steps[at_step++] : 0;
    unsigned most = step > 0 ? (unsigned)step : at_most ? at_most : n;
    n_calls++;
    if (step < 0)
        return fail(-step);
    if (refusal_of(&msgs[0].msg_hdr))
        return fail(refusal_of(&msgs[0].msg_hdr));
    for (unsigned i = 0; i < n && i < most; i++)
        if (refusal_of(&msgs[i].msg_hdr))
            return (int)i;
    return (int)(n < most ? n : most);
}

int sendmmsg(int fd, struct mmsghdr *msgs, unsigned n, int flags)
{
    int (*real)(int, struct mmsghdr *, unsigned, int) = dlsym(RTLD_NEXT, "sendmmsg");
    int most = taken(msgs, n);
    if (most < 0 || !keeping)
        return most < 0 ? most : real(fd, msgs, (unsigned)most, flags);
    for (int i = 0; i < most; i++)
        keep(fd, &msgs[i].msg_hdr);
    return most;
}

ssize_t sendmsg(int fd, const struct msghdr *msg, int flags)
{
    ssize_t (*real)(int, const struct msghdr *, int) = dlsym(RTLD_NEXT, "sendmsg");
    struct mmsghdr one = {*msg, 0};
    if (taken(&one, 1) < 0)
        return -1;
    if (!keeping)
        return real(fd, msg, flags);
    keep(fd, &one.msg_hdr);
    return length_of(msg);
}

static void give(struct mmsghdr *m)
{
    uint32_t head[2];
    int size;
    struct msghdr *msg = &m->msg_hdr;
    struct cmsghdr *c = msg->msg_control;
    memcpy(head, waiting + at_waiting, sizeof head);
    memcpy(msg->msg_iov[0].iov_base, waiting + at_waiting + sizeof head, head[0]);
    memset(msg->msg_name, 0, msg->msg_namelen);
    ((struct sockaddr *)msg->msg_name)->sa_family = AF_INET;
    m->msg_len = head[0];
    size = (int)head[1];
    c->cmsg_level = IPPROTO_UDP, c->cmsg_type = UDP_GRO_OPTION, c->cmsg_len = CMSG_LEN(sizeof size);
    memcpy(CMSG_DATA(c), &size, sizeof size);
    msg->msg_controllen = size ? CMSG_SPACE(sizeof size) : 0;
    __atomic_store_n(&at_waiting, at_waiting + sizeof head + head[0], __ATOMIC_RELEASE);
}

int recvmmsg(int fd, struct mmsghdr *msgs, unsigned n, int flags, struct timespec *timeout)
{
    int (*real)(int, struct mmsghdr *, unsigned, int, struct timespec *) = dlsym(RTLD_NEXT, "recvmmsg");
    unsigned i = 0;
    if (!keeping)
        return real(fd, msgs, n, flags, timeout);
    while (i < n && at_waiting < __atomic_load_n(&n_waiting, __ATOMIC_ACQUIRE))
        give(&msgs[i++]);
    return i ? (int)i : fail(EAGAIN);
}

/* An empty message to nobody is AF_XDP's way to say that there are packets in the ring. */
ssize_t sendto(int fd, const void *data, size_t n, int flags, const struct sockaddr *name, socklen_t length)
{
    static ssize_t (*real)(int, const void *, size_t, int, const struct sockaddr *, socklen_t);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "sendto");
    if (refused_wakeups && !data && !n && (!wakeups || n_wakeups++ % (wakeups + 1)))
        return fail(refused_wakeups);
    return real(fd, data, n, flags, name, length);
}
