"""What a packet costs a VTEP by its segments, remotes, FDB entries and lanes; beside the kernel's device.

Place in the house: suite `scale` of `vxcore bench`, as root. As with datapath/pps, small packets cross a VTEP
on one core; here all are offered at one rate that every VTEP can take, and what is measured is that core's
time for a packet. vxcore runs in this process, where NumPy fills its tables. Lanes carry TCP, on all cores.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from typing import Any

import numpy as np
import pytest
from support.hosts import Host, run
from support.peers import require_root

from benchmarks.datapath.load import frames_of
from benchmarks.datapath.pps import FAR, NEAR, Path, Probe, probe, verify
from benchmarks.datapath.scale import FULL, QUICK
from benchmarks.datapath.tcp import Tcp
from benchmarks.datapath.topology import Stage, inside
from benchmarks.datapath.vteps import DEVICE, VNI, Access, Kernel, Kind, Vxcore, bridge, kernel_device
from benchmarks.measuring import Case
from vxcore import Vtep, wire

RATE = 100_000.0
N_FRAMES, QUICK_FRAMES = 4096, 1024
TAG_LEN = 4
FIRST_MAC = 0x060000000000
REMOTES = "198.18.0.0/16"
_TRIES = 20
ROUNDS, QUICK_ROUNDS, SAMPLE_S, QUICK_S = 5, 3, 0.6, 0.3


class Filled(Kind):
    """vxcore in this process, with an interface that exists as its overlay port."""

    name = "vxcore"

    def __init__(self, fill: Callable[[Vtep, Host], None], n_entries: int = 1, **segment: Any) -> None:
        self.fill, self.segment, self.n_entries = fill, segment, n_entries
        self.vtep: Vtep | None = None

    def up(self, stage: Stage, host: Host, remote: Host, access: Access | None) -> list[int]:
        assert access is not None
        self.vtep = Vtep(
            {
                "underlay": {"local": host.v4},
                "tables": {"entries": max(1024, 3 * self.n_entries // 2)},
                "lanes": {"cpus": [max(os.sched_getaffinity(0))]},
                "segment": [
                    {
                        "vni": VNI,
                        "port": {"kind": "packet", "dev": access.device, **self.segment},
                        "source": "any",
                    }
                ],
            }
        )
        route(host, remote)
        inside(host, self.vtep.__enter__)
        inside(host, self.fill, self.vtep, remote)
        return [os.getpid()]

    def pin(self, pids: list[int], cpu: int) -> None:
        """Its lane is where it was told to be."""

    def down(self) -> None:
        if self.vtep is not None:
            self.vtep.__exit__(None, None, None)


class FilledKernel(Kernel):
    """The kernel's device with so many entries, over so many remotes."""

    def __init__(self, n_entries: int, n_remotes: int) -> None:
        self.n_entries, self.n_remotes = n_entries, n_remotes

    def up(self, stage: Stage, host: Host, remote: Host, access: Access | None) -> list[int]:
        assert access is not None
        kernel_device(host, remote)
        bridge(host, access, remote)
        route(host, remote)
        remotes = addresses(self.n_remotes, remote)
        lines = []
        for n, number in enumerate(macs(self.n_entries).tolist()):
            mac = number.to_bytes(6, "big").hex(":")
            lines.append(f"fdb append {mac} dev {DEVICE} dst {remotes[n % self.n_remotes]} self permanent\n")
            lines.append(f"fdb replace {mac} dev {DEVICE} master static\n")
        batch = stage.directory / "batch"
        batch.write_text("".join(lines))
        run("bridge", "-n", host.namespace, "-batch", str(batch))
        return []


def macs(n: int) -> np.ndarray[Any, Any]:
    """Of hosts behind remotes."""
    return np.arange(n, dtype=np.uint64) + np.uint64(FIRST_MAC)


def addresses(n: int, remote: Host) -> list[str]:
    """Of VTEPs, all behind one host."""
    return [remote.v4] if n == 1 else [str(ip_address("198.18.0.1") + i) for i in range(n)]


def route(host: Host, remote: Host) -> None:
    host.ip("route", "replace", REMOTES, "via", remote.v4)


class Street(Path):
    """The three hosts, and packets for everybody who is behind them."""

    targets: np.ndarray[Any, Any] = macs(1)

    def packets(self, direction: str, n_flows: int) -> list[bytes]:
        if direction == "encap":
            plain = frames_of(n_flows, (FAR, NEAR))
            chosen = np.random.default_rng(1).choice(self.targets, n_flows).tolist()
            return [mac.to_bytes(6, "big") + frame[6:] for mac, frame in zip(chosen, plain, strict=True)]
        spec = wire.TunnelSpec(
            local=ip_address(self.wire.v4),
            remote=ip_address(self.vtep.v4),
            vni=VNI,
            ethernet=(bytes.fromhex(self.vtep.mac("eth").replace(":", "")), bytes(5) + b"\x02"),
        )
        frames = frames_of(n_flows, (NEAR, FAR))
        made = [wire.encapsulate(frame, spec)[1] for frame in frames]
        vnis = [(VNI + n % self.n_segments).to_bytes(3, "big") for n in range(n_flows)]
        return [packet[:46] + vni + packet[49:] for packet, vni in zip(made, vnis, strict=True)]


