"""The generator beside the kernel's vxlan device and a VTEP of ours: every frame accounted for, both ways."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from support.captures import by_tshark
from support.hosts import DEADLINE_S, Host, Lan, VtepProcess, run, wait_until
from support.peers import require_tool
from support.tree import ROOT

pytestmark = pytest.mark.usefixtures("root", "nothing_is_left")
VXCORE = (sys.executable, "-m", "vxcore")


@pytest.fixture
def pair() -> Iterator[tuple[Host, Host]]:
    """The first sends; the second has the kernel's vxlan device, with learning."""
    with Lan(2) as lan:
        one, two = lan.hosts
        two.kernel_vxlan([])
        yield one, two


class Receiving:
    """`vxcore gen receive` on a host; it listens when this is made."""

    def __init__(self, host: Host, *words: str) -> None:
        self.process = host.start(*VXCORE, "gen", "receive", *words, "--json")
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert line.startswith("vxcore: receiving on "), line + self.process.stderr.read()

    def end(self) -> dict[str, Any]:
        """What it says when it has come to its end by itself."""
        out, err = self.process.communicate(timeout=3 * DEADLINE_S)
        assert self.process.returncode == 0, err
        return as_described("gen receive", out)


def send(host: Host, *words: str) -> dict[str, Any]:
    return as_described("gen send", host.run(*VXCORE, "gen", "send", *words, "--json").stdout)


def as_described(command: str, said: str) -> dict[str, Any]:
    """What a command said, which is as the page of schemas has it."""
    document, value = json.loads((ROOT / "docs" / "json-schemas.json").read_text()), json.loads(said)
    schema = {"$defs": document["$defs"], **document["commands"][command]}
    jsonschema.Draft202012Validator(schema).validate(value)
    return dict(value)


def nothing_amiss(got: dict[str, Any], sent: int) -> None:
    amiss = ("lost", "duplicated", "reordered", "late", "corrupted", "untracked", "before", "overruns")
    assert {name: got[name] for name in amiss if got[name]} == {}
    assert got["packets"] == sent


# The rate is one that the slowest machine keeps up with, so that no queue is full.
GENTLE = ("--rate", "5k", "--count", "3000")


@pytest.mark.parametrize("size", ["64", "imix", "1464"])
def test_the_kernel_delivers_every_frame(pair: tuple[Host, Host], size: str) -> None:
    one, two = pair
    receiver = Receiving(two, "vx42", "--count", "3000")
    sent = send(one, "--to", two.v4, "--vnis", "42", "--macs", "10", "--flows", "3", "--size", size, *GENTLE)
    got = receiver.end()
    assert (sent["packets"], sent["refused"], sent["streams"]) == (3000, 0, 30)
    nothing_amiss(got, 3000)
    assert got["streams"] == 30
    assert {row["run"] for row in got["rows"]} == {sent["run"]}
    assert got["bytes"] == sent["bytes"] - 3000 * 50
    latency = got["latency"]
    assert 0 < latency["least"] <= latency["median"] <= latency["p99"] <= latency["p999"] <= latency["most"]
    assert sum(n for _, n in latency["histogram"]) == 3000


def entries(host: Host) -> dict[str, str]:
    """What the kernel's device has learned: MAC address -> VTEP."""
    rows = json.loads(run("bridge", "-n", host.namespace, "-j", "fdb", "show", "dev", "vx42").stdout)
    known = [row for row in rows if "dst" in row and row["mac"] != "00:00:00:00:00:00"]
    return {row["mac"]: row["dst"] for row in known}


def widen(*hosts: Host) -> None:
    """Make 192.0.0.0/16 one link."""
    for host in hosts:
        host.ip("address", "add", f"192.0.2.{host.number}/16", "dev", "eth")


def test_a_thousand_vteps_from_one_process_are_learned_by_the_kernel(pair: tuple[Host, Host]) -> None:
    one, two = pair
    widen(one, two)
    receiver = Receiving(two, "vx42", "--count", "3066")
    many = ("--source-vteps", "192.0.8.0/22", "--rate", "5k", "--count", "3066")
    sent = send(one, "--to", two.v4, "--vnis", "42", *many)
    nothing_amiss(receiver.end(), 3066)
    assert (sent["vteps"], sent["streams"]) == (1022, 1022)
    learned = entries(two)
    assert len(learned) == 1022
    assert len(set(learned.values())) == 1022
    # And back: to each of them by its own VTEP, whose link address the kernel asks for.
    sender = one.start(
        *VXCORE, "gen", "send", "--to", two.v4, "--vnis", "42", *many[:2], "--rate", "1k", "--json"
    )
    answers = Receiving(one, "eth", "--tunnel", "--count", "1000")
    back = ("--into", "vx42", "--vnis", "42", "--macs", "100", "--reverse", "--rate", "1k", "--count", "2000")
    send(two, *back)
    got = answers.end()
    assert got["streams"] == 100
    sender.terminate()
    out, err = sender.communicate(timeout=DEADLINE_S)
    assert sender.returncode == 0, err
    came = json.loads(out)["answers"]
    assert came["asked"] >= 100
    assert came["stamped"] >= got["packets"] == 1000
    assert got["rows"][0]["vni"] == 42


