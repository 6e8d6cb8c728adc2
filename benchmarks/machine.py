"""CPU time and noise, from /proc, and what machine this is.

Place in the house: above results, below all that measures. CPU time is the whole machine's, for half
of a VTEP's work is done by the kernel in softirqs, which are nobody's: all that was not idle, which the
kernel measures, while it only samples (CONFIG_TICK_CPU_ACCOUNTING) of which kind the rest was. The user
time of processes that are not ours is taken off, and named as noise where there was much.
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from msgspec import structs

from benchmarks import ROOT
from benchmarks.results import Cpu, Environment

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
N_CPUS = os.cpu_count() or 1
FOREIGN_LIMIT = 0.05
STEAL_LIMIT = 0.02
_LOOK_S = 0.5


class Times(NamedTuple):
    """A line `cpu` of /proc/stat, in seconds (proc(5))."""

    user: float
    nice: float
    system: float
    idle: float
    iowait: float
    irq: float
    softirq: float
    steal: float

    @property
    def unused(self) -> float:
        """What nothing of this machine worked in."""
        return self.idle + self.iowait + self.steal


def read_times() -> dict[str, Times]:
    """By name: `cpu` is the machine's, `cpu0` a core's."""
    lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    return {
        words[0]: Times(*(int(word) / TICKS_PER_S for word in words[1:9]))
        for words in lines
        if words and words[0].startswith("cpu")
    }


def process_times(pid: int) -> tuple[float, float]:
    """User and system seconds of a process with all its threads; zeros when it is gone."""
    try:
        words = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0, 0.0
    return int(words[11]) / TICKS_PER_S, int(words[12]) / TICKS_PER_S


class Snapshot(NamedTuple):
    """All counters at one time."""

    at: float
    machine: dict[str, Times]
    vteps: dict[int, tuple[float, float]]
    ours_user: float


class Meter:
    """CPU time between two moments. `vteps` are pids; `others` gives those of our other live processes."""

    def __init__(self, vteps: Iterable[int] = (), others: Callable[[], Iterable[int]] = tuple) -> None:
        self.vteps = tuple(vteps)
        self.others = others
        self.first = self._look()

    def _look(self) -> Snapshot:
        vteps = {pid: process_times(pid) for pid in self.vteps}
        live = sum(process_times(pid)[0] for pid in {*self.others(), *self.vteps} - {os.getpid()})
        # A child that has ended and was waited for keeps its time in RUSAGE_CHILDREN.
        ended = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        own = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        return Snapshot(time.monotonic(), read_times(), vteps, live + ended + own)

    def read(self, core: int | None = None) -> tuple[Cpu, tuple[str, ...]]:
        """What was used since the meter was made, and what may have disturbed it."""
        first, last = self.first, self._look()
        used = _difference(last.machine["cpu"], first.machine["cpu"])
        foreign = max(0.0, used.user + used.nice - (last.ours_user - first.ours_user))
        elapsed = last.at - first.at
        cpu = Cpu(
            elapsed=elapsed,
            busy=max(1 / TICKS_PER_S, elapsed * N_CPUS - used.unused - foreign),
            user=used.user + used.nice - foreign,
            system=used.system,
            softirq=used.irq + used.softirq,
            vtep_user=sum(last.vteps[pid][0] - first.vteps[pid][0] for pid in self.vteps),
            vtep_system=sum(last.vteps[pid][1] - first.vteps[pid][1] for pid in self.vteps),
        )
        if core is not None:
            cpu = structs.replace(cpu, core_busy=_core_busy(first, last, core, cpu.vtep_user))
        available = max(elapsed, 1e-9) * N_CPUS
        return cpu, noise_of(foreign / available, used.steal / available)

    def shares(self) -> tuple[float, float]:
        """Of all CPU time since: what other processes used, and what the hypervisor took."""
        first, last = self.first, self._look()
        used = _difference(last.machine["cpu"], first.machine["cpu"])
        foreign = max(0.0, used.user + used.nice - (last.ours_user - first.ours_user))
        total = max(last.at - first.at, 1e-9) * N_CPUS
        return foreign / total, used.steal / total

    def details(self) -> dict[str, float]:
        """The shares, for a sample."""
        return shares_told(*self.shares())


def _difference(last: Times, first: Times) -> Times:
    return Times(*(b - a for a, b in zip(first, last, strict=True)))


def _core_busy(first: Snapshot, last: Snapshot, core: int, vtep_user: float) -> float:
    """Of a core on which nothing of ours but the VTEP runs: all that is not user time of others."""
    used = _difference(last.machine[f"cpu{core}"], first.machine[f"cpu{core}"])
    foreign = max(0.0, used.user + used.nice - vtep_user)
    return max(1 / TICKS_PER_S, last.at - first.at - used.unused - foreign)


def shares_told(foreign: float, steal: float) -> dict[str, float]:
    """For the details of a sample."""
    return {"foreign_share": round(foreign, 4), "steal_share": round(steal, 4)}


def noise_of(foreign: float, steal: float) -> tuple[str, ...]:
    """What disturbed, by its shares of the CPU time."""
    noise = []
    if foreign > FOREIGN_LIMIT:
        noise.append(f"other processes: {foreign:.0%} of the CPU time")
    if steal > STEAL_LIMIT:
        noise.append(f"stolen time: {steal:.0%}")
    return tuple(noise)


def look() -> float:
    """For a while do nothing but see what other processes do: their share of the CPU time."""
    meter = Meter()
    time.sleep(_LOOK_S)
    return meter.shares()[0]


def wait_for_quiet(patience: float) -> None:
    """Until no other processes disturb, or for `patience` seconds."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        meter = Meter()
        time.sleep(_LOOK_S)
        if max(meter.shares()) < STEAL_LIMIT:
            return


