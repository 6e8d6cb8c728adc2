"""What is to be sent: streams by VNI, host and flow, their addresses, the sizes of their frames, the pace.

Place in the house: the ground of the generator; knows no sockets. All of it follows from the settings and a
seed: two plans with the same have the same frames, so that what one side sends to, the other side knows.
"""

from __future__ import annotations

import os
import random
import re
import time
from contextlib import ExitStack
from ipaddress import IPv4Address
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vxcore import wire
from vxcore._fast.codec import Tunnel
from vxcore._fast.generator import Generator
from vxcore.addresses import AddressError, IPAddress, VniRange, parse_mac, parse_prefix
from vxcore.capture.source import open_capture
from vxcore.errors import CaptureError, ConfigError

SMALLEST, LARGEST = 64, 9216
"""Bytes of a frame, without its check sequence: the stamp must have room; the rest is memory."""

IMIX = (64, 590, 64, 64, 590, 64, 1514, 64, 590, 64, 590, 64)
"""Seven of 64, four of 590 and one of 1514 bytes, as TRex's imix profile has them, whose 60 leave no room
for a stamp; with the check sequence of Ethernet they are 64, 594 and 1518."""

MAX_STREAMS = 1 << 20
MAX_FLOWS = 1 << 15
MAX_VTEPS = 1 << 16
MAX_SIZES = 1 << 20
MAX_WAYS = 1 << 18
CLOCKS = {"monotonic": time.CLOCK_MONOTONIC, "realtime": time.CLOCK_REALTIME}

_HEAD_LEN = 50
_MAGIC = 0x7658  # stamp.pxd
_SOURCE_PORT, _DISCARD = 1024, 9  # RFC 863: nobody answers there
_FIRST_HOST = int(IPv4Address("10.0.0.1"))
_SINK_HOST = int(IPv4Address("10.255.255.254"))
_SINK = 0xFFFFFFFF
_SPREAD, _STEP = 0x9E3779B1, 0x85EBCA6B  # odd, so that multiplying by them is one to one modulo 2^32
_RATE = re.compile(r"(\d+(?:\.\d+)?)([kMG]?)(bit)?")
_SCALE = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


class Rate:
    """A pace, as text: packets in a second (``10k``, ``1.5M``), bits (``100Mbit``), or ``max``.

    ``value`` is the number, 0 for ``max``; ``bits`` says of what. Raises ConfigError for other text.
    """

    def __init__(self, text: str = "max") -> None:
        match = _RATE.fullmatch(text)
        self.value, self.bits = 0.0, bool(match and match[3])
        if match:
            self.value = float(match[1]) * _SCALE[match[2]]
        if text != "max" and not self.value > 0:
            raise ConfigError(
                f'rate {text}: packets in a second such as 10k, bits such as 100Mbit, or "max" for no limit'
            )


