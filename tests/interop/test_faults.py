"""The kernel runs out of something, a lane crashes, the clock is set: what a VTEP does, and says."""

from __future__ import annotations

import errno
import itertools
import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.controlled import Controlled
from support.faults import Faults, build
from support.hosts import Host, Lan, VtepProcess, wait_until

pytestmark = pytest.mark.usefixtures("root", "nothing_is_left")
VXCORE = (sys.executable, "-m", "vxcore")
CRASH = -signal.SIGSEGV  # instead of an errno
DAY_S = 86400


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan(2) as made:
        made.hosts[1].kernel_vxlan([made.hosts[0]])
        yield made


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def faults(library: Path, tmp_path: Path) -> Faults:
    return Faults(library, tmp_path / "faults")


Start = Callable[..., VtepProcess]


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The file of learned addresses."""
    return tmp_path / "learned"


@pytest.fixture
def start(lan: Lan, faults: Faults, tmp_path: Path, kept: Path) -> Start:
    """A VTEP at the first host whose learned addresses are kept; what it says goes to the file ``log``."""
    one, two = lan.hosts

    def begin(segment: str = "") -> VtepProcess:
        file = tmp_path / "vtep.toml"
        file.write_text(
            f'underlay.local = "{one.v4}"\nstate.file = "{kept}"\nstate.interval = 1\n'
            f'[[segment]]\nvni = 42\ntap = "vx42"\nremotes = ["{two.v4}"]\n{segment}\n'
        )
        into = ("sh", "-c", f'exec "$@" 2>> {tmp_path / "log"}', "sh")
        vtep = VtepProcess(one, "run", str(file), before=(*into, *faults.before))
        one.overlay("vx42")
        return vtep

    return begin


@pytest.fixture
def says(tmp_path: Path) -> Callable[[str], None]:
    """Wait until the log has these words."""
    file = tmp_path / "log"
    return lambda words: wait_until(lambda: words in file.read_text(), f"the log says {words!r}")


def recovers(host: Host) -> None:
    wait_until(lambda: host.pings("10.42.0.2"), "answers to pings")


def asked(host: Host, *words: str) -> Any:
    return json.loads(host.run(*VXCORE, *words, "--json").stdout)


# The kernel has no room, or no memory


@pytest.mark.parametrize("error", [errno.ENOBUFS, errno.ENOMEM], ids=["ENOBUFS", "ENOMEM"])
@pytest.mark.parametrize(
    ("call", "reason"),
    [("sendmmsg", "underlay_full"), ("writev", "overlay_full"), ("recvmmsg", None), ("read", None)],
)
def test_a_call_that_finds_no_room_loses_no_more_than_its_packets(
    start: Start, lan: Lan, faults: Faults, says: Any, call: str, reason: str | None, error: int
) -> None:
    one, two = lan.hosts
    vtep = start()
    one.ping("10.42.0.2")
    before = vtep.counters()["drops"]
    faults.fail(call, error, 4)  # one message that is not sent, or four
    wait_until(lambda: one.pings("10.42.0.2") and not faults.left(call), "all that is to fail has failed")
    one.transfer(two, "10.42.0.2", "tcp", 1 << 20)
    drops = vtep.counters()["drops"]
    lost = {name: n - before.get(name, 0) for name, n in drops.items() if n != before.get(name, 0)}
    if reason is None:
        assert lost == {}, "what waited was read later"
    else:
        assert set(lost) == {reason}
        assert lost[reason] >= 1
        says(f"packets are lost as {reason}: ")
    vtep.stop()


def test_a_full_queue_that_has_room_again_at_once_loses_nothing(
    start: Start, lan: Lan, faults: Faults
) -> None:
    one, _ = lan.hosts
    vtep = start()
    recovers(one)
    before = vtep.counters()["drops"]
    faults.fail("sendmmsg", errno.ENOBUFS, 2)
    one.ping("10.42.0.2", count=1)
    assert faults.left("sendmmsg") == 0
    assert vtep.counters()["drops"] == before


def test_a_process_without_memory_refuses_what_is_asked_and_carries_frames(lan: Lan) -> None:
    one, two = lan.hosts
    vtep = Controlled(one, segment=[{"vni": 42, "tap": "vx42", "remotes": [two.v4]}])
    one.overlay("vx42")
    one.ping("10.42.0.2")
    pid = vtep.process.pid
    has = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * 4096
    one.run("prlimit", f"--pid={pid}", f"--as={has}:unlimited")
    with pytest.raises(RuntimeError, match=r"(?i)memory"):
        vtep("watch")
    one.ping("10.42.0.2")
    one.run("prlimit", f"--pid={pid}", "--as=unlimited:unlimited")
    vtep("add_segment", vni=43, tap="vx43", remotes=[two.v4])
    assert len(vtep("describe")) == 2
    one.ping("10.42.0.2")


# A lane's end


def test_a_lane_that_crashes_takes_the_process_with_it_and_the_log_says_where(
    start: Start, lan: Lan, faults: Faults, says: Any, kept: Path
) -> None:
    one, two = lan.hosts
    vtep = start()
    one.ping("10.42.0.2")
    own, mac = one.mac("vx42"), bytes.fromhex(two.mac("vx42").replace(":", ""))[::-1]
    wait_until(lambda: kept.exists() and mac in kept.read_bytes(), "a file with the address")
    faults.fail("recvmmsg", CRASH)
    one.pings("10.42.0.2")
    vtep.process.wait(timeout=15)
    assert vtep.process.returncode == -signal.SIGSEGV
    says("Fatal Python error: Segmentation fault")
    says("in _run")  # of the engine, which is a lane's
    assert one.ip("link", "show", "vx42", check=False).returncode != 0
    again = start()
    one.ip("link", "set", "vx42", "address", own)
    assert [row["mac"] for row in asked(one, "fdb", "show")] == [two.mac("vx42")]
    recovers(one)
    again.stop()
    says("1 of 1 learned addresses are back")


def test_a_lane_that_fails_ends_the_process_in_order(
    start: Start, lan: Lan, faults: Faults, says: Any
) -> None:
    one, two = lan.hosts
    vtep = start()
    one.ping("10.42.0.2")
    faults.fail("epoll_wait", errno.EBADF)
    vtep.process.wait(timeout=15)
    assert vtep.process.returncode == 1
    says("a lane failed: lane: Bad file descriptor")
    again = start()
    assert [row["mac"] for row in asked(one, "fdb", "show")] == [two.mac("vx42")]
    one.ip("link", "set", "vx42", "down")  # its address is another one now
    one.ip("link", "set", "vx42", "up")
    recovers(one)
    again.stop()


# The clock


@pytest.mark.parametrize("step_s", [DAY_S, -DAY_S], ids=["forth", "back"])
def test_a_clock_that_is_set_makes_no_address_older_or_younger(
    start: Start, lan: Lan, faults: Faults, says: Any, step_s: int
) -> None:
    one, two = lan.hosts
    vtep = start("ageing = 5\nbroadcast = { rate = 1000, burst = 1000 }")
    one.ping("10.42.0.2")
    sent = one.start("ping", "-q", "-i", "0.2", "10.42.0.2")  # so that the address is heard from
    faults.set_clock(step_s)
    says(f"the clock was set {'forth' if step_s > 0 else 'back'} by {DAY_S} s")
    (row,) = asked(one, "fdb", "show")
    assert (row["mac"], row["age_s"] <= 5) == (two.mac("vx42"), True)
    assert asked(one, "show")["uptime_s"] < 100
    counters = vtep.counters()
    assert counters["fdb"]["learned"] == 1, "it was never forgotten"
    assert "rate_limit" not in counters["drops"]
    sent.send_signal(signal.SIGINT)
    sent.wait(timeout=15)
    two.ip("link", "set", "vx42", "down")
    wait_until(lambda: not asked(one, "fdb", "show"), "it ages when nothing more is heard")
    two.ip("link", "set", "vx42", "up")
    recovers(one)
    vtep.stop()


# Descriptors and disks


def fill(file: Path) -> None:
    """Write to a file until its disk is full."""
    with suppress(OSError), file.open("wb", buffering=0) as full:
        while True:
            full.write(bytes(4096))


def test_a_client_that_comes_when_descriptors_have_run_out_is_answered_when_there_are_some(
    start: Start, lan: Lan, says: Any
) -> None:
    one, _ = lan.hosts
    vtep = start()
    pid = vtep.process.pid
    before = asked(one, "show")["pid"]
    limit = one.run("prlimit", f"--pid={pid}", "--nofile", "--noheadings", "--raw", "--output=SOFT,HARD")
    soft, hard = limit.stdout.split()
    taken = {int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir()}
    free = next(n for n in itertools.count() if n not in taken)
    one.run("prlimit", f"--pid={pid}", f"--nofile={free}:{hard}")
    client = one.start(*VXCORE, "show", "--json")
    says("control socket: no client is let in for now: Too many open files")
    one.ping("10.42.0.2")
    one.run("prlimit", f"--pid={pid}", f"--nofile={soft}:{hard}")
    out, err = client.communicate(timeout=15)
    assert json.loads(out)["pid"] == before, err
    vtep.stop()


def test_a_full_disk_takes_nothing_but_what_was_to_be_written(lan: Lan, tmp_path: Path) -> None:
    one, two = lan.hosts
    file = tmp_path / "vtep.toml"
    file.write_text(
        f'underlay.local = "{one.v4}"\nstate.file = "/mnt/learned"\nstate.interval = 1\n'
        f'[[segment]]\nvni = 42\ntap = "vx42"\nremotes = ["{two.v4}"]\n'
    )
    disk = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=64k none /mnt && exec "$@"', "sh")
    vtep = VtepProcess(one, "run", str(file), before=disk)
    assert vtep.process.stderr is not None
    one.overlay("vx42")
    one.ping("10.42.0.2")
    mnt = Path(f"/proc/{vtep.process.pid}/root/mnt")
    kept = mnt / "learned"
    mac = bytes.fromhex(two.mac("vx42").replace(":", ""))[::-1]
    wait_until(lambda: kept.exists() and mac in kept.read_bytes(), "a file with the address")
    fill(mnt / "full")
    assert any("cannot be written: No space left on device" in line for line in vtep.process.stderr)
    assert mac in kept.read_bytes(), "the file that was there is whole"
    taken = one.start(*VXCORE, "capture", "-w", str(mnt / "packets"))
    wait_until(lambda: not one.pings("10.42.0.2", "-s", "1400") or taken.poll() is not None, "it has ended")
    out, err = taken.communicate(timeout=15)
    assert (taken.returncode, "No space left on device" in err) == (1, True), out + err
    one.ping("10.42.0.2")
    (mnt / "full").unlink()
    assert any("is written again" in line for line in vtep.process.stderr)
    vtep.stop()
