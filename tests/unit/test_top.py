"""What `vxcore top` shows of what a VTEP had counted at two times."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from vxcore import Verdict
from vxcore.commands.top import Look, Screen, render, sparks


def look(time: float, n: int, n_segments: int = 3) -> Look:
    """After `n` packets in the first segment, twice as many in the second, and so on."""
    segments = {
        str(vni): {
            "vni": vni,
            "collects": None,
            "dev": f"vx{vni}",
            "learned": 7,
            "rx_packets": n * vni,
            "tx_packets": n,
            "rx_bytes": 100 * n * vni,
            "tx_bytes": 100 * n,
        }
        for vni in range(1, n_segments + 1)
    }
    carried = {"rx_packets": 3 * n, "tx_packets": n, "rx_bytes": 300 * n, "tx_bytes": 100 * n}
    remotes = {"192.0.2.2": {"address": "192.0.2.2", "uses": 4, **carried}}
    lanes = {"0": {"lane": 0, "cpu": None, "counters": {"bursts": n, "wakeups": 2 * n}}}
    drops = {"ecn": {"reason": "ecn", "packets": n, "text": Verdict.ECN.text}}
    overview = {
        "version": "1",
        "pid": 7,
        "uptime_s": 90061.0,
        "underlay": "udp",
        "local": ["192.0.2.1"],
        "entries": 9,
        "learned_entries": 5,
        "remotes": 2,
        "segments": n_segments,
        "drops": {"ecn": n},
        **{name: sum(row[name] for row in segments.values()) for name in ("rx_packets", "tx_packets")},
        **{name: sum(row[name] for row in segments.values()) for name in ("rx_bytes", "tx_bytes")},
    }
    return Look(time, overview, segments, remotes, lanes, drops)


@pytest.fixture
def screen() -> Screen:
    made = Screen()
    made.take(look(10.0, 0))
    made.take(look(12.0, 4000))
    return made


def text(screen: Screen, width: int = 80, height: int = 24) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, height=height).print(render(screen, width, height))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_rates_of_segments_the_busiest_first(screen: Screen) -> None:
    lines = text(screen)
    assert lines[0] == "vxcore 1 pid 7, up 1d 01:01:01, udp 192.0.2.1"
    rows = [line.split() for line in lines if line.endswith("M") or "1.6M" in line]
    assert [row[0] for row in rows] == ["3", "2", "1"]
    assert rows[0] == ["3", "vx3", "7", "6.0k", "2.0k", "4.8M", "1.6M"]
    assert all(len(line) <= 80 for line in lines)
    assert len(lines) <= 24


def test_keys_choose_what_is_shown(screen: Screen) -> None:
    assert not screen.press("l")
    assert any(line.split() == ["0", "any", "2.0k", "4.0k"] for line in text(screen))
    screen.press("r")
    assert any(line.split() == ["192.0.2.2", "4", "6.0k", "2.0k", "4.8M", "1.6M"] for line in text(screen))
    screen.press("d")
    assert any(line.startswith("ecn") and "2.0k" in line for line in text(screen))
    screen.press("s")
    for key in "/vx2":
        screen.press(key)
    assert "filter: vx2_" in text(screen)
    screen.press("\x7f")
    screen.press("1")
    screen.press("\r")
    assert [row[1] for row in screen.rows()] == ["vx1"]
    assert screen.press("q")


def test_a_letter_of_a_filter_is_no_command(screen: Screen) -> None:
    for key in "/q":
        assert not screen.press(key)
    assert screen.wanted == "q"


def test_sorting_goes_round(screen: Screen) -> None:
    for _ in range(7):
        screen.press(">")
    assert [row[0] for row in screen.rows()] == [3, 2, 1]
    screen.press("<")
    screen.press("<")
    screen.press("<")
    assert [row[0] for row in screen.rows()] == [3, 2, 1], "by VNI, the largest first"


def test_what_is_paused_stays(screen: Screen) -> None:
    screen.press("p")
    screen.take(look(14.0, 9000))
    assert "PAUSED" in text(screen)[0]
    assert screen.rows()[0][3] == 6000
    screen.press("p")
    screen.take(look(14.0, 9000))
    assert screen.rows()[0][3] == 7500


def test_counters_that_begin_anew_are_no_negative_rate(screen: Screen) -> None:
    screen.take(look(13.0, 10))
    assert all(row[3] == 0 for row in screen.rows())


def test_more_than_fits_is_said() -> None:
    screen = Screen()
    screen.take(look(1.0, 0, 100))
    screen.take(look(2.0, 5, 100))
    lines = text(screen)
    assert len(lines) <= 24
    assert "(86 rows more)" in lines[-1]


@pytest.mark.parametrize(("width", "height"), [(40, 10), (80, 24), (200, 60)])
def test_it_fits_any_terminal(screen: Screen, width: int, height: int) -> None:
    lines = text(screen, width, height)
    assert all(len(line) <= width for line in lines)
    assert len(lines) <= max(height, 10)


@pytest.mark.parametrize(
    ("values", "line"), [([], ""), ([0, 0], "▁▁"), ([0, 5, 10], "▁▄█"), (list(range(100)), None)]
)
def test_sparks(values: list[Any], line: str | None) -> None:
    drawn = sparks([float(value) for value in values], 10)
    assert len(drawn) <= 10
    assert line is None or drawn == line
