"""The commands trace and capture on a running VTEP; what they write is read by tshark."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.hosts import DEADLINE_S, Host, Lan, VtepProcess, run
from support.peers import require_tool

pytestmark = pytest.mark.usefixtures("root", "nothing_is_left")
VXCORE = (sys.executable, "-m", "vxcore")


@pytest.fixture
def pair() -> Iterator[tuple[Host, Host, VtepProcess]]:
    with Lan(2) as lan:
        one, two = lan.hosts
        two.kernel_vxlan([one])
        vtep = lan.vtep(one)
        one.ping("10.42.0.2")
        yield one, two, vtep


def begin(host: Host, *words: str) -> subprocess.Popen[Any]:
    """A command that goes on; it has begun when the VTEP has a watch, which its first packet shows."""
    return host.start(*VXCORE, *words)


def pinged(host: Host, process: subprocess.Popen[Any], target: str = "10.42.0.2") -> tuple[str, str]:
    """Ping until the process has had enough, and return what it said."""
    pings = host.start("ping", "-q", "-i", "0.01", "-s", "100", target)
    out, err = process.communicate(timeout=DEADLINE_S)
    pings.send_signal(signal.SIGINT)
    pings.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    return out, err


def test_a_trace_tells_every_step(pair: tuple[Host, Host, VtepProcess]) -> None:
    one, two, _ = pair
    mac = two.mac("vx42")
    out, _ = pinged(
        one, begin(one, "trace", "--vni", "42", "--mac", mac, "--way", "out", "--filter", "icmp", "-c", "2")
    )
    first, *steps = out.splitlines()[:4]
    where = rf"\d\d:\d\d:\d\d\.\d{{6}} out vni 42 {one.mac('vx42')} > {mac} ICMP 10.42.0.1 > 10.42.0.2"
    assert re.fullmatch(rf"{where}, 142 bytes: delivered", first)
    assert steps == [
        "    a frame of 142 bytes from vx42",
        f"    {mac} is known: at {two.v4}",
        f"    encapsulated with VNI 42, and sent to {two.v4}",
    ]
    assert len(out.splitlines()) == 8


def test_a_trace_as_json_and_by_address_and_verdict(pair: tuple[Host, Host, VtepProcess]) -> None:
    one, two, vtep = pair
    by_address = begin(one, "trace", "--ip", two.v4, "--way", "in", "-c", "1", "--json")
    packet = json.loads(pinged(one, by_address)[0])["packet"]
    assert (packet["source"], packet["remote"], packet["verdict"]) == (two.v4, two.v4, "delivered")
    process = begin(one, "trace", "--verdict", "unknown_vni", "--dropped", "-c", "1")
    payload = (b"\x08\0\0\0\0\0\x2b\0" + b"\x02" * 12 + bytes(50)).hex()
    code = (
        "import socket, sys, time; s = socket.socket(type=2)\n"
        "while True: s.sendto(bytes.fromhex(sys.argv[1]), (sys.argv[2], 4789)); time.sleep(.01)"
    )
    sender = two.start(sys.executable, "-c", code, payload, one.v4)
    out, err = process.communicate(timeout=DEADLINE_S)
    sender.kill()
    assert process.returncode == 0, err
    assert "dropped: unknown_vni: no segment here has this VNI; " in out.splitlines()[-1]
    assert vtep.drops("unknown_vni") > 0


def test_what_would_happen(pair: tuple[Host, Host, VtepProcess]) -> None:
    one, two, _ = pair
    simulate = (*VXCORE, "trace", "--simulate", "--vni", "42")
    known = one.run(*simulate, "--dst", two.mac("vx42")).stdout
    assert known.splitlines()[-1] == f"    encapsulated with VNI 42, and sent to {two.v4}"
    assert "unknown unicast" in one.run(*simulate, "--dst", "02:99:00:00:00:01").stdout
    assert "dropped: too_big: " in one.run(*simulate, "--size", "1500").stdout
    stranger = one.run(*simulate, "--from", "198.51.100.7").stdout
    assert stranger.splitlines()[-1].startswith("    dropped: source_refused: ")
    step = "its source address is learned to be there, if it is not yet and this segment learns"
    assert step in one.run(*simulate, "--from", two.v4).stdout
    told = json.loads(one.run(*simulate, "--from", two.v4, "--json").stdout)
    assert told["packet"]["verdict"] == "delivered"
    wrong = one.run(*VXCORE, "trace", "--simulate", check=False)
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "vxcore: error: --simulate: --vni says in which segment\n",
    )


def fields(file: Path, *names: str, read: str = "") -> list[list[str]]:
    require_tool("tshark")
    options = [word for name in names for word in ("-e", name)]
    where = ("-Y", read) if read else ()
    shown = run("tshark", "-r", str(file), "-T", "fields", *options, *where)
    return [line.split("\t") for line in shown.stdout.splitlines()]


def test_a_capture_has_both_sides_and_comments(pair: tuple[Host, Host, VtepProcess], tmp_path: Path) -> None:
    one, two, _ = pair
    file = tmp_path / "both.pcapng"
    process = begin(one, "capture", "-w", str(file), "--side", "both", "--filter", "icmp", "-c", "10")
    _, err = pinged(one, process)
    assert f"10 packets written to {file}" in err
    names = ("frame.interface_name", "frame.comment", "udp.dstport", "vxlan.vni", "ip.checksum.status")
    rows = fields(file, *names, read="icmp")
    assert len(rows) == 20
    inner = [row for row in rows if row[0] == "vx42"]
    outer = [row for row in rows if row[0] == "underlay"]
    assert (len(inner), len(outer)) == (10, 10)
    comments = {row[1] for row in rows}
    assert comments == {f"{way} vni=42 delivered lane=0 remote={two.v4}" for way in ("out", "in")}
    assert {(row[2], row[3]) for row in outer} == {("4789", "42")}
    directions = fields(file, "ip.src", read="vxlan && icmp")
    assert {row[0].split(",")[0] for row in directions} == {one.v4, two.v4}


def test_a_capture_to_standard_output_ends_with_its_reader(pair: tuple[Host, Host, VtepProcess]) -> None:
    one, _, vtep = pair
    require_tool("tshark")
    line = f"{sys.executable} -m vxcore capture -w - | tshark -r - -c 3 -T fields -e icmp.type"
    process = one.start("sh", "-c", line)
    out, _ = pinged(one, process)
    assert len(out.splitlines()) == 3
    assert vtep.process.poll() is None
    one.ping("10.42.0.2")


def test_a_capture_is_bounded(pair: tuple[Host, Host, VtepProcess], tmp_path: Path) -> None:
    one, _, _ = pair
    file = tmp_path / "small.pcapng"
    process = begin(one, "capture", "-w", str(file), "--max-size", "64KiB", "--snaplen", "60", "--way", "out")
    pinged(one, process)
    assert 60_000 < file.stat().st_size <= 65_536
    lengths = {tuple(row) for row in fields(file, "frame.cap_len", "frame.len", read="icmp")}
    assert ("60", "142") in lengths


def test_a_filter_sees_whole_packets_and_their_own_length(
    pair: tuple[Host, Host, VtepProcess], tmp_path: Path
) -> None:
    one, _, _ = pair
    for way in ("in", "out"):
        file = tmp_path / way
        words = ("--filter", "icmp and len == 142", "--snaplen", "20", "--way", way, "-c", "2")
        pinged(one, begin(one, "capture", "-w", str(file), *words))
        assert [tuple(row) for row in fields(file, "frame.cap_len", "frame.len")] == [("20", "142")] * 2


def test_a_capture_that_is_refused_leaves_the_file(
    pair: tuple[Host, Host, VtepProcess], tmp_path: Path
) -> None:
    one, _, _ = pair
    file = tmp_path / "kept"
    file.write_bytes(b"x" * 5000)
    done = one.run(*VXCORE, "capture", "-w", str(file), "--mac", "bogus", check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert file.read_bytes() == b"x" * 5000


def test_a_trace_ends_with_its_reader(pair: tuple[Host, Host, VtepProcess]) -> None:
    one, _, _ = pair
    process = one.start("sh", "-c", f"{sys.executable} -m vxcore trace | head -1")
    out, _ = pinged(one, process)
    assert len(out.splitlines()) == 1


def test_mistakes_are_told_in_one_line(pair: tuple[Host, Host, VtepProcess], tmp_path: Path) -> None:
    one, _, _ = pair
    file = str(tmp_path / "x")
    for words, said in (
        (("trace", "--filter", "no such thing"), "--filter 'no such thing': "),
        (("trace", "--verdict", "nonsense"), "--verdict nonsense: there is no such verdict"),
        (("trace", "--vni", "99999999"), "vni: 99999999"),
        (("trace", "--simulate", "--vni", "abc", "--from", "192.0.2.2"), "--vni abc: an integer from 0"),
        (("trace", "--simulate", "--vni", "99999999", "--from", "192.0.2.2"), "--vni 99999999: "),
        (("capture", "-w", f"{tmp_path}/missing/x"), "No such file or directory"),
        (("capture", "-w", file, "--control", "/nonexistent"), "no vxcore answers here"),
    ):
        done = one.run(*VXCORE, *words, check=False)
        assert done.returncode in (1, 2)
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert said in done.stderr
