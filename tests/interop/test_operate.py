"""A VTEP is operated while it forwards, by the commands and by worse clients, beside the kernel's device."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import hosts
from support.control_socket import Raw
from support.hosts import Host, Lan, VtepProcess, wait_until

from vxcore.control.socket_file import DIRECTORY

pytestmark = pytest.mark.usefixtures("root", "nothing_is_left")
VXCORE = (sys.executable, "-m", "vxcore")


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan(2) as made:
        yield made


def vxcore(host: Host, *words: str, code: int = 0) -> str:
    """A command, which finds the VTEP of its namespace by itself; what it prints."""
    done = host.run(*VXCORE, *words, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr if code else done.stdout


def asked(host: Host, *words: str) -> Any:
    return json.loads(vxcore(host, *words, "--json"))


def path_of(host: Host) -> Path:
    return DIRECTORY / f"netns-{host.namespace}.sock"


def address(host: Host, device: str) -> None:
    host.ip("address", "add", f"10.{device[2:]}.0.{host.number}/24", "dev", device)
    host.ip("link", "set", device, "up")


def no_loss(ping: Any) -> bool:
    """Whether a flood of requests was answered whole, at its end."""
    out, _ = ping.communicate()
    assert " 0% packet loss" in out, out
    return True


def write(file: Path, host: Host, *segments: str) -> None:
    file.write_text(f'[underlay]\nlocal = "{host.v4}"\n' + "".join(segments))


def segment(vni: int, remote: Host) -> str:
    return f'[[segment]]\nvni = {vni}\ntap = "vx{vni}"\nremotes = ["{remote.v4}"]\n'


def test_each_namespace_has_its_own_and_commands_find_it(lan: Lan) -> None:
    one, two = lan.hosts
    vteps = [lan.vtep(host) for host in lan.hosts]
    one.ping("10.42.0.2")
    for host, other, vtep in ((one, two, vteps[0]), (two, one, vteps[1])):
        assert asked(host, "show")["pid"] == vtep.process.pid
        (entry,) = asked(host, "fdb", "show")
        assert (entry["mac"], entry["remote"], entry["kind"]) == (other.mac("vx42"), other.v4, "learned")
        assert f"{other.mac('vx42')} dst {other.v4} vni 42 learned age " in vxcore(host, "show", "fdb")
        (row,) = asked(host, "show", "segment")
        assert (row["dev"], row["mtu"], row["learned"]) == ("vx42", 1450, 1)
        assert row["rx_packets"] >= 3
    for vtep in vteps:
        vtep.stop()
    assert not path_of(one).exists()
    assert "no vxcore answers here" in vxcore(one, "show", code=1)


def test_of_two_in_one_namespace_the_second_goes_on_without(lan: Lan) -> None:
    one, two = lan.hosts
    first = lan.vtep(one)
    up = ("up", "--vni", "43", "--local", one.v4, "--remote", two.v4, "--tap", "vx43", "--dstport", "8472")
    second = VtepProcess(one, *up)
    pid = first.process.pid
    has_it = f"control socket {path_of(one)}: process {pid} has it; name another with --control, or none"
    assert f"warning: going on without {has_it}\n" in second.stop()
    assert f"vxcore: error: {has_it}" in vxcore(one, *up, "--control", str(path_of(one)), code=2)
    assert asked(one, "show")["pid"] == pid


def test_who_was_killed_is_no_obstacle(lan: Lan, tmp_path: Path) -> None:
    one, _ = lan.hosts
    where = ("--control", str(tmp_path / "x.sock"))
    killed = lan.vtep(one, *where)
    killed.process.kill()
    killed.process.communicate()
    assert (tmp_path / "x.sock").exists()
    assert "no vxcore answers here" in vxcore(one, "show", *where, code=1)
    again = lan.vtep(one, *where)
    assert asked(one, "show", *where)["pid"] == again.process.pid
    again.stop()


def test_segments_and_entries_change_while_others_lose_no_packet(lan: Lan) -> None:
    one, two = lan.hosts
    two.kernel_vxlan([one])
    vtep = lan.vtep(one)
    one.ping("10.42.0.2")
    others = one.start("ping", "-q", "-f", "-c", "10000", "10.42.0.2")
    two.ip(
        "link",
        "add",
        "vx43",
        "type",
        "vxlan",
        "id",
        "43",
        "local",
        two.v4,
        "remote",
        one.v4,
        "dstport",
        "4789",
    )
    address(two, "vx43")
    vxcore(one, "segment", "add", "--vni", "43", "--tap", "vx43", "--nolearning", "--unknown-unicast", "drop")
    address(one, "vx43")
    mac = two.mac("vx43")
    one.ip("neigh", "replace", "10.43.0.2", "lladdr", mac, "dev", "vx43")
    assert not one.pings("10.43.0.2")
    vxcore(one, "fdb", "add", mac, "dst", two.v4, "vni", "43")
    one.ping("10.43.0.2")
    vxcore(one, "fdb", "del", mac, "vni", "43")
    assert not one.pings("10.43.0.2")
    vxcore(one, "segment", "set", "43", "--learning", "--unset", "unknown_unicast")
    vxcore(one, "fdb", "add", "00:00:00:00:00:00", "dst", two.v4, "vni", "43")
    one.ping("10.43.0.2")
    assert {row["reason"] for row in asked(one, "show", "drops")} >= {"flood_refused", "source_refused"}
    vxcore(one, "segment", "del", "43")
    assert one.ip("link", "show", "vx43", check=False).returncode
    assert no_loss(others)
    log = vtep.stop()
    assert 'segment.add {"segments":[{"vni":43,' in log  # who changed what


def hammer(path: Path, others: Any, answered: list[Any]) -> None:
    """Good clients and others, as long as the ping takes."""
    turn = 0
    while others.poll() is None:
        turn += 1
        with Raw(path) as client:
            if turn % 4 == 0:
                client.socket.sendall(b'{"do":"fdb.list"}\n' * 3)  # and away
            elif turn % 4 == 1:
                client.say(b"x" * 100_000 + b"\n")
            elif turn % 4 == 2:
                client.say(b'{"do":')
            elif "protocol" in client.read():  # or there was no room
                answered.append(client.ask("overview")["ok"])


def test_clients_of_every_kind_cost_no_packet(lan: Lan) -> None:
    one, two = lan.hosts
    two.kernel_vxlan([one])
    vtep = lan.vtep(one)
    one.ping("10.42.0.2")
    path = path_of(one)
    entries = [
        {"vni": 42, "mac": f"06:00:00:00:{n >> 8:02x}:{n & 255:02x}", "remote": two.v4} for n in range(8000)
    ]
    with Raw(path) as client:
        client.read()
        assert client.ask("fdb.add", entries=entries)["ok"] == {"changed": 8000}
    others = one.start("ping", "-q", "-f", "-c", "20000", "10.42.0.2")
    answered: list[Any] = []
    threads = [threading.Thread(target=hammer, args=(path, others, answered)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert no_loss(others)
    assert answered
    assert "Traceback" not in vtep.stop()


def test_what_is_saved_runs_as_before(lan: Lan, tmp_path: Path) -> None:
    one, two = lan.hosts
    two.kernel_vxlan([one])
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    write(first, one, segment(42, two))
    vtep = VtepProcess(one, "run", str(first))
    one.overlay("vx42")
    vxcore(one, "segment", "add", "--vni", "43", "--tap", "vx43", "--source", "any", "--broadcast", "7/9")
    vxcore(one, "segment", "set", "42", "--ageing", "77", "--set", "maxaddress=9")
    vxcore(one, "fdb", "add", two.mac("vx42"), "dst", two.v4, "vni", "42")
    vxcore(
        one, "fdb", "add", "02:00:00:00:00:05", "dst", "192.0.2.77", "vni", "43", "sticky", "sequence", "3"
    )
    vxcore(one, "remote", "add", "192.0.2.99", "vni", "42,50-60")
    vxcore(one, "neighbour", "add", "10.42.0.2", "lladdr", two.mac("vx42"), "vni", "42")
    vxcore(one, "save", str(second))
    vtep.stop()
    assert "nothing is wrong" in vxcore(one, "check", str(second))
    again = VtepProcess(one, "run", str(second), n_segments=2)
    assert vxcore(one, "save") == second.read_text()
    assert f"{two.mac('vx42')} dst {two.v4} vni 42 static\n" in vxcore(one, "fdb", "show")
    one.overlay("vx42")
    one.ping("10.42.0.2")
    again.stop()


def test_the_file_is_read_again_by_command(lan: Lan, tmp_path: Path) -> None:
    one, two = lan.hosts
    file = tmp_path / "vx.toml"
    write(file, one, segment(42, two))
    vtep = VtepProcess(one, "run", str(file))
    assert vtep.process.stdout is not None
    write(file, one, segment(42, two), segment(43, two))
    assert vxcore(one, "reload") == "reloaded: 2 segments\n"
    assert vtep.process.stdout.readline() == "reloaded\n"
    write(file, one, segment(42, one))
    assert 'segment[0].remotes[0]: "192.0.2.1" is a local address' in vxcore(one, "reload", code=2)
    assert vtep.process.stdout.readline() == "not reloaded\n"
    vxcore(one, "save", str(file))
    assert asked(one, "reload") == {"segments": 2}
    assert "reload {}" in vtep.stop()


def is_told(host: Host, monitor: Any) -> bool:
    """Learn an address anew; whether somebody listens by now, so that lanes tell it."""
    assert monitor.poll() is None
    vxcore(host, "fdb", "flush", "all")
    host.ping("10.42.0.2", count=1)
    return bool(asked(host, "show")["events"]["told"])


def test_events_are_told_as_they_happen(lan: Lan) -> None:
    one, two = lan.hosts
    two.kernel_vxlan([one])
    vtep = lan.vtep(one)
    monitor = one.start(*VXCORE, "monitor", "learned", "--json")
    wait_until(lambda: is_told(one, monitor), "what is learned is told")
    monitor.terminate()
    out, err = monitor.communicate(timeout=hosts.DEADLINE_S)
    assert err == ""
    events = [json.loads(line)["event"] for line in out.splitlines()]
    assert {(event["mac"], event["remote"]) for event in events} == {(two.mac("vx42"), two.v4)}
    vtep.stop()
