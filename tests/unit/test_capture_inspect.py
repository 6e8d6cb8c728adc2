"""``vxcore inspect``: its numbers against Counters and tshark, and its progress on a terminal."""

from __future__ import annotations

import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from support import captures
from support.captures import pcap, pcapng

from vxcore import Tunnel, cli, encap_frame
from vxcore.capture import inspect, progress
from vxcore.capture.source import open_capture

MACS = ("02:00:00:00:00:02", "02:00:00:00:00:01")
INNER = Ether(dst="02:00:00:00:00:0b", src="02:00:00:00:00:0a")


def outer(frame: bytes, vni: int, source: str = "192.0.2.1", remote: str = "192.0.2.2") -> bytes:
    return encap_frame(frame, Tunnel(local=source, remote=remote, vni=vni, ethernet=MACS))[1]


FRAMES = [
    *[bytes(INNER / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=n % 7, dport=53)) for n in range(40)],
    *[bytes(INNER / IPv6(src="fd00::1", dst="fd00::2") / TCP(sport=9, dport=80)) for n in range(3)],
    bytes(INNER / ARP(psrc="10.0.0.1", hwsrc=MACS[1])),
]
PACKETS = [
    outer(frame, n % 3, *(("2001:db8::1", "2001:db8::2") if n % 5 == 0 else ()))
    for n, frame in enumerate(FRAMES)
]
GIVEN = [*PACKETS, FRAMES[0], b"noise"]