def test_a_thousand_vteps_are_learned_by_a_vtep_of_ours() -> None:
    with Lan(2) as lan:
        one, two = lan.hosts
        widen(one, two)
        control = str(Path("/run") / f"{two.namespace}.sock")
        vtep = VtepProcess(
            *(two, "up", "--vni", "42", "--local", two.v4, "--source", "any", "--tap", "vx42"),
            *("--unknown-unicast", "drop", "--control", control),
        )
        two.overlay("vx42")
        receiver = Receiving(two, "vx42", "--count", "3066")
        many = ("--source-vteps", "192.0.8.0/22", "--rate", "5k", "--count", "3066")
        send(one, "--to", two.v4, "--vnis", "42", *many)
        nothing_amiss(receiver.end(), 3066)

        def n_rows(*what: str) -> int:
            return len(json.loads(two.run(*VXCORE, "show", *what, "--json", "--control", control).stdout))

        wait_until(lambda: n_rows("remote") == 1022, "every VTEP is a remote")
        wait_until(lambda: n_rows("fdb") >= 1022, "every host is known")
        assert set(vtep.counters()["drops"]) <= {"unknown_unicast", "no_remote"}


@pytest.mark.parametrize("family", [4, 6])
def test_through_two_vteps_of_ours(family: int) -> None:
    """From overlay to overlay; what the far one has joined for its TAP is counted frame by frame."""
    with Lan(2) as lan:
        one, two = lan.hosts
        for host in (one, two):
            lan.vtep(host, family=family)
        one.ping("10.42.0.2")
        receiver = Receiving(two, "vx42", "--count", "3000")
        sent = send(one, "--into", "vx42", "--flows", "2", "--size", "1000", *GENTLE)
        assert (sent["vteps"], sent["answers"]) == (0, None)
        nothing_amiss(receiver.end(), 3000)


def test_over_ipv6_and_from_many_vteps() -> None:
    with Lan(2) as lan:
        one, two = lan.hosts
        two.kernel_vxlan([], family=6)
        for many, n_vteps in ((("--source-vteps", "2001:db8::100/120"), 255), ((), 1)):
            receiver = Receiving(two, "vx42", "--count", "3000")
            sent = send(one, "--to", two.v6, "--vnis", "42", "--size", "imix", *many, *GENTLE)
            assert sent["vteps"] == n_vteps
            nothing_amiss(receiver.end(), 3000)
        assert len(entries(two)) == 255, "the first host was behind the first VTEP, then behind this host"


def test_what_is_dropped_on_the_way_is_lost_in_the_report(pair: tuple[Host, Host]) -> None:
    require_tool("nft")
    one, two = pair
    two.run("nft", "add table netdev t")
    two.run("nft", "add chain netdev t c { type filter hook ingress device eth priority 0; }")
    two.run("nft", "add rule netdev t c udp dport 4789 numgen inc mod 10 == 7 drop")
    receiver = Receiving(two, "vx42", "--count", "2700")
    send(one, "--to", two.v4, "--vnis", "42", "--flows", "5", *GENTLE)
    got = receiver.end()
    # Of the five flows' packets, in turn, every tenth is always of the third.
    assert (got["packets"], got["lost"], got["duplicated"], got["reordered"]) == (2700, 299, 0, 0)
    assert [row["lost"] for row in got["rows"]] == [299, 0, 0, 0, 0]
    assert got["rows"][0]["stream"] == 2


CRAFTED = """
import socket, sys
from vxcore import PacketBatch, Tunnel
from vxcore.gen import Plan
batch = PacketBatch(100)
Plan(vnis=42, run=7).generator([Tunnel(local="192.0.2.1", remote="192.0.2.2", vni=0)]).fill(batch, encap=True)
payloads = [packet[28:] for packet in batch.to_frames()]  # behind IP and UDP
damaged = bytearray(payloads[40])
damaged[60] ^= 1  # in the number
order = [*range(0, 10), 12, 11, 10, *range(13, 20), 5, 5, *range(25, 40), *range(41, 100)]
sock = socket.socket(type=socket.SOCK_DGRAM)
for payload in [*(payloads[n] for n in order), damaged, payloads[3]]:
    sock.sendto(payload, ("192.0.2.2", 4789))
"""


def test_what_is_damaged_doubled_and_out_of_order_is_told(pair: tuple[Host, Host]) -> None:
    one, two = pair
    receiver = Receiving(two, "vx42", "--count", "97")
    one.run(sys.executable, "-c", CRAFTED)
    got = receiver.end()
    told = {name: got[name] for name in ("lost", "duplicated", "reordered", "corrupted", "late", "packets")}
    expected = {"lost": 6, "duplicated": 3, "reordered": 2, "corrupted": 1, "late": 0, "packets": 97}
    assert told == expected


