"""What happens to a running VTEP, and that it carries frames again without a hand."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.controlled import Controlled
from support.hosts import Host, Lan, VtepProcess, wait_until

pytestmark = pytest.mark.usefixtures("root", "nothing_is_left")
UNDERLAYS = ["udp", "packet"]
LOST_AT = {"udp": "packets are lost as underlay_refused: ", "packet": "underlay_refused|next hop|remote 192"}


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan(2) as made:
        made.hosts[1].kernel_vxlan([made.hosts[0]])
        yield made


def recovers(host: Host, target: str = "10.42.0.2") -> None:
    wait_until(lambda: host.pings(target), "answers to pings")


def says(vtep: VtepProcess, pattern: str) -> None:
    """Read its log until a line matches."""
    assert vtep.process.stderr is not None
    line = "nothing"
    while not re.search(pattern, line):
        line = vtep.process.stderr.readline()
        assert line, f"it has ended, and never said {pattern!r}"


# The overlay device


@pytest.mark.parametrize("n_lanes", [1, 2])
def test_a_tap_that_is_deleted_is_made_again_and_others_do_not_notice(lan: Lan, n_lanes: int) -> None:
    one, two = lan.hosts
    two.ip("link", "add", "vx43", "type", "vxlan", "id", "43", "remote", one.v4, "dstport", "4789")
    two.ip("address", "add", "10.43.0.2/24", "dev", "vx43")
    two.ip("link", "set", "vx43", "up")
    segments = [{"vni": vni, "tap": f"vx{vni}", "remotes": [two.v4]} for vni in (42, 43)]
    vtep = Controlled(one, segment=segments, lanes={"count": n_lanes})
    one.overlay("vx42")
    one.ip("address", "add", "10.43.0.1/24", "dev", "vx43")
    one.ping("10.42.0.2")
    one.ping("10.43.0.2")
    others = one.start("ping", "-q", "-i", "0.002", "-c", "1500", "10.43.0.2")
    for _ in range(3):
        one.ip("link", "delete", "vx42")
        wait_until(lambda: one.ip("link", "show", "vx42", check=False).returncode == 0, "a device again")
        one.overlay("vx42")
        recovers(one)
        assert one.mtu("vx42") == 1450
    assert "1500 received" in others.communicate(timeout=60)[0]
    one.transfer(two, "10.42.0.2", "tcp", 1 << 20)
    vtep("remove_segment", 42)
    assert one.ip("link", "show", "vx42", check=False).returncode != 0


def test_a_tap_whose_name_was_taken_is_made_again_when_it_is_free(lan: Lan) -> None:
    one, _ = lan.hosts
    vtep = lan.vtep(one)
    vtep.process.send_signal(signal.SIGSTOP)  # it would be quicker
    one.ip("link", "delete", "vx42")
    one.ip("link", "add", "vx42", "type", "bridge")
    vtep.process.send_signal(signal.SIGCONT)
    says(vtep, "vx42 was deleted and cannot be made again yet: vx42 exists and is a bridge device")
    one.ip("link", "delete", "vx42")
    wait_until(lambda: "tun" in one.ip("-d", "link", "show", "vx42", check=False).stdout, "a TAP again")
    one.overlay("vx42")
    recovers(one)
    assert "vx42 was deleted and is made again, without the addresses that it had" in vtep.stop()


# The underlay


@pytest.mark.parametrize("underlay", UNDERLAYS)
def test_an_underlay_that_was_down_is_used_again(lan: Lan, underlay: str) -> None:
    one, _ = lan.hosts
    vtep = lan.vtep(one, "--underlay", underlay)
    recovers(one)
    one.ip("link", "set", "eth", "down")
    assert not one.pings("10.42.0.2")
    says(vtep, LOST_AT[underlay])
    one.ip("link", "set", "eth", "up")
    recovers(one)
    vtep.stop()


@pytest.mark.parametrize("underlay", UNDERLAYS)
def test_an_address_that_was_removed_is_used_again(lan: Lan, underlay: str) -> None:
    one, _ = lan.hosts
    vtep = lan.vtep(one, "--underlay", underlay)
    recovers(one)
    one.ip("address", "delete", f"{one.v4}/24", "dev", "eth")
    if underlay == "packet":  # which asks no routes while hops are known
        recovers(one)
    else:
        assert not one.pings("10.42.0.2")
        says(vtep, LOST_AT[underlay])
    one.ip("address", "add", f"{one.v4}/24", "dev", "eth")
    recovers(one)
    vtep.stop()


@pytest.mark.parametrize("underlay", UNDERLAYS)
def test_a_route_that_was_gone_is_used_again(lan: Lan, underlay: str) -> None:
    one, two = lan.hosts
    route = (f"{two.v4}/32", "dev", "eth")
    vtep = lan.vtep(one, "--underlay", underlay)
    recovers(one)
    one.ip("route", "add", "unreachable", f"{two.v4}/32")
    wait_until(lambda: not one.pings("10.42.0.2"), "the route is given up")
    drops = vtep.counters()["drops"]
    assert {"underlay_refused", "no_next_hop"} & set(drops), drops
    says(vtep, LOST_AT[underlay])
    one.ip("route", "delete", "unreachable", f"{two.v4}/32")
    one.ip("route", "add", *route)
    recovers(one)


# The process


def test_a_process_that_was_stopped_goes_on(lan: Lan) -> None:
    one, _ = lan.hosts
    vtep = lan.vtep(one)
    recovers(one)
    vtep.process.send_signal(signal.SIGSTOP)
    assert not one.pings("10.42.0.2")
    time.sleep(6)  # it is said from 5 seconds on
    vtep.process.send_signal(signal.SIGCONT)
    recovers(one)
    says(vtep, r"stood still for \d+ s: stopped, or without a processor")


def configuration(tmp_path: Path, one: Host, two: Host) -> str:
    file = tmp_path / "vtep.toml"
    file.write_text(
        f'underlay.local = "{one.v4}"\nstate.file = "{tmp_path / "learned"}"\nstate.interval = 1\n'
        f'[[segment]]\nvni = 42\ntap = "vx42"\nremotes = ["{two.v4}", "192.0.2.77"]\n'
    )
    return str(file)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_was_killed_starts_again_and_knows_what_it_had_learned(
    lan: Lan, tmp_path: Path, end: signal.Signals
) -> None:
    one, two = lan.hosts
    file = configuration(tmp_path, one, two)
    vtep = VtepProcess(one, "run", file)
    one.overlay("vx42")
    one.ping("10.42.0.2")
    own, kept = one.mac("vx42"), tmp_path / "learned"
    if end == signal.SIGKILL:
        mac = bytes.fromhex(two.mac("vx42").replace(":", ""))[::-1]
        wait_until(lambda: kept.exists() and mac in kept.read_bytes(), "a file with the address")
    vtep.process.send_signal(end)
    vtep.process.communicate(timeout=15)
    again = VtepProcess(one, "run", file)
    assert again.counters()["fdb"]["entries"] == 1
    one.ip("link", "set", "vx42", "address", own)  # which the other host still knows
    one.overlay("vx42")
    mac_of_two = ("10.42.0.2", "lladdr", two.mac("vx42"), "dev", "vx42", "nud", "permanent")
    one.ip("neigh", "replace", *mac_of_two)
    before = again.counters()["segments"][0]["tx_packets"]
    one.run("ping", "-c", "1", "-W", "10", "10.42.0.2")
    counters = again.counters()
    assert counters["fdb"]["learned"] == 1, "what was known was not learned again"
    assert counters["segments"][0]["tx_packets"] > before
    assert "1 of 1 learned addresses are back" in again.stop()


def test_a_segment_that_finds_no_descriptors_is_refused_and_nothing_else_suffers(lan: Lan) -> None:
    one, two = lan.hosts
    vtep = Controlled(one, segment=[{"vni": 42, "tap": "vx42", "remotes": [two.v4]}])
    one.overlay("vx42")
    pid = vtep.process.pid
    n_open = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    one.run("prlimit", f"--pid={pid}", f"--nofile={n_open}:4096")
    with pytest.raises(RuntimeError, match="Too many open files"):
        vtep("add_segment", vni=43, tap="vx43", remotes=[two.v4])
    one.ping("10.42.0.2")
    one.run("prlimit", f"--pid={pid}", "--nofile=4096:4096")
    vtep("add_segment", vni=43, tap="vx43", remotes=[two.v4])
    assert len(vtep("describe")) == 2