class Plan:
    """The streams of a run: `flows` of each of the `macs` hosts in each VNI.

    `vnis` is text such as ``42,100-199``; `size` a number of bytes, ``imix``, or the name of a capture file
    whose lengths are taken in turn; both may be numbers, too. The hosts send to one sink in their VNI, whose
    MAC address is `to_mac` if given; with `reverse` it sends to them. Addresses follow from `seed`, the VNI
    and the host's number alone. `run` tells a receiver this run from another; by default it is a random
    number. `most` is the largest frame that has a way; those of a mix that are larger are cut to it. Host m
    is behind VTEP m modulo their number.

    Raises ConfigError, OSError and CaptureError.
    """

    def __init__(
        self,
        *,
        vnis: str | int = 0,
        macs: int = 1,
        flows: int = 1,
        size: str | int = SMALLEST,
        seed: int = 0,
        reverse: bool = False,
        to_mac: str | None = None,
        run: int | None = None,
        most: int = LARGEST,
    ) -> None:
        _check("macs", macs, 1, MAX_STREAMS)
        _check("flows", flows, 1, MAX_FLOWS)
        if most < SMALLEST:
            raise ConfigError(
                f"size {size}: the way takes frames of up to {most} bytes; {SMALLEST} are needed"
            )
        self.vnis, self.macs, self.flows = parse_vnis(str(vnis)), macs, flows
        self.sizes = parse_sizes(str(size), most)
        self.seed, self.reverse = seed, reverse
        self._sink = None if to_mac is None else _mac(to_mac)
        self.run = random.SystemRandom().randrange(1 << 16) if run is None else run
        _check("run", self.run, 0, 0xFFFF)
        if self.n_streams > MAX_STREAMS:
            raise ConfigError(
                f"flows {flows}: with {len(self.vnis)} VNIs and {macs} hosts in each that is"
                f" {self.n_streams} streams; at most {MAX_STREAMS}"
            )

    @property
    def n_streams(self) -> int:
        """How many there are."""
        return len(self.vnis) * self.macs * self.flows

    def hosts(self, vni: int) -> list[bytes]:
        """The MAC addresses of a VNI's hosts, in order."""
        numbers = _host_numbers(np.arange(self.macs, dtype=np.uint64), vni, self.seed)
        return [bytes(row) for row in _mac_rows(numbers, self.seed)]

    def sink_of(self, vni: int) -> bytes:
        """The MAC address of a VNI's sink."""
        if self._sink is not None:
            return self._sink
        number = _host_numbers(np.array([_SINK], np.uint64), vni, self.seed)
        return bytes(_mac_rows(number, self.seed)[0])

    def heads(self) -> NDArray[np.uint8]:
        """Of each stream the headers, and the stamp up to the sequence number: uint8 (n, 50)."""
        heads = np.zeros((len(self.vnis), self.macs, self.flows, _HEAD_LEN), np.uint8)
        heads[..., 12:14], heads[..., 14], heads[..., 20] = (8, 0), 0x45, 0x40  # IPv4; do not fragment
        heads[..., 22], heads[..., 23] = 64, 17
        for n, vni in enumerate(self.vnis):
            self._put_addresses(heads[n], vni)
        heads[..., 34:36], heads[..., 37] = _bytes_of(_SOURCE_PORT + np.arange(self.flows), ">u2"), _DISCARD
        rows = heads.reshape(self.n_streams, _HEAD_LEN)
        rows[:, 42:44], rows[:, 44:46] = tuple(_MAGIC.to_bytes(2)), tuple(self.run.to_bytes(2))
        rows[:, 46:50] = _bytes_of(np.arange(self.n_streams), ">u4")
        return rows

    def _put_addresses(self, heads: NDArray[np.uint8], vni: int) -> None:
        """Of one VNI's streams, (macs, flows, 50)."""
        index = np.arange(self.macs, dtype=np.uint64)
        macs = _mac_rows(_host_numbers(index, vni, self.seed), self.seed)
        ips = _bytes_of(_FIRST_HOST + index.astype(np.int64), ">u4")
        sink_mac, sink_ip = tuple(self.sink_of(vni)), tuple(_SINK_HOST.to_bytes(4))
        host, sink = (slice(0, 6), slice(6, 12)) if self.reverse else (slice(6, 12), slice(0, 6))
        heads[..., host], heads[..., sink] = macs[:, None, :], sink_mac
        host, sink = (slice(30, 34), slice(26, 30)) if self.reverse else (slice(26, 30), slice(30, 34))
        heads[..., host], heads[..., sink] = ips[:, None, :], sink_ip

    def ways(self, n_vteps: int) -> NDArray[np.uint32]:
        """By which of `n_vteps` tunnels each stream goes, and in which VNI, as a Generator has it."""
        vni, host, _ = np.indices((len(self.vnis), self.macs, self.flows))
        ways: NDArray[np.uint32] = ((host % n_vteps) * len(self.vnis) + vni).reshape(-1).astype(np.uint32)
        return ways

    def generator(self, tunnels: list[Tunnel] | None = None, clock: str = "monotonic") -> Generator:
        """What makes the frames; with `tunnels`, one for each VTEP, packets too. Their VNI is the plan's.

        Raises ConfigError for too many tunnels in too many VNIs.
        """
        if not tunnels:
            return Generator(self.heads(), self.sizes, clock=CLOCKS[clock])
        if len(tunnels) * len(self.vnis) > MAX_WAYS:
            raise ConfigError(
                f"vnis: {len(self.vnis)} of them with {len(tunnels)} VTEPs are"
                f" {len(tunnels) * len(self.vnis)} pairs; at most {MAX_WAYS}"
            )
        return Generator(
            *(self.heads(), self.sizes),
            tunnels=tunnels,
            vnis=np.array(self.vnis, np.uint32),
            ways=self.ways(len(tunnels)),
            clock=CLOCKS[clock],
        )