def test_the_packets_are_vxlan_to_others(pair: tuple[Host, Host], tmp_path: Path) -> None:
    tshark, file = require_tool("tshark"), tmp_path / "sent.pcap"
    one, two = pair
    capture = two.start("tcpdump", "-i", "eth", "-U", "-w", str(file), "-c", "300", "udp dst port 4789")
    assert capture.stderr is not None
    wait_until(lambda: "listening" in capture.stderr.readline(), "tcpdump listens")
    widen(one, two)
    mixed = ("--vnis", "42,100-101", "--source-vteps", "192.0.8.0/28", "--size", "imix", "--flows", "4")
    send(one, "--to", two.v4, *mixed, "--rate", "2k", "--count", "300")
    capture.communicate(timeout=DEADLINE_S)
    names = ("vxlan.vni", "vxlan.flags", "udp.srcport", "ip.src", "_ws.malformed", "udp.checksum.status")
    rows = by_tshark(tshark, file, *names, options=("-o", "udp.check_checksum:TRUE"))
    assert len(rows) == 300
    assert {row[0] for row in rows} == {"42", "100", "101"}
    assert {row[1] for row in rows} == {"0x0800"}
    assert all(int(row[2]) >= 49152 for row in rows)
    assert len({row[2] for row in rows}) > 50
    assert {row[3] for row in rows} == {f"192.0.8.{n}" for n in range(1, 15)}
    assert {row[4] for row in rows} == {""}
    whole = [tshark, "-n", "-r", str(file), "-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]
    bad = subprocess.run(
        [*whole, "-Y", "ip.checksum.status == 0 || udp.checksum.status == 0 || _ws.malformed"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert bad.stdout == ""


@pytest.mark.parametrize(("rate", "most"), [("1k", 1000), ("10k", 10_000), ("20Mbit", 20e6 / 8 / 114)])
def test_the_pace_is_never_exceeded(pair: tuple[Host, Host], rate: str, most: float) -> None:
    """How near it comes depends on the machine."""
    one, two = pair
    sent = send(one, "--to", two.v4, "--vnis", "42", "--rate", rate, "--duration", "1")
    assert 0 < sent["packets"] <= most * sent["seconds"] + 64


def test_an_interrupt_ends_it_well(pair: tuple[Host, Host]) -> None:
    one, two = pair
    receiver = Receiving(two, "vx42")
    sender = one.start(*VXCORE, "gen", "send", "--to", two.v4, "--vnis", "42", "--rate", "1k", "--json")
    wait_until(lambda: entries(two), "it sends")
    for process in (sender, receiver.process):
        process.send_signal(2)
    out, err = sender.communicate(timeout=DEADLINE_S)
    assert sender.returncode == 0, err
    assert 0 < receiver.end()["packets"] <= json.loads(out)["packets"]


def test_a_vtep_that_is_not_there_and_a_receiver_of_nothing(pair: tuple[Host, Host]) -> None:
    one, two = pair
    nobody = one.run(
        *VXCORE,
        "gen",
        "send",
        "--to",
        "192.0.2.77",
        "--vnis",
        "1",
        "--source-vteps",
        "192.0.2.9/32",
        check=False,
    )
    assert (nobody.returncode, nobody.stderr) == (1, "vxcore: error: 192.0.2.77 on eth does not answer\n")
    nothing = two.run(*VXCORE, "gen", "receive", "vx42", "--duration", "0.1", check=False)
    assert nothing.returncode == 1
    assert "0 frames of 0 streams" in nothing.stdout


PAGE = (ROOT / "docs" / "gen.md").read_text()
BLOCKS = [block for block in re.findall(r"^```\n(.*?)^```$", PAGE, re.M | re.S) if block.startswith("host")]


@pytest.mark.parametrize("block", BLOCKS, ids=[f"block{n}" for n in range(len(BLOCKS))])
def test_what_the_page_shows_can_be_typed(block: str, pair: tuple[Host, Host]) -> None:
    widen(*pair)
    for line in block.splitlines():
        name, words = line.split("# vxcore ")
        host = pair[int(name.removeprefix("host")) - 1]
        process = host.start(*VXCORE, *words.split())
        if " receive " in line:
            assert process.stderr is not None
            assert "receiving on" in process.stderr.readline()
    for host in pair:
        for process in host.processes:
            out, err = process.communicate(timeout=3 * DEADLINE_S)
            assert process.returncode == 0, err
            assert "frames of " in out


def test_what_the_page_shows_programs(pair: tuple[Host, Host]) -> None:
    one, _ = pair
    one.ip("link", "add", "veth0", "type", "veth", "peer", "veth1")
    for device in ("veth0", "veth1"):
        one.ip("link", "set", device, "up")
    programs = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
    assert len(programs) == 2
    for program in programs:
        one.run(sys.executable, "-c", program)
