"""What is said of the host's trouble, and how often."""

from __future__ import annotations

import time
from typing import Any

import pytest

from vxcore.troubles import QUIET_S, Troubles
from vxcore.verdict import Verdict


class Host:
    """Clocks, and what lanes have dropped."""

    def __init__(self) -> None:
        self.now, self.ahead = 100.0, 1e9
        self.drops: dict[int, int] = {Verdict.UNDERLAY_REFUSED: 7}
        self.troubles = Troubles(lambda: self.drops, lambda: self.now, lambda: self.now + self.ahead)

    def look(self, seconds: float = 1.0, **dropped: int) -> None:
        self.now += seconds
        for name, n in dropped.items():
            number = Verdict[name.upper()]
            self.drops[number] = self.drops.get(number, 0) + n
        self.troubles.look()


@pytest.fixture
def host(caplog: Any) -> Host:
    caplog.set_level("INFO", "vxcore")
    return Host()


def test_a_trouble_is_said_when_it_begins_and_when_it_is_over(host: Host, caplog: Any) -> None:
    host.look()
    for _ in range(5):
        host.look(underlay_refused=3)
        host.look(QUIET_S - 1)
    assert [each.levelname for each in caplog.records] == ["WARNING"]
    assert caplog.messages[0].startswith(
        "packets are lost as underlay_refused: the kernel refused to send it on the underlay; look for"
    )
    host.look()
    assert caplog.messages[1:] == ["no packets are lost as underlay_refused any more; there were 15"]
    host.look(underlay_refused=1)
    assert len(caplog.messages) == 3


def test_troubles_are_told_apart_and_what_peers_and_policies_do_is_none(host: Host, caplog: Any) -> None:
    host.look(overlay_down=1, underlay_full=1, unknown_vni=9, flood_refused=9, no_next_hop=1, answered=5)
    assert sorted(text.split()[4] for text in caplog.messages) == ["overlay_down:", "underlay_full:"]


def test_a_machine_that_was_suspended_has_set_no_clock(caplog: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    troubles = Troubles(dict)
    boottime, clock = time.clock_gettime, time.time
    monkeypatch.setattr(time, "clock_gettime", lambda which: boottime(which) + 3600)
    monkeypatch.setattr(troubles, "_clock", lambda: clock() + 3600)
    troubles.look(overslept_s=3599)
    assert [text.partition(":")[0] for text in caplog.messages] == ["stood still for 3599 s"]


@pytest.mark.parametrize(("step_s", "way"), [(3600, "forth"), (-3600, "back")])
def test_a_clock_that_was_set_is_said_once(host: Host, caplog: Any, step_s: int, way: str) -> None:
    host.look()
    host.ahead += step_s
    host.look()
    host.look()
    assert caplog.messages == [f"the clock was set {way} by 3600 s; ageing and rates do not go by it"]


def test_a_clock_that_is_corrected_little_by_little_is_no_trouble(host: Host, caplog: Any) -> None:
    for _ in range(100):
        host.ahead += 0.5
        host.look()
    assert caplog.messages == []


def test_time_that_was_not_ours_is_said(host: Host, caplog: Any) -> None:
    host.troubles.look(overslept_s=4.9)
    assert caplog.messages == []
    host.troubles.look(overslept_s=61.2)
    assert caplog.messages == [
        "stood still for 61 s: stopped, or without a processor; what queues could not keep is lost"
    ]