def _check(key: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ConfigError(f"{key} {value}: an integer from {least} to {most}")


def _mac(text: str) -> bytes:
    try:
        return parse_mac(text)
    except AddressError as error:
        raise ConfigError(f"to-mac {error}") from None


def _host_numbers(index: NDArray[np.uint64], vni: int, seed: int) -> NDArray[np.uint64]:
    """32 bits for each host: no two hosts of a VNI have the same."""
    mixed = (index + np.uint64(vni * _SPREAD % 2**32)) * np.uint64(_STEP) & np.uint64(0xFFFFFFFF)
    return mixed ^ np.uint64(wire.mix(seed & 0xFFFF_FFFF_FFFF_FFFF ^ wire.K1, wire.K0) & 0xFFFFFFFF)


def _mac_rows(numbers: NDArray[np.uint64], seed: int) -> NDArray[np.uint8]:
    """Unicast addresses that are locally administered: 02, eight bits of the seed, the number."""
    return _bytes_of(np.uint64(0x02 << 40 | (seed & 0xFF) << 32) | numbers, ">u8")[:, 2:]


def _bytes_of(numbers: NDArray[Any], kind: str) -> NDArray[np.uint8]:
    wide = np.ascontiguousarray(numbers.astype(kind))
    return wide.view(np.uint8).reshape(*numbers.shape, wide.itemsize)


# From text


def parse_vnis(text: str) -> list[int]:
    """``42,100-199`` as numbers, in that order; raises ConfigError, also for one that comes twice."""
    vnis: list[int] = []
    for part in text.split(","):
        try:
            first, last = VniRange(part.strip()).ends
        except AddressError as error:
            raise ConfigError(f"vnis {error}") from None
        vnis += range(first, last + 1)
        if len(vnis) > MAX_STREAMS:
            raise ConfigError(f"vnis {text}: at most {MAX_STREAMS}")
    if len(set(vnis)) < len(vnis):
        raise ConfigError(f"vnis {text}: a VNI comes twice; once is right")
    return vnis


def parse_sizes(text: str, most: int = LARGEST) -> NDArray[np.uint32]:
    """The lengths of frames, in turn: of one size, of the mix, or of a capture's packets."""
    if text.isdecimal():
        if not SMALLEST <= int(text) <= most:
            raise ConfigError(f"size {text}: from {SMALLEST} to {most} bytes have a way")
        return np.array([int(text)], np.uint32)
    lengths = np.array(IMIX) if text == "imix" else _lengths_in(text)
    return np.clip(lengths, SMALLEST, most).astype(np.uint32)


def _lengths_in(name: str) -> NDArray[np.int64]:
    if not os.path.exists(name) and not re.search(r"[./]", name):  # noqa: PTH110
        raise ConfigError(
            f'size {name}: a number of bytes from {SMALLEST} to {LARGEST}, "imix", or a capture file'
        )
    lengths: list[NDArray[np.uint32]] = []
    with ExitStack() as stack:
        capture = open_capture(name, stack)
        while sum(map(len, lengths)) < MAX_SIZES and capture.reader.read():
            lengths.append(capture.reader.original_len.copy())
        if capture.problem is not None:
            raise CaptureError(f"{name}: {capture.problem}")
    if not lengths:
        raise CaptureError(f"{name}: no packets")
    return np.concatenate(lengths)[:MAX_SIZES].astype(np.int64)


def parse_vteps(text: str) -> list[IPAddress]:
    """The addresses of hosts in an IP prefix; a prefix of one address is that. Raises ConfigError."""
    try:
        network = parse_prefix(text)
    except AddressError as error:
        raise ConfigError(f"source-vteps {error}") from None
    if network.num_addresses > MAX_VTEPS:
        raise ConfigError(f"source-vteps {text}: at most {MAX_VTEPS} addresses")
    if network.is_multicast or network.is_unspecified:
        raise ConfigError(f"source-vteps {text}: no addresses of hosts")
    return list(network.hosts())
