"""Small packets through one VTEP on one core: frames of 64 bytes, from one flow and from a thousand.

Place in the house: above vteps and load, beside tcp and latency, below plan.

Three hosts in a row: `client` -- `vtep` -- `wire`. Encap: the client's generator sends frames into the
VTEP's overlay, and the packets that arrive at `wire` are counted. Decap: the generator is at `wire` and
sends VXLAN packets, and the frames that arrive at the client are counted. All that happens on the host
in the middle, be it a process or the kernel's softirqs, is on one core (its own affinity, and RPS for
what arrives on its devices), and the generator on another, so that the rate is one core's. The sink is
an interface whose kernel drops the packets unseen, for they are addressed to nobody; that too is on the
VTEP's core, and the same for all. Every packet crosses as such: the devices cut super-frames (wire mode).

A VTEP that gets more than it can take spends its core on what it then drops. So several rates are offered,
and the figure is taken where most was forwarded: packets per second of that core's busy time. On a quiet
machine with a generator that is fast enough that is what was forwarded in a second (`forwarded_pps`).
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from ipaddress import ip_address
from typing import NamedTuple

from support.hosts import Host, wait_until

from benchmarks.datapath.load import INNER_LEN, Blast, frames_of, packet_socket
from benchmarks.datapath.scale import Scale
from benchmarks.datapath.topology import Counts, Stage, add_underlay_address, steer
from benchmarks.datapath.vteps import VNI, Access, Kind
from benchmarks.machine import Meter
from benchmarks.results import Cpu, Sample
from vxcore import wire
from vxcore.verdict import Verdict

FLOWS = (1, 1000)
DIRECTIONS = ("encap", "decap")
NEAR, FAR, GATEWAY = "02:00:00:00:00:0c", "02:00:00:00:00:0d", "02:00:00:00:00:0e"
_OUTER_LEN = 50
_TRIES = 5
_LOSSLESS = 0.01
_LEAD_S = 0.05
_VERIFY_RATE = 4000.0
_N_VERIFY = 400
_VERIFY_S = 45.0
_STRAYS = 3
_DRAIN_S = 0.02


class Probe(NamedTuple):
    """What became of packets offered at one rate."""

    offered: float
    forwarded: float
    """Packets in a second."""
    loss: float
    """Share of all that were offered."""
    n_packets: int
    cpu: Cpu
    noise: tuple[str, ...]


class Path:
    """The three hosts, with a VTEP in the middle that is pinned to the last CPU."""

    n_segments = 1
    tag_len = 0
    """What frames that come out carry besides."""

    def __init__(self, stage: Stage, kind: Kind) -> None:
        self.stage = stage
        self.client, self.vtep, self.wire = stage.host(3), stage.host(1), stage.host(2)
        stage.link(self.client, "eth", self.vtep, "acc", "wire")
        stage.link(self.vtep, "eth", self.wire, "eth", "wire")
        add_underlay_address(self.vtep)
        cpus = sorted(os.sched_getaffinity(0))
        self.generator_cpu, self.vtep_cpu = cpus[0], cpus[-1]
        self.pids = kind.up(stage, self.vtep, self.wire, Access("acc", NEAR, FAR, GATEWAY))
        self.kind, self.device = kind, kind.underlay_device()
        neighbour = (self.wire.v4, "lladdr", GATEWAY, "dev", self.device, "nud", "permanent")
        self.vtep.ip("neigh", "replace", *neighbour)
        kind.pin(self.pids, self.vtep_cpu)
        for device in ("acc", "eth"):
            steer(self.vtep, device, self.vtep_cpu)
        self.counts = {
            "encap": stage.counts(self.wire, "eth"),
            "decap": stage.counts(self.client, "eth"),
        }

    def source(self, direction: str) -> Host:
        """Where the generator is."""
        return self.client if direction == "encap" else self.wire

    def sink(self, direction: str) -> Host:
        """Where packets are counted."""
        return self.wire if direction == "encap" else self.client

    def packets(self, direction: str, n_flows: int) -> list[bytes]:
        """What the generator sends."""
        if direction == "encap":
            return frames_of(n_flows, (FAR, NEAR))
        tunnel = wire.TunnelSpec(
            local=ip_address(self.kind.address(self.wire)),
            remote=ip_address(self.kind.address(self.vtep)),
            vni=VNI,
            ethernet=tuple(bytes.fromhex(mac.replace(":", "")) for mac in (self._mac(), GATEWAY)),  # type: ignore[arg-type]
        )
        return [wire.encapsulate(frame, tunnel)[1] for frame in frames_of(n_flows, (NEAR, FAR))]

    def _mac(self) -> str:
        return self.vtep.mac(self.device)


@dataclass(frozen=True)
class SmallPackets:
    """Through one VTEP of a kind, in both directions."""

    kind: Kind

    @property
    def names(self) -> list[str]:
        """What it measures."""
        return [f"pps/{way}/{n}/{self.kind.name}" for way in DIRECTIONS for n in FLOWS]

    def measure(self, wanted: list[str], scale: Scale) -> dict[str, tuple[Sample, str]]:
        """A sample of each name that is wanted, and what was verified; all over one set-up."""
        samples = {}
        with Stage() as stage:
            path = Path(stage, self.kind)
            for name in wanted:
                _, direction, n_flows, _ = name.split("/")
                packets = path.packets(direction, int(n_flows))
                verified = verify(path, direction, packets)
                samples[name] = (search(path, direction, packets, scale), verified)
        return samples


def verify(path: Path, direction: str, packets: list[bytes]) -> str:
    """Send slowly, take in what comes out, and compare it with what should; this warms up too."""
    expected = {_frame_of(packet, direction == "decap", path.n_segments) for packet in packets}
    source = path.source(direction)
    with (
        packet_socket(path.sink(direction), "eth") as sock,
        Blast(source, "eth", packets, path.generator_cpu, _VERIFY_RATE),
    ):
        missing, n_alike = _compared(sock, direction == "encap", path.n_segments, expected)
    assert not missing, f"{direction}: {len(missing)} of {len(packets)} frames did not come out unchanged"
    return f"{n_alike} frames of {len(expected)} flows alike"


def _compared(
    sock: socket.socket, is_outer: bool, n_segments: int, expected: set[bytes]
) -> tuple[set[bytes], int]:
    """Which of the frames did not come, and how many did."""
    missing, n_alike = set(expected), 0
    sock.settimeout(1.0)
    deadline = time.monotonic() + _VERIFY_S
    while (missing or n_alike < _N_VERIFY) and time.monotonic() < deadline:
        try:
            packet, sender = sock.recvfrom(2048)
        except TimeoutError:
            continue  # whoever sends or forwards waits for a processor
        if sender[2] != socket.PACKET_OUTGOING:
            frame = _frame_of(packet, is_outer, n_segments)
            n_alike += frame in expected
            missing.discard(frame)
    return missing, n_alike


def _frame_of(packet: bytes, is_outer: bool, n_segments: int) -> bytes:
    """The inner frame; of anything but a packet of our segments, nothing."""
    if not is_outer:
        return packet
    rules = wire.DecapRules(udp_checksum="ignore")
    inner = wire.decapsulate(packet, rules)
    is_ours = inner.verdict == Verdict.DELIVERED and VNI <= inner.vni < VNI + n_segments
    return inner.frame if is_ours else b""


def search(path: Path, direction: str, packets: list[bytes], scale: Scale) -> Sample:
    """Find the rate at which most is forwarded, and measure there."""
    overload = probe(path, direction, packets, 0.0, scale.probe_s)
    probes = [overload]
    lossless, low, high = 0.0, 0.0, overload.offered
    for _ in range(scale.n_probes):
        middle = (low + high) / 2
        probes.append(probe(path, direction, packets, middle, scale.probe_s))
        if probes[-1].loss < _LOSSLESS:
            low, lossless = middle, max(lossless, probes[-1].forwarded)
        else:
            high = middle
    best = max(probes, key=lambda one: one.forwarded)
    rate = 0.0 if best is overload else best.offered
    for _ in range(_TRIES):  # a VTEP that waits for a processor forwards nothing in a short sample
        final = probe(path, direction, packets, rate, scale.pps_s)
        if final.n_packets:
            break
    return _sample(final, overload, lossless)


def _sample(final: Probe, overload: Probe, lossless: float) -> Sample:
    assert final.cpu.core_busy is not None
    assert final.n_packets, "nothing came out of the VTEP"
    millions = final.n_packets / 1e6
    details = {
        "forwarded_pps": final.forwarded,
        "offered_pps": final.offered,
        "loss_share": final.loss,
        "lossless_pps": lossless,
        "overload_offered_pps": overload.offered,
        "overload_pps": overload.forwarded,
        "core_busy_share": final.cpu.core_busy / final.cpu.elapsed,
        "core_s_per_million": final.cpu.core_busy / millions,
        "vtep_cpu_s_per_million": (final.cpu.vtep_user + final.cpu.vtep_system) / millions,
        "cpu_s_per_million": final.cpu.busy / millions,
    }
    value = final.n_packets / final.cpu.core_busy
    return Sample(value=value, cpu=final.cpu, details=details, noise=final.noise)


def probe(path: Path, direction: str, packets: list[bytes], rate: float, seconds: float) -> Probe:
    """Offer packets at a rate (0: all that one core can send), and count what comes out."""
    counts = path.counts[direction]
    before, started = counts.read(), time.monotonic()
    with Blast(path.source(direction), "eth", packets, path.generator_cpu, rate) as blast:
        time.sleep(_LEAD_S)
        meter, first = Meter(path.pids, path.stage.pids), counts.read()
        time.sleep(seconds)
        last = counts.read()
        cpu, noise = meter.read(path.vtep_cpu)
        offered, _ = blast.stop()
    took = time.monotonic() - started
    after = _drained(counts)
    n_packets = last["rx"] - first["rx"]
    if n_packets <= _STRAYS:
        n_packets = 0  # of a VTEP that waits for a processor, only what hosts say by themselves
    length = INNER_LEN + path.tag_len + (_OUTER_LEN if direction == "encap" else 0)
    _check_sizes(last["rx_bytes"] - first["rx_bytes"], n_packets, length)
    loss = 1 - (after["rx"] - before["rx"]) / max(offered, 1)
    return Probe(offered / took, n_packets / cpu.elapsed, max(0.0, loss), n_packets, cpu, noise)


def _drained(counts: Counts) -> dict[str, int]:
    """The counters when nothing arrives any more."""
    last = counts.read()

    def still() -> bool:
        nonlocal last
        time.sleep(_DRAIN_S)
        before, last = last, counts.read()
        return before["rx"] == last["rx"]

    wait_until(still, "the VTEP has forwarded what it had queued")
    return last


def _check_sizes(n_bytes: int, n_packets: int, length: int) -> None:
    """A super-frame would count as one packet, and something else as any."""
    if n_packets == 0:
        return  # a VTEP may spend all its time on what it drops
    mean = n_bytes / n_packets
    assert abs(mean - length) < 0.02 * length, f"packets of {mean:.1f} bytes came out, not of {length}"
