/* Packet sockets (packet(7)): what a slot of a TPACKET_V2 ring says. */
#ifndef VX_PACKET_H
#define VX_PACKET_H

#include <assert.h>
#include <linux/if_packet.h>
#include <stddef.h>
#include <stdint.h>

/* The part of a slot's header that is read after its status. */
static_assert(offsetof(struct tpacket2_hdr, tp_status) == 0, "a slot starts with its status");
static_assert(sizeof(((struct tpacket2_hdr *)0)->tp_status) == 4, "the status is one word");

#endif