# What machine


def cpu_name() -> str:
    """As /proc/cpuinfo has it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def distribution() -> str:
    """Such as Debian GNU/Linux 12 (bookworm)."""
    return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")


def commit() -> str:
    """Of the source that is measured; + when it has changes that are not committed."""
    head = _git("rev-parse", "--short=12", "HEAD")
    if not head:
        return "unknown"
    return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*words: str) -> str:
    command = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), *words]
    try:
        return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return ""


def governor() -> str:
    """Of the first processor's frequency; empty where the machine does not say."""
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
    except OSError:
        return ""


def compiler() -> tuple[str, str]:
    """The C compiler as it names itself, and the flags with which setup.py calls it now."""
    words = str(sysconfig.get_config_var("CC") or "cc").split()
    try:
        shown = subprocess.run([words[0], "--version"], check=False, capture_output=True, text=True).stdout
    except FileNotFoundError:
        shown = ""
    ours = "-O0 -g" if os.environ.get("VXCORE_DEBUG", "0") not in ("", "0") else "-O3 -g1"
    return shown.partition("\n")[0], f"{sysconfig.get_config_var('CFLAGS')} {ours}".strip()


def environment(tools: dict[str, str], offloads: dict[str, dict[str, str]]) -> Environment:
    """Before a run, so that the tree is the one that is measured; the shares are known only behind it."""
    cc, flags = compiler()
    return Environment(
        cpu=cpu_name(),
        n_cpus=N_CPUS,
        governor=governor(),
        kernel=platform.release(),
        distribution=distribution(),
        compiler=cc,
        flags=flags,
        commit=commit(),
        python=platform.python_version(),
        tools=tools,
        pinning=",".join(map(str, sorted(os.sched_getaffinity(0)))),
        offloads=offloads,
        load_average=os.getloadavg(),
        steal_share=0.0,
        foreign_share=0.0,
    )


def disturbed(environment: Environment, meter: Meter) -> Environment:
    """The same, with what has disturbed since the meter was made."""
    return structs.replace(environment, **shares_told(*meter.shares()))
