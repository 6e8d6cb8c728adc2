"""Log lines: their two forms, which are shown, and how often."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vxcore import config, logs
from vxcore.logs import Limiter, log


@pytest.fixture(autouse=True)
def put_back() -> object:
    handlers, level = log.handlers[:], log.level
    yield
    log.handlers[:] = handlers
    log.setLevel(level)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_text_has_the_level_unless_it_is_what_one_expects(capsys: pytest.CaptureFixture[str]) -> None:
    logs.to_stderr()
    log.info("segment %d", 42)
    log.warning("offload refused")
    log.debug("not shown")
    assert lines(capsys) == ["vxcore: segment 42", "vxcore: warning: offload refused"]


def test_json_is_one_object_a_line_with_the_exception_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    logs.to_stderr()
    logs.configure(config.Log(format="json"))
    log.warning("device %s", "vx\n42 \u2603")
    try:
        raise OSError(5, "no such disk")
    except OSError:
        log.exception("going on")
    first, second = map(json.loads, lines(capsys))
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "warning",
        "message": "device vx\n42 \u2603",
        "module": "test_logs",
        "thread": "MainThread",
    }
    assert (second["level"], second["message"]) == ("error", "going on")
    assert second["exception"].endswith("no such disk")


@pytest.mark.parametrize(("level", "shown"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level_is_the_least_that_is_shown(
    level: str, shown: int, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.to_stderr()
    logs.configure(config.from_mapping({"underlay": {"local": "192.0.2.1"}, "log": {"level": level}}).log)
    for each in (log.debug, log.info, log.warning, log.error):
        each("something")
    assert len(lines(capsys)) == shown


def test_what_the_command_line_wants_to_see_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    logs.to_stderr(verbose=True)
    logs.configure(config.Log(level="error"))
    log.debug("detail")
    assert lines(capsys) == ["vxcore: debug: detail"]


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(logs.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def complain(n: int) -> None:
    for number in range(n):
        log.warning("packet %d is odd", number)


def test_of_lines_of_a_kind_some_are_shown_and_the_others_counted(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.to_stderr()
    logs.configure(config.Log(rate=2))
    complain(1000)
    log.warning("another kind")
    logs.tell_left_out()
    shown = ["vxcore: warning: packet 0 is odd", "vxcore: warning: packet 1 is odd"]
    assert lines(capsys) == [*shown, "vxcore: warning: another kind"]
    clock.now += 1
    logs.tell_left_out()
    assert lines(capsys) == ["vxcore: warning: 998 more like it: packet 999 is odd"]
    complain(2)
    assert lines(capsys) == shown
    clock.now += 1
    logs.tell_left_out()
    assert lines(capsys) == []


def test_the_next_line_tells_what_was_left_out_before_it(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.to_stderr()
    logs.configure(config.Log(rate=1, format="json"))
    complain(3)
    clock.now += 5
    complain(1)
    messages = [json.loads(line) for line in lines(capsys)]
    assert [each["message"] for each in messages] == [
        "packet 0 is odd",
        "2 more like it: packet 2 is odd",
        "packet 0 is odd",
    ]
    assert messages[1]["repeated"] == 2


def test_rate_0_shows_all(capsys: pytest.CaptureFixture[str]) -> None:
    logs.to_stderr()
    logs.configure(config.Log(rate=0))
    complain(100)
    assert len(lines(capsys)) == 100


def test_the_limiter_remembers_no_more_than_there_are_kinds(clock: Clock) -> None:
    limiter = Limiter(1)
    for second in range(3):
        for line in range(5):
            record = logging.LogRecord("vxcore", logging.INFO, "x.py", line, "x", None, None)
            assert limiter.admits(record, float(second))
            assert not limiter.admits(record, float(second))
        assert len(limiter._seen) == 5
    assert len(limiter.take_left_out(9.0)) == 5
    assert not limiter._seen


JOURNAL = """
import sys
from vxcore import logs
logs.to_stderr()
logs.log.error("two\\nlines")
logs.log.info("one")
"""


@pytest.mark.parametrize("ours", [True, False])
def test_journald_gets_the_level_in_front_of_each_line(ours: bool, tmp_path: Path) -> None:
    with (tmp_path / "err").open("w+") as err:
        status = os.fstat(err.fileno())
        stream = f"{status.st_dev}:{status.st_ino if ours else 1}"
        environment = {**os.environ, "JOURNAL_STREAM": stream}
        subprocess.run([sys.executable, "-c", JOURNAL], check=True, stderr=err, env=environment)
        err.seek(0)
        text = err.read()
    levels = ("<3>", "<6>") if ours else ("", "")
    assert text == f"{levels[0]}vxcore: error: two\n{levels[0]}lines\n{levels[1]}vxcore: one\n"
