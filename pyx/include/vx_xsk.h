/* AF_XDP sockets (linux/if_xdp.h, Linux 5.4 for all that is used) and the bpf system call. */
#ifndef VX_XSK_H
#define VX_XSK_H

#include <assert.h>
#include <linux/if_xdp.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef AF_XDP
#define AF_XDP 44
#endif
#ifndef SOL_XDP
#define SOL_XDP 283
#endif
#ifndef XDP_USE_SG /* Linux 6.6: packets larger than a chunk, in several */
#define XDP_USE_SG (1 << 4)
#define XDP_PKT_CONTD (1 << 0)
#endif
#ifndef XDP_MAX_TX_SKB_BUDGET /* Linux 6.17 */
#define XDP_MAX_TX_SKB_BUDGET 9
#endif

static_assert(sizeof(struct xdp_desc) == 16, "an entry of the rings of packets");

/* bpf(2), for which the C library has no function; `attributes` is a union bpf_attr or the start of one. */
static inline long vx_bpf(int command, void *attributes, unsigned int length)
{
    return syscall(SYS_bpf, command, attributes, length);
}

#endif
