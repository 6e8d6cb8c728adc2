"""Scapy packets in, Scapy packets out: the compiled codec for those who work with Scapy.

Place in the house: beside capture, above the codec; its user imports it, nothing here does. It needs
the extra ``vxcore[scapy]``.

    from scapy.utils import rdpcap
    import vxcore.scapy

    tunnel = vxcore.Tunnel(local="192.0.2.1", remote="192.0.2.2", vni=42)
    outer = vxcore.scapy.encap(rdpcap("inner.pcap"), tunnel).packets
    inner = vxcore.scapy.decap(outer).packets

Time stamps, interface names and comments go along. A bad packet never raises: its verdict says what
is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vxcore._fast import codec
from vxcore._fast.batch import PacketBatch
from vxcore._fast.links import find_ip
from vxcore.errors import MissingExtraError
from vxcore.verdict import Verdict
from vxcore.wire import Layer

try:
    from scapy.config import conf
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import Ether
    from scapy.layers.vxlan import VXLAN
    from scapy.packet import Packet
    from scapy.plist import PacketList
except ImportError as error:
    raise MissingExtraError("vxcore.scapy needs Scapy: `pip install 'vxcore[scapy]'` brings it") from error

_ETHERNET, _UNKNOWN = 1, 65535
_BARE: dict[int, type[Packet]] = {0: Ether, 4: IP, 6: IPv6}


class Result(NamedTuple):
    """What became of packets.

    `verdict` (uint8) and `vni` (uint32) have an element for each that was given; `packets` is what
    came out of those that were delivered, in their order.
    """

    packets: PacketList
    verdict: NDArray[np.uint8]
    vni: NDArray[np.uint32]


class One(NamedTuple):
    """What became of one packet; `packet` is None unless `verdict` is DELIVERED."""

    verdict: Verdict
    packet: Packet | None
    vni: int


def encap(packets: Iterable[Packet], tunnel: codec.Tunnel, layer: Layer | None = None) -> Result:
    """Put `tunnel`'s outer headers in front of Ether frames, from `layer` on (default: all it has).

    Takes a list or PacketList and returns a Result; a packet that starts with another header than
    Ether gets the verdict LINK_TYPE. Raises ValueError for a layer that the tunnel does not have.
    """
    given = list(packets)
    if not given:
        return _nothing()
    batch = PacketBatch.from_frames([bytes(packet) for packet in given])
    batch.verdict[_links(given) != _ETHERNET] = Verdict.LINK_TYPE
    codec.encap(batch, tunnel, layer=layer)
    outer = _outer_class(tunnel, layer)
    return _result(given, batch, [outer] * len(given))


def decap(packets: Iterable[Packet], rules: codec.Rules | None = None) -> Result:
    """Take the outer headers off packets; what is inside are Ether frames (or IP, of VXLAN-GPE).

    Takes a list or PacketList and returns a Result. What a packet starts with says where to begin:
    Ether, a cooked or loopback header, IP, IPv6, or VXLAN as a UDP socket gets it.
    """
    given = list(packets)
    if not given:
        return _nothing()
    batch = PacketBatch.from_frames([bytes(packet) for packet in given])
    payload = np.array([isinstance(packet, VXLAN) for packet in given])
    batch.verdict[payload] = Verdict.LINK_TYPE  # until it is their turn
    find_ip(batch, _links(given))
    codec.decap(batch, rules, Layer.IP)
    if payload.any():
        first = batch.verdict.copy()
        batch.verdict[:] = np.where(payload, Verdict.DELIVERED, Verdict.LINK_TYPE)
        codec.decap(batch, rules, Layer.UDP_PAYLOAD)
        np.copyto(batch.verdict, first, where=~payload)
    return _result(given, batch, [_BARE[int(protocol)] for protocol in batch.protocol])


def encap_packet(packet: Packet, tunnel: codec.Tunnel, layer: Layer | None = None) -> One:
    """`encap` of one packet."""
    return _one(encap([packet], tunnel, layer))


def decap_packet(packet: Packet, rules: codec.Rules | None = None) -> One:
    """`decap` of one packet."""
    return _one(decap([packet], rules))


def _links(packets: list[Packet]) -> NDArray[np.uint16]:
    """The LINKTYPE_ number that Scapy would give each packet in a capture."""
    numbers = conf.l2types.layer2num
    return np.array([numbers.get(type(packet), _UNKNOWN) for packet in packets], np.uint16)


def _outer_class(tunnel: codec.Tunnel, layer: Layer | None) -> type[Packet]:
    if layer == Layer.UDP_PAYLOAD:
        return VXLAN
    if layer != Layer.IP and tunnel.spec.ethernet is not None:
        return Ether
    return IP if tunnel.spec.local.version == 4 else IPv6


def _result(given: list[Packet], batch: PacketBatch, classes: list[type[Packet]]) -> Result:
    delivered = np.flatnonzero(batch.verdict == Verdict.DELIVERED)
    frames = batch.to_frames(Verdict.DELIVERED)
    packets = [_like(given[n], classes[n](frame)) for n, frame in zip(delivered, frames, strict=True)]
    return Result(PacketList(packets), batch.verdict.copy(), batch.vni.copy())


def _like(old: Packet, new: Packet) -> Packet:
    """The new packet, with what is known of the old one."""
    new.time, new.sniffed_on, new.comments = old.time, old.sniffed_on, old.comments
    return new


def _nothing() -> Result:
    return Result(PacketList([]), np.zeros(0, np.uint8), np.zeros(0, np.uint32))


def _one(result: Result) -> One:
    packet = result.packets[0] if len(result.packets) else None
    return One(Verdict(result.verdict[0]), packet, int(result.vni[0]))