@contextmanager
def streets(*kinds: Kind) -> Iterator[list[Street]]:
    """One for each kind; its VTEP ends with it."""
    with ExitStack() as undo:
        made = []
        for kind in kinds:
            stage = undo.enter_context(Stage())
            if isinstance(kind, Filled):
                undo.callback(kind.down)
            made.append(Street(stage, kind))
        yield made


def measure(case: Case, benchmark: Any, made: list[Street], direction: str) -> None:
    """The same packets at the same rate through each, in turn."""
    rounds, seconds = (QUICK_ROUNDS, QUICK_S) if case.quick else (ROUNDS, SAMPLE_S)
    packets = made[0].packets(direction, QUICK_FRAMES if case.quick else N_FRAMES)
    taken: dict[str, list[Any]] = {street.kind.name: [] for street in made}

    for street in made:
        verify(street, direction, packets)

    def turn() -> None:
        for street in made:
            taken[street.kind.name].append(forwarded(street, direction, packets, seconds))

    benchmark.pedantic(turn, rounds=rounds, warmup_rounds=1)
    for who, probes in taken.items():
        times = [each.cpu.core_busy / each.n_packets * 1e9 for each in probes[1:]]
        lost = float(np.median([each.loss for each in probes[1:]]))
        case.add(who, times, "ns of a core", f"{len(packets)} frames alike", lost_share=lost)


def forwarded(street: Street, direction: str, packets: list[bytes], seconds: float) -> Probe:
    """A sample in which something came out: a VTEP that waits for a processor forwards nothing in one."""
    for _ in range(_TRIES):
        taken = probe(street, direction, packets, RATE, seconds)
        if taken.n_packets:
            return taken
    raise AssertionError(f"nothing came out of {street.kind.name}")


def grown(counts: tuple[int, ...], *full: int) -> Any:
    """Cases of so many each; the latter take too long for --quick."""
    slow = [pytest.param(n, marks=pytest.mark.full) for n in full]
    return pytest.mark.parametrize("n", [*counts, *slow], ids="{:,}".format)


@pytest.mark.benchmark(group="by remotes: encap, an entry for each")
@grown((1, 16, 256), 64)
def test_remotes(benchmark: Any, case: Case, n: int) -> None:
    require_root()

    def fill(vtep: Vtep, remote: Host) -> None:
        numbers = [vtep.add_remote(address) for address in addresses(n, remote)]
        vtep.set_fdb(VNI, macs(n), np.array(numbers, np.uint32))

    with streets(Filled(fill), FilledKernel(n, n)) as made:
        for street in made:
            street.targets = macs(n)
        measure(case, benchmark, made, "encap")


@pytest.mark.benchmark(group="by entries of the FDB: encap, random ones of them")
@grown((1, 1_000, 1_000_000), 100_000, 10_000_000)
def test_entries(benchmark: Any, case: Case, n: int) -> None:
    """The kernel's device, which `bridge` fills, only with as many as do not take minutes."""
    require_root()

    def fill(vtep: Vtep, remote: Host) -> None:
        vtep.set_fdb(VNI, macs(n), remote.v4)

    beside = [FilledKernel(n, 1)] if n <= (1_000 if case.quick else 100_000) else []
    with streets(Filled(fill, n), *beside) as made:
        for street in made:
            street.targets = macs(n)
        measure(case, benchmark, made, "encap")


@pytest.mark.benchmark(group="by segments: decap, each a VLAN of one interface")
@grown((1, 1_000), 10, 100)
def test_segments(benchmark: Any, case: Case, n: int) -> None:
    require_root()

    def fill(vtep: Vtep, remote: Host) -> None:
        device = {"kind": "packet", "dev": "acc"}
        more = [{"vni": VNI + i, "port": {**device, "vlan": i + 1}, "source": "any"} for i in range(1, n)]
        vtep.add_segments(more)

    with streets(Filled(fill, vlan=1)) as made:
        made[0].n_segments, made[0].tag_len = n, TAG_LEN
        measure(case, benchmark, made, "decap")


@pytest.mark.benchmark(group="by lanes: TCP, eight flows")
@pytest.mark.parametrize("n", [n for n in (1, 2, 4, 8, 16) if n <= (os.cpu_count() or 1)])
def test_lanes(benchmark: Any, case: Case, n: int) -> None:
    """Through two VTEPs on this machine, which iperf3's two ends and the kernel need too."""
    require_root()
    kind = Vxcore("vxcore", settings={"lanes": {"count": n}})
    tcp, scale, samples = Tcp("wire", kind, kind), QUICK if case.quick else FULL, []
    name = "tcp/wire/8/vxcore:vxcore"
    rounds = 1 if case.quick else 3
    benchmark.pedantic(lambda: samples.append(tcp.measure([name], scale)[name]), rounds=rounds)
    values = [sample.value for sample, _ in samples]
    case.add("vxcore", values, "Gb/s", samples[0][1], better="higher", apart=True)
