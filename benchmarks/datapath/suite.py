"""The data path as a suite of `vxcore bench`: what it measures unless more is asked for, and how long.

Place in the house: above plan, below the benchmarks' suites.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Sequence
from fnmatch import fnmatch

from benchmarks import peers
from benchmarks.datapath import plan
from benchmarks.datapath.scale import FULL, QUICK, Scale
from benchmarks.options import Options
from benchmarks.tally import Tally

# Not what differs from something here by a number alone: --list shows all there is.
WHOLE = (
    "tcp/[ow]*/*/veth:veth",
    "tcp/[ow]*/*/kernel:kernel",
    "tcp/[ow]*/1/ovs:ovs",
    "tcp/[ow]*/*/vxcore:vxcore",
    "tcp/[ow]*/1/vxcore-tap:vxcore-tap",
    "tcp/[ow]*/1/vxcore-packet:vxcore-packet",
    "tcp/[ow]*/1/vxcore:kernel",
    "tcp/[ow]*/1/kernel:vxcore",
    "pps/*/kernel",
    "pps/*/ovs",
    "pps/*/vxcore",
    "pps/*/vxcore-packet*",
    "pps/*/vxcore-xdp*",
    "latency/*/kernel",
    "latency/*/veth",
    "latency/*/ovs",
    "latency/*/vxcore",
    "latency/*/vxcore-busy",
)
SHORT = (
    "tcp/[ow]*/1/kernel:kernel",
    "tcp/wire/1/ovs:ovs",
    "tcp/[ow]*/1/vxcore:vxcore",
    "pps/*/1/kernel",
    "pps/*/1/vxcore",
    "latency/idle/veth",
    "latency/idle/kernel",
    "latency/idle/vxcore",
)
_SET_UP_S = 1.5


class DataPath:
    """VTEP processes beside the kernel's device, Open vSwitch and bare veth."""

    name = "datapath"
    about = "TCP, small packets and round trips through VTEPs, with their CPU cost"

    def cases(self, options: Options) -> list[str]:
        """What patterns choose from."""
        return [name for _, names in plan.selected([], options.against) for name in names]

    def seconds(self, patterns: Sequence[str], options: Options) -> float:
        """About how long it takes."""
        scale = scale_of(options)
        chosen = plan.selected(self._patterns(patterns, options), options.against)
        once = sum(_SET_UP_S + sum(_seconds(name, scale) for name in names) for _, names in chosen)
        return once * scale.rounds

    def measure(
        self, patterns: Sequence[str], options: Options, tally: Tally, say: Callable[[str], None]
    ) -> None:
        """Run what matches a pattern."""
        if os.geteuid() != 0:
            tally.miss("datapath", "root is needed for network namespaces", "absent")
            return
        if not patterns:
            tally.miss("vpp", _about_vpp(), "absent")
        chosen = plan.selected(self._patterns(patterns, options), options.against)
        plan.measure(chosen, scale_of(options), options.patience, tally, say)

    def _patterns(self, patterns: Sequence[str], options: Options) -> list[str]:
        wanted = list(patterns) or list(SHORT if options.quick else WHOLE)
        if options.against and not patterns:
            ours = [name for name in self.cases(options) if any(fnmatch(name, each) for each in wanted)]
            wanted += map(of_the_other_tree, ours)
        return wanted

    def tools(self) -> dict[str, str]:
        """Versions of who takes part."""
        return {**peers.versions(("iperf3", "iproute2")), **plan.versions()}

    def offloads(self) -> dict[str, dict[str, str]]:
        """Of the underlay's devices by mode."""
        return plan.offloads_of_modes() if os.geteuid() == 0 else {}


def of_the_other_tree(name: str) -> str:
    """``pps/encap/1/vxcore-tap`` -> ``pps/encap/1/vxcore-tap@against``."""
    case, _, who = name.rpartition("/")
    ends = [f"{end}@against" if end.startswith("vxcore") else end for end in who.split(":")]
    return f"{case}/{':'.join(ends)}"


def scale_of(options: Options) -> Scale:
    """How long and how often, with what was asked for."""
    scale = QUICK if options.quick else FULL
    if options.rounds is not None:
        scale = dataclasses.replace(scale, rounds=options.rounds)
    if options.seconds is not None:
        times = dict.fromkeys(("tcp_s", "pps_s", "latency_s"), options.seconds)
        scale = dataclasses.replace(scale, **times, probe_s=min(scale.probe_s, options.seconds))  # type: ignore[arg-type]
    return scale


def _seconds(name: str, scale: Scale) -> float:
    """About how long a sample takes, without its set-up."""
    what = name.partition("/")[0]
    if what == "tcp":
        return scale.tcp_s + 0.5
    if what == "pps":
        return (scale.n_probes + 1) * (scale.probe_s + 0.2) + scale.pps_s + 1.0
    return scale.latency_s + 0.7


def _about_vpp() -> str:
    if shutil.which("vpp", path=peers.PATH) is None:
        return "VPP is not on this machine"
    return "VPP is on this machine, but there is no set-up for it here"
