/* Control messages, which only C's macros can walk, and the constants that Cython's libc lacks. */
#ifndef VX_NET_H
#define VX_NET_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#ifndef UDP_SEGMENT /* linux/udp.h: Linux 4.18 and 5.0 */
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

/* One int-sized control message takes 24 bytes on 64-bit Linux; up to three are sent, two received. */
#define VX_CONTROL_LEN 96

/* The TOS or traffic class that came with a datagram (IP_RECVTOS, IPV6_RECVTCLASS); 0 if none did. */
static inline uint8_t vx_received_tos(struct msghdr *msg)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS)
            return *CMSG_DATA(c);
        if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_TCLASS) {
            int value;
            memcpy(&value, CMSG_DATA(c), sizeof value);
            return (uint8_t)value;
        }
    }
    return 0;
}

/* The size of each of the datagrams that came joined (UDP_GRO); 0 if it was one. */
static inline uint32_t vx_received_step(struct msghdr *msg)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO) {
            int value;
            memcpy(&value, CMSG_DATA(c), sizeof value);
            return value > 0 ? (uint32_t)value : 0;
        }
    }
    return 0;
}

/* Append a value to a message's control data, for which VX_CONTROL_LEN bytes are there. */
static inline void vx_put_bytes(struct msghdr *msg, void *control, int level, int type, const void *value,
                                size_t len)
{
    struct cmsghdr *c = (struct cmsghdr *)((char *)control + msg->msg_controllen);
    msg->msg_control = control;
    c->cmsg_level = level;
    c->cmsg_type = type;
    c->cmsg_len = CMSG_LEN(len);
    memcpy(CMSG_DATA(c), value, len);
    msg->msg_controllen += CMSG_SPACE(len);
}

static inline void vx_put_control(struct msghdr *msg, void *control, int level, int type, int value)
{
    vx_put_bytes(msg, control, level, type, &value, sizeof value);
}

static inline void vx_put_control16(struct msghdr *msg, void *control, int level, int type, uint16_t value)
{
    vx_put_bytes(msg, control, level, type, &value, sizeof value);
}

#endif
