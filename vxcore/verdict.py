"""What became of a packet: the one list of verdicts.

Place in the house: known by everyone, knows nobody. setup.py writes the C names of this list into
``pyx/vxcore/_fast/verdict.pxd`` at build time, so the compiled code, the counters, the messages and
the documentation share it (docs/verdicts.md is written from it by ``make docs``). A new verdict is a
new line here and nothing else.
"""

from __future__ import annotations

from enum import IntEnum, unique
from typing import Self


@unique
class Verdict(IntEnum):
    """One packet's outcome; the value is the uint8 in ``PacketBatch.verdict``.

    ``DELIVERED`` (0) is the only success. ``verdict.text`` says the same in words, and
    ``verdict.remedy`` what to do about it.
    """

    text: str
    remedy: str

    @property
    def label(self) -> str:
        """The name as counters, metrics and tables of drops have it: ``unknown_vni``."""
        return self.name.lower()

    def __new__(cls, value: int, text: str = "", remedy: str = "") -> Self:
        member = int.__new__(cls, value)
        member._value_ = value
        member.text = text
        member.remedy = remedy
        return member

    DELIVERED = 0, "handed on", "nothing"

    # The packet in memory
    BAD_SLOT = (
        1,
        "offset or length leaves the packet's slot in the batch",
        "correct the caller: it wrote `offset` or `length` of the batch, and only a packet within its slot"
        " is touched",
    )
    NO_HEADROOM = (
        2,
        "too little headroom in front of the frame for the outer headers",
        "make the batch with the default headroom, and do not move `offset` towards the slot's start before"
        " encapsulating",
    )
    BAD_TUNNEL = (
        3,
        "the tunnel index names no tunnel",
        "keep `index` below the number of tunnels in the TunnelSet",
    )

    # Outer headers, from the outside in
    TRUNCATED = (
        4,
        "the packet ends before its headers do",
        "capture with a larger snap length (`tcpdump -s 0`); on the wire, look for a broken sender",
    )
    NOT_IP = (
        5,
        "the outer frame carries neither IPv4 nor IPv6",
        "nothing for ARP and the like; for packets without an Ethernet header, decapsulate with layer IP",
    )
    BAD_IP_HEADER = (
        6,
        "the outer IP header contradicts itself (version, header length, total length)",
        "check that `layer` says where the packets start; otherwise the packet is broken or forged",
    )
    IP_CHECKSUM = (
        7,
        "the outer IPv4 header checksum is wrong",
        'captured on the sending host, where the NIC fills it in later: use `udp_checksum="ignore"`;'
        " received from a network: look for faulty hardware",
    )
    FRAGMENT = (
        8,
        "the outer packet is an IP fragment (RFC 7348 section 4.3)",
        "raise the underlay's MTU, or lower the overlay's to the underlay's less 50 bytes (70 over IPv6)",
    )
    NOT_UDP = (9, "the outer packet is not UDP", "nothing: it is other traffic")
    OTHER_PORT = (
        10,
        "the UDP destination port is not one of ours",
        "name the port if it carries VXLAN: 8472 is old Linux's and flannel's, 4790 VXLAN-GPE's",
    )
    BAD_UDP_LENGTH = (
        11,
        "the UDP length disagrees with the IP length",
        "look for a broken sender or a tunnel-offload packet captured before it was segmented",
    )
    UDP_CHECKSUM = (
        12,
        "the UDP checksum is wrong",
        'captured on the sending host, where the NIC fills it in later: use `udp_checksum="ignore"`;'
        " received from a network: look for faulty hardware or a middlebox that rewrites addresses",
    )
    ZERO_CHECKSUM = (
        13,
        "the UDP checksum is zero where it is required (RFC 6935 on IPv6)",
        "let the sender compute it, or accept zero on this port if the underlay is trusted:"
        ' `zero_checksum6="accept"`',
    )

    # The VXLAN header
    NO_VNI_FLAG = (
        14,
        "the I flag is not set, so there is no valid VNI (RFC 7348 section 5)",
        "find out what else is sent to this UDP port",
    )
    RESERVED_BITS = (
        15,
        "a reserved bit is set and the policy is strict",
        'use `reserved="ignore"`, as RFC 7348 asks, or switch on the extension that the sender uses: `gbp`'
        " or `gpe`",
    )
    GPE_VERSION = (16, "a VXLAN-GPE version other than 0", "nothing: no such version has been defined")
    GPE_OAM = (17, "a VXLAN-GPE OAM packet", "nothing: it is between the sender and its own operators")
    GPE_PROTOCOL = (
        18,
        "a VXLAN-GPE next protocol other than IPv4, IPv6 and Ethernet",
        "let the sender carry one of these; NSH and others are not understood",
    )

    # The inner frame
    INNER_TOO_SHORT = (
        19,
        "the inner frame is shorter than an Ethernet header",
        "give whole frames; on the wire, look for a broken or hostile sender",
    )
    INNER_VLAN = (
        20,
        "the inner frame carries a VLAN tag and the policy is to drop it",
        'use `inner_vlan="strip"` or `"pass"`, or a VlanMap, if tags are meant to enter the segment'
        " (RFC 7348 section 6.1)",
    )
    ECN = (
        21,
        "congestion was marked on the way but the inner packet cannot carry it (RFC 6040)",
        'let endpoints use ECN, or the underlay not mark packets that cannot; `ecn="ignore"` delivers them'
        " and hides the congestion",
    )

    # The tables
    UNKNOWN_VNI = (
        22,
        "no segment here has this VNI",
        "configure the segment here, or take this VTEP out of the sender's flood set",
    )
    SOURCE_REFUSED = (
        23,
        "the outer source is not a known peer of the segment",
        "add the address to the segment's remotes if it is a peer; otherwise somebody sends who should not",
    )
    NO_REMOTE = (
        24,
        "no remote to send to: unknown destination and an empty flood set",
        "give the segment a remote or a static FDB entry",
    )

    # The ports
    TOO_BIG = (
        25,
        "the packet is larger than the underlay, or an IP packet, can carry",
        "lower the overlay's MTU, or raise the underlay's",
    )
    UNDERLAY_FULL = (
        26,
        "the underlay's send queue stayed full, or the kernel had no memory",
        "more is sent than the underlay carries: shape the senders, or raise net.core.wmem_max; look at"
        " `free -m`",
    )
    UNDERLAY_REFUSED = (
        27,
        "the kernel refused to send it on the underlay",
        "look for a missing route, a firewall rule or an interface that is down",
    )
    OVERLAY_FULL = (
        28,
        "the overlay port took no more, or the kernel had no memory",
        "its reader is too slow: raise the device's txqueuelen, or give the host more time; look at"
        " `free -m`",
    )
    OVERLAY_DOWN = (29, "the overlay port is down", "set the device up: `ip link set DEVICE up`")
    OVERLAY_REFUSED = (
        30,
        "the overlay port refused the frame",
        "compare the device's MTU with the frames' size",
    )
    UNDERLAY_OVERRUN = (
        31,
        "the kernel dropped it because our receive queue on the underlay was full",
        "raise net.core.rmem_max, or give vxcore more of the processor",
    )
    OVERLAY_OVERRUN = (
        32,
        "the kernel dropped it because the overlay port's queue towards us was full",
        "raise a TAP's txqueuelen, or give vxcore more of the processor",
    )

    # The gateway between VLANs and segments
    UNKNOWN_VLAN = (
        33,
        "no segment of the trunk, or VNI of the VLAN map, is for this VLAN, or for frames without a tag",
        "give a segment this `vlan`, or add it to the VlanMap (VLAN 0 for frames without a tag), or keep it"
        " off the trunk",
    )

    # Offloads
    BAD_OFFLOAD = (
        34,
        "a super-frame or partial checksum whose virtio-net header contradicts its headers",
        "look for the sender behind the overlay port that writes such headers; --no-offload tap_tso does"
        " without them",
    )

    # The capture file
    LINK_TYPE = (
        35,
        "the capture's link type is not one that we can read",
        "capture on an Ethernet, cooked or raw IP device, or convert the file",
    )
    NO_NEXT_HOP = (
        36,
        "the link address on the way to the remote is not known (yet)",
        "nothing for the first packets; otherwise look at `ip route get REMOTE` and `ip neighbour`",
    )

    # Policies of a segment
    VNI_REFUSED = (
        37,
        "the remote may not speak in this segment: its VNI is not on the remote's list",
        "add the VNI to `vnis` of the remote if it belongs there; otherwise somebody sends who should not",
    )
    FLOOD_REFUSED = (
        38,
        "the segment does not flood frames of this kind (broadcast, multicast or unknown unicast)",
        "nothing if that is meant; otherwise give the address a static FDB entry, or let the segment flood",
    )
    RATE_LIMIT = (
        39,
        "more broadcast, multicast or unknown unicast frames than the segment may flood",
        "look for a loop or a host that scans; otherwise raise the segment's rate",
    )
    ANSWERED = (
        40,
        "a request for a neighbour's link address, answered here from what is known",
        "nothing: that is what the neighbours of a segment are for",
    )

    # The collector
    NOT_WRITTEN = (
        41,
        "the capture file could not be written: the disk is full, or it failed",
        "make room, or keep fewer files (`--keep`); the log names the error, and a new file is begun when it"
        " can be",
    )
    RECEIVE_ONLY = (
        42,
        "a collector sends nothing, and this came from its port",
        "nothing; a device that nobody else sends to, without addresses, spares the work",
    )

    # Hosts behind our own ports
    SAME_PORT = (
        43,
        "the destination is behind the port that the frame came from",
        "nothing: who is there has it already",
    )
    LOOP = (
        44,
        "a loop seems to bring it round: it is for many and came too often, or its source is here and"
        " elsewhere by turns",
        "look for a second way between the hosts of this segment, such as another VTEP's device in the same"
        " bridge; or for two hosts with one MAC address. It passes within `tables.moves_window` of the cause",
    )

    # The UDP port of a segment
    WRONG_PORT = (
        45,
        "the packet came to one of our UDP ports, but not to its segment's",
        "let the sender use the segment's `dstport`, or give the segment the sender's",
    )

    # Unknown addresses that Python is asked for
    ASKED = (
        46,
        "nobody said in time where the address is (event `miss`), or too many frames waited for that",
        "set an FDB entry when the event comes; `hold` lets frames wait for it",
    )

    # The tunnel itself
    TUNNEL_LOOP = (
        47,
        "a packet of this VTEP's own came back from an overlay port: its route leads into the tunnel",
        "route the remotes by a device of the underlay: `ip route get REMOTE`",
    )
