"""TCP through a pair of VTEPs, one flow and eight, by iperf3, beside a transfer compared byte for byte.

Place in the house: above vteps and load, beside pps and latency, below plan. CPU time is the whole
machine's: both iperf3, both VTEPs, and the kernel for all four.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from support.hosts import Host

from benchmarks.datapath.load import Sizes, packet_socket
from benchmarks.datapath.scale import Scale
from benchmarks.datapath.topology import WIRE_LEN, Stage
from benchmarks.datapath.vteps import Kind, pair
from benchmarks.machine import Meter
from benchmarks.peers import program
from benchmarks.results import Sample

FLOWS = (1, 8)
_TINY_BYTES = 8 << 20


@dataclass(frozen=True)
class Tcp:
    """From a VTEP of one kind to one of another, in one of the MODES."""

    mode: str
    left: Kind
    right: Kind

    @property
    def names(self) -> list[str]:
        """What it measures."""
        return [f"tcp/{self.mode}/{n}/{self.left.name}:{self.right.name}" for n in FLOWS]

    def measure(self, wanted: list[str], scale: Scale) -> dict[str, tuple[Sample, str]]:
        """A sample of each name that is wanted, and what was verified; all over one set-up."""
        program("iperf3")
        with Stage() as stage:
            a, b, vteps = pair(stage, self.left, self.right, self.mode)
            verified = self._verify(stage, a, b, scale.transfer_bytes)
            return {
                name: (self._sample(stage, a, b, vteps, int(name.split("/")[2]), scale), verified)
                for name in wanted
            }

    def _verify(self, stage: Stage, a: Host, b: Host, n_bytes: int) -> str:
        """Compare a transfer byte for byte, and see that what crosses has the size that the mode says."""
        counts = stage.counts(b, "eth")
        with packet_socket(b, "eth") as sock:
            sizes = Sizes(sock)
            try:
                a.transfer(b, self.right.target(b), "tcp", n_bytes)
            finally:
                sizes.stop()
        seen = counts.read()
        return f"{n_bytes} bytes alike; {self._check_sizes(seen['rx_bytes'] / seen['rx'], sizes)}"

    def _check_sizes(self, mean: float, sizes: Sizes) -> str:
        """The device counts before GRO. A packet socket sees what GRO made, and nothing of AF_XDP."""
        shown = f"packets of {mean:.0f} bytes on average"
        if sizes.n_packets:
            shown += f", the largest of {sizes.n_packets} seen {sizes.largest}"
        largest = sizes.largest if self.mode == "wire" else 0
        assert self.mode == "offload" or max(mean, largest) <= WIRE_LEN, f"in {self.mode} mode: {shown}"
        return shown

    def _sample(self, stage: Stage, a: Host, b: Host, vteps: list[int], n_flows: int, scale: Scale) -> Sample:
        server = serve(b, self.right.target(b))
        length = ("-t", f"{scale.tcp_s:.0f}") if scale.tcp_s >= 1 else ("-n", str(_TINY_BYTES))
        meter = Meter(vteps, stage.pids)
        done = a.run("iperf3", "-c", self.right.target(b), "-J", "-P", str(n_flows), *length)
        server.communicate(timeout=15)
        cpu, noise = meter.read()
        end: dict[str, Any] = json.loads(done.stdout)["end"]
        gigabytes = end["sum_received"]["bytes"] / 1e9
        details = {
            "retransmits": float(end["sum_sent"]["retransmits"]),
            "cpu_s_per_gigabyte": cpu.busy / gigabytes,
            "vtep_cpu_s_per_gigabyte": (cpu.vtep_user + cpu.vtep_system) / gigabytes,
        }
        value = end["sum_received"]["bits_per_second"] / 1e9
        return Sample(value=value, cpu=cpu, details=details, noise=noise)


def serve(host: Host, address: str) -> Any:
    """An iperf3 server for one client, listening when this returns."""
    server = host.start("iperf3", "-s", "-1", "-B", address, "--forceflush")
    assert server.stdout is not None
    for line in server.stdout:
        if "listening" in line:
            return server
    raise AssertionError(f"iperf3 does not listen on {address}: {server.communicate(timeout=15)[1]}")