@pytest.fixture
def told(run: Any, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """Exit code, JSON and standard error of an inspection of ``in``."""

    def call(*options: str) -> tuple[int, dict[str, Any], str]:
        code = cli.main(["inspect", "in", "--json", *options])
        out, err = capsys.readouterr()
        return code, json.loads(out), err

    return call


@pytest.mark.parametrize("make", [pcap, pcapng])
def test_the_numbers_are_right(make: Callable[[list[bytes]], bytes], told: Any) -> None:
    Path("in").write_bytes(make(GIVEN))
    code, report, said = told("--top", "100")
    assert (code, said) == (0, "")
    assert (report["format"], report["packets"]) == (make.__name__, len(GIVEN))
    assert report["bytes"] == sum(map(len, GIVEN))
    assert report["first"].startswith("2023-11-14T22:13:20.000000000Z")
    assert 44.9 < report["seconds"] < 45.1
    assert report["verdicts"] == {"DELIVERED": 44, "TRUNCATED": 1, "OTHER_PORT": 1}
    vnis = {row["vni"]: (row["packets"], row["bytes"]) for row in report["vnis"]["rows"]}
    sizes = [sum(len(frame) for frame in FRAMES[vni::3]) for vni in range(3)]
    assert vnis == {vni: (len(FRAMES[vni::3]), sizes[vni]) for vni in range(3)}
    pairs = {row["source"]: (row["destination"], row["packets"]) for row in report["vtep_pairs"]["rows"]}
    assert pairs == {"192.0.2.1": ("192.0.2.2", 35), "2001:db8::1": ("2001:db8::2", 9)}


def test_inner_flows_have_their_words(told: Any) -> None:
    Path("in").write_bytes(pcap(GIVEN))
    report = told("--top", "100")[1]
    flows = Counter({json.dumps(row): row["packets"] for row in report["inner_flows"]["rows"]})
    assert sum(flows.values()) == 44
    assert report["inner_flows"]["different"] == 21 + 3 + 1
    rows = [
        {key: row[key] for key in row if key not in ("packets", "bytes", "vni")}
        for row in report["inner_flows"]["rows"]
    ]
    ends4 = {"source": "10.0.0.1", "destination": "10.0.0.2"}
    ends6 = {"source": "fd00::1", "destination": "fd00::2"}
    for n in range(7):
        assert rows.count({"protocol": "UDP", **ends4, "source_port": n, "destination_port": 53}) == 3
    assert rows.count({"protocol": "TCP", **ends6, "source_port": 9, "destination_port": 80}) == 3
    macs = {"source": "02:00:00:00:00:0a", "destination": "02:00:00:00:00:0b"}
    assert rows.count({"protocol": "0x0806", **macs}) == 1


def test_entropy_is_that_of_the_ports_that_tshark_sees(told: Any, require_tool: Any) -> None:
    Path("in").write_bytes(pcap(PACKETS))
    rows = captures.by_tshark(require_tool("tshark"), "in", "udp.srcport")
    ports = Counter(port for (port,) in rows)
    report = told()[1]["source_ports"]
    shares = [n / len(PACKETS) for n in ports.values()]
    assert report["different"] == len(ports)
    assert report["entropy_bits"] == round(-sum(share * math.log2(share) for share in shares), 3)


def test_the_table_for_a_person(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    Path("in").write_bytes(pcap([*PACKETS, *[outer(FRAMES[43], 7)] * 9], nano=True))
    assert cli.main(["inspect", "in", "--top", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"in: pcap, 53 packets, {progress.amount(sum(map(len, PACKETS)) + 9 * 92)}"
    assert "DELIVERED: handed on       53" in lines
    assert next(line.split() for line in lines if line.startswith("192.0.2.1 -> 192.0.2.2"))[3] == "44"
    assert any(line.startswith("outer source ports: ") for line in lines)
    assert "vni 7 0x0806 02:00:00:00:00:0a -> 02:00:00:00:00:0b        9  378 bytes" in lines
    assert "and 23 more (--top)" in lines


def test_a_flow_of_ipv6_is_bracketed(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    Path("in").write_bytes(pcap([outer(FRAMES[41], 7)]))
    assert cli.main(["inspect", "in"]) == 0
    assert "vni 7 TCP [fd00::1]:9 -> [fd00::2]:80 " in capsys.readouterr().out


def test_tables_are_bounded_and_the_rest_has_a_row(
    told: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inspect, "MAX_VNIS", 4)
    Path("in").write_bytes(pcap([outer(FRAMES[0], vni) for vni in range(100)]))
    table = told()[1]["vnis"]
    assert (table["different"], len(table["rows"]), table["overflow"]["packets"]) == (4, 4, 96)
    assert cli.main(["inspect", "in"]) == 0
    table_row = rf"(?m)^{re.escape(inspect.OVERFLOW)} +96 +4\.0 kB$"
    assert re.search(table_row, capsys.readouterr().out)


def test_an_empty_capture_has_a_summary(told: Any, capsys: pytest.CaptureFixture[str]) -> None:
    Path("in").write_bytes(pcap([]))
    code, report, _ = told()
    assert (code, report["packets"], report["first"], report["source_ports"]) == (
        0,
        0,
        None,
        {"different": 0, "entropy_bits": 0.0},
    )
    assert cli.main(["inspect", "in"]) == 0
    assert capsys.readouterr().out.startswith("in: pcap, 0 packets, 0 bytes\n")


def test_a_damaged_capture_and_unknown_links_are_named(told: Any) -> None:
    Path("in").write_bytes(pcap(GIVEN)[:-1])
    code, report, said = told()
    assert (code, report["packets"], report["problem"]) == (
        1,
        len(GIVEN) - 1,
        said.split("in: ")[1].split(";")[0],
    )
    assert "the summary is of what is before that" in said
    Path("in").write_bytes(pcapng(GIVEN, [147] * len(GIVEN)))
    code, report, said = told()
    assert (code, report["verdicts"]) == (0, {"LINK_TYPE": len(GIVEN)})
    assert "link type 147 (46 packets) is not supported" in said


def test_absurd_times_are_numbers(told: Any) -> None:
    Path("in").write_bytes(captures.section() + captures.interface() + captures.enhanced(PACKETS[0], 2**60))
    assert told()[1]["first"]
    assert inspect._time(2**63 - 1).startswith("2262-04-11T")
    assert inspect._time(-(2**80)) == f"{-(2**80) // 10**9}.{-(2**80) % 10**9:09d}"


# Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_progress_on_a_terminal_is_one_line_that_goes_away(clock: list[float], tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(pcap(PACKETS) * 1)
    screen = Terminal()
    with ExitStack() as stack:
        capture = open_capture(tmp_path / "in", stack)
        shown = progress.Progress(capture.source, screen)
        shown.update()
        assert screen.getvalue() == ""  # not for what is quick
        clock[0] += 2
        shown.update()
        size = progress.amount((tmp_path / "in").stat().st_size)
        assert screen.getvalue() == f"\r\x1b[K[{'#' * 24}] 100% of {size}, {shown.line(2)[-8:].strip()}"
        shown.update()
        assert screen.getvalue().count("\r") == 1  # not more often than one can see
        shown.clear()
        assert screen.getvalue().endswith("\r\x1b[K")


def test_progress_tells_the_rest_and_of_a_pipe_only_how_much(tmp_path: Path) -> None:
    class Half:
        position, size = 500_000, 1_000_000

    shown = progress.Progress(Half(), io.StringIO())  # type: ignore[arg-type]
    assert shown.line(2.0) == f"[{'#' * 12}{' ' * 12}]  50% of 1.0 MB, 250.0 kB/s, 2 s left"
    Half.size = None  # type: ignore[assignment]
    assert shown.line(2.0) == "500.0 kB, 250.0 kB/s"
    assert shown.line(0.0) == "500.0 kB, 0 bytes/s"


def test_no_progress_where_nobody_looks(clock: list[float], tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(pcap(PACKETS))
    file = io.StringIO()
    with ExitStack() as stack:
        shown = progress.Progress(open_capture(tmp_path / "in", stack).source, file)
        clock[0] += 100
        shown.update()
        shown.clear()
    assert file.getvalue() == ""


@pytest.mark.parametrize(
    ("n_bytes", "said"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (7e13, "70000.0 GB")],
)
def test_amounts(n_bytes: float, said: str) -> None:
    assert progress.amount(n_bytes) == said
