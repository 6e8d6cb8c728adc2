"""What became of a packet: the one list of verdicts.

Place in the house: known by everyone, knows nobody. setup.py writes the C names of this list into
``pyx/vxcore/_fast/verdict.pxd`` at build time, so the compiled code, the counters, the messages and
the documentation share it. A new verdict is a new line here and nothing else.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Self


class Verdict(IntEnum):
    """One packet's outcome; the value is the uint8 in ``PacketBatch.verdict``.

    ``DELIVERED`` (0) is the only success. ``verdict.text`` says the same in words.
    """

    text: str

    def __new__(cls, value: int, text: str = "") -> Self:
        member = int.__new__(cls, value)
        member._value_ = value
        member.text = text
        return member

    DELIVERED = 0, "handed on"

    # The packet in memory
    BAD_SLOT = 1, "offset or length leaves the packet's slot in the batch"
    NO_HEADROOM = 2, "too little headroom in front of the frame for the outer headers"
    BAD_TUNNEL = 3, "the tunnel index names no tunnel"

    # Outer headers, from the outside in
    TRUNCATED = 4, "the packet ends before its headers do"
    NOT_IP = 5, "the outer frame carries neither IPv4 nor IPv6"
    BAD_IP_HEADER = 6, "the outer IP header contradicts itself (version, header length, total length)"
    IP_CHECKSUM = 7, "the outer IPv4 header checksum is wrong"
    FRAGMENT = 8, "the outer packet is an IP fragment (RFC 7348 section 4.3)"
    NOT_UDP = 9, "the outer packet is not UDP"
    OTHER_PORT = 10, "the UDP destination port is not one of ours"
    BAD_UDP_LENGTH = 11, "the UDP length disagrees with the IP length"
    UDP_CHECKSUM = 12, "the UDP checksum is wrong"
    ZERO_CHECKSUM = 13, "the UDP checksum is zero where it is required (RFC 6935 on IPv6)"

    # The VXLAN header
    NO_VNI_FLAG = 14, "the I flag is not set, so there is no valid VNI (RFC 7348 section 5)"
    RESERVED_BITS = 15, "a reserved bit is set and the policy is strict"
    GPE_VERSION = 16, "a VXLAN-GPE version other than 0"
    GPE_OAM = 17, "a VXLAN-GPE OAM packet"
    GPE_PROTOCOL = 18, "a VXLAN-GPE next protocol other than IPv4, IPv6 and Ethernet"

    # The inner frame
    INNER_TOO_SHORT = 19, "the inner frame is shorter than an Ethernet header"
    INNER_VLAN = 20, "the inner frame carries a VLAN tag and the policy is to drop it"
    ECN = 21, "congestion was marked on the way but the inner packet cannot carry it (RFC 6040)"

    # The tables
    UNKNOWN_VNI = 22, "no segment here has this VNI"
    SOURCE_REFUSED = 23, "the outer source is not a known peer of the segment"
    NO_REMOTE = 24, "no remote to send to: unknown destination and an empty flood set"

    # The ports
    TOO_BIG = 25, "the packet is larger than the underlay, or an IP packet, can carry"
    UNDERLAY_FULL = 26, "the underlay's send queue stayed full"
    UNDERLAY_REFUSED = 27, "the kernel refused to send it on the underlay"
    OVERLAY_FULL = 28, "the overlay port took no more"
    OVERLAY_DOWN = 29, "the overlay port is down"
    OVERLAY_REFUSED = 30, "the overlay port refused the frame"
    UNDERLAY_OVERRUN = 31, "the kernel dropped it because our receive queue on the underlay was full"
    OVERLAY_OVERRUN = 32, "the kernel dropped it because the TAP's queue towards us was full"
    BAD_OFFLOAD = 33, "a super-frame or partial checksum whose virtio-net header contradicts its headers"
