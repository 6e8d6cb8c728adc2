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

/* One int-sized control message takes 24 bytes on 64-bit Linux; two are sent, up to two received. */
#define VX_CONTROL_LEN 64

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

/* Append one int to a message's control data, for which VX_CONTROL_LEN bytes are there. */
static inline void vx_put_control(struct msghdr *msg, void *control, int level, int type, int value)
{
    struct cmsghdr *c = (struct cmsghdr *)((char *)control + msg->msg_controllen);
    msg->msg_control = control;
    c->cmsg_level = level;
    c->cmsg_type = type;
    c->cmsg_len = CMSG_LEN(sizeof value);
    memcpy(CMSG_DATA(c), &value, sizeof value);
    msg->msg_controllen += CMSG_SPACE(sizeof value);
}

#endif
