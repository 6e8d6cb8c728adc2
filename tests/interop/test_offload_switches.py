"""Every combination of offloads switched off, refused by the kernel, or slowed down: traffic is the same."""

from __future__ import annotations

import errno
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import scripted, sites
from support.sites import PORTS, Pair, Sites, send_datagrams, send_stream

pytestmark = pytest.mark.usefixtures("root")
BUSY = Path(__file__).parents[1] / "support" / "busy_vtep.py"
RUNS = [*[1000] * 45, 300, *[10] * 49, *[1372] * 30, 7, 1, 2]
# Without TSO there is no USO either.
TAPS: list[tuple[str, ...]] = [(), ("tap_uso",), ("tap_tso", "tap_uso")]
OTHERS = ("udp_gso", "udp_gro", "join")
SWITCHED_OFF = [
    (*tap, *others)
    for tap in TAPS
    for n in range(len(OTHERS) + 1)
    for others in itertools.combinations(OTHERS, n)
]


@pytest.fixture(scope="module")
def pair() -> Iterator[Sites]:
    """With super-frames on the wire, which are the harder case; all-off meets the rest in test_every_pair."""
    with sites.build(Pair(PORTS[0], "kernel", "offload", 4)) as built:
        yield built


def everything_crosses(pair: Sites) -> None:
    """TCP and UDP super-frames both ways between the containers, the inner family in turn."""
    containers = [site.agents[1] for site in pair.both]
    for family, (one, other) in ((4, containers), (6, containers[::-1])):
        send_stream(one, other, family, 500_000, 1 << 17)
        send_datagrams(one, other, family, RUNS, uso=True, gro=True)
        send_stream(other, one, family, 20_000, 99)
        send_datagrams(other, one, family, RUNS, uso=True, gro=False)
    assert not any(pair.drops())


def options(names: tuple[str, ...]) -> list[str]:
    return [word for name in names for word in ("--no-offload", name)]


@pytest.mark.parametrize("names", SWITCHED_OFF, ids=lambda names: "+".join(names) or "none")
def test_what_is_switched_off_is_done_without(pair: Sites, names: tuple[str, ...]) -> None:
    """As on kernels back to 5.10, which lack some."""
    pair.replace_vtep(*options(names))
    everything_crosses(pair)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scripted.build(tmp_path_factory.mktemp("syscalls"))


WORDS = [f"VX_REFUSE_RUNS={errno.EIO}", f"VX_REFUSE_RUNS={errno.EINVAL}", "VX_AT_MOST=1"]


@pytest.mark.parametrize("words", WORDS)
def test_a_kernel_that_refuses_runs_or_takes_one_message_a_call(
    pair: Sites, library: Path, words: str
) -> None:
    vtep = pair.replace_vtep(before=("env", f"LD_PRELOAD={library}", words))
    assert str(library) in Path(f"/proc/{vtep.process.pid}/maps").read_text()
    everything_crosses(pair)


def seconds(pair: Sites) -> float:
    one, other = (site.agents[1] for site in pair.both)
    started = time.perf_counter()
    send_stream(one, other, 4, 10_000_000, 1 << 18)
    send_stream(other, one, 4, 10_000_000, 1 << 18)
    return time.perf_counter() - started


def seconds_with_a_busy(where: str, pair: Sites) -> float:
    """The median of three, through a VTEP beside which something spins."""
    site, peer = pair.both
    line = (sys.executable, str(BUSY), where, site.host.v4, peer.host.v4)
    process = site.host.start(*line, stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    site.plug()
    median = statistics.median(seconds(pair) for _ in range(3))
    assert (process.communicate(timeout=10), process.returncode) == (("", ""), 0)
    return median


def test_a_thread_in_a_busy_loop_does_not_hold_up_the_lanes(pair: Sites) -> None:
    """Compared with a process that takes as much of the machine; the best of three pairs counts."""
    pair.vteps.pop(0).stop()
    ratios = []
    for _ in range(3):
        ratios.append(seconds_with_a_busy("thread", pair) / seconds_with_a_busy("process", pair))
        if ratios[-1] < 2:
            return
    pytest.fail(f"beside a busy thread a transfer takes {ratios} times as long as beside a busy process")
