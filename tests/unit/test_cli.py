"""The command line: exit codes, one line for every mistake, never a traceback."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from vxcore import cli, config, daemon
from vxcore.errors import TableFullError, UnsupportedError

UP = ["up", "--vni", "42", "--tap", "vx42", "--remote", "192.0.2.2"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--nosuch"], "the following arguments are required: COMMAND (see vxcore --help)"),
        (["nosuch"], "invalid choice: 'nosuch'"),
        (["up"], "the following arguments are required: --vni (see vxcore up --help)"),
        (["up", "--vni", "42"], "--tap: missing; a segment needs it, or a port of another kind"),
        ([*UP, "--vni", "99999999"], "--vni 99999999: an integer from 0 to 16777215"),
        ([*UP, "--remot", "x"], "unrecognized arguments: --remot x"),
        ([*UP, "--control", "x"], '--control x: a path with a /, such as "/run/vxcore/blue.sock", or "none"'),
        ([*UP, "--unknown-unicast", "often"], '--unknown-unicast often: "flood", "drop", "ask", or a table'),
        (["up", "--vnii"], "the following arguments are required: --vni (see vxcore up --help)"),
        (["docker"], "--local: missing; without a remote it must be given: an IPv4 or IPv6 address"),
        (["docker", "--local", "192.0.2.1", "--peer", "x"], "--peer x: is not an IP address"),
        (["docker", "--local", "192.0.2.1", "--vni", "9-1"], "--vni 9-1: "),
        (["docker", "--local", "192.0.2.1", "--plugin", "x"], '--plugin x: a path such as "/run/docker/'),
        (["run", "/nosuch.toml"], "/nosuch.toml: cannot be read: No such file or directory"),
        (["lab", "--hosts", "1"], "an integer from 2 up"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("vxcore: error: ")
    assert expected in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (OSError(errno.EADDRINUSE, "UDP port 4789 is taken"), 1, "UDP port 4789 is taken"),
        (FileNotFoundError(2, "No such file", "/dev/net/tun"), 1, "/dev/net/tun: No such file"),
        (UnsupportedError("no tun in this kernel"), 1, "no tun in this kernel"),
        (TableFullError("full"), 1, "full"),
        (RuntimeError("oops"), 1, "internal error (-v shows where): RuntimeError('oops')"),
        (KeyboardInterrupt(), 130, None),
    ],
)
def test_failures_of_the_system(
    raised: BaseException,
    code: int,
    said: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(settings: config.Settings) -> NoReturn:
        raise raised

    monkeypatch.setattr(daemon, "serve", fail)
    assert cli.main(UP) == code
    assert capsys.readouterr().err == ("" if said is None else f"vxcore: error: {said}\n")


def test_options_arrive_as_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[config.Settings] = []
    monkeypatch.setattr(daemon, "serve", lambda settings: seen.append(settings) or 0)
    options = "--local 192.0.2.1 --remote 192.0.2.3 --dstport 0x2118 --ttl inherit --nolearning --udpcsum"
    more = "--control none --source any --multicast 9/3"
    assert cli.main([*UP, *options.split(), *more.split()]) == 0
    (settings,) = seen
    assert [str(remote) for remote in settings.segments[0].remotes] == ["192.0.2.2", "192.0.2.3"]
    assert (settings.underlay.dstport, settings.underlay.ttl) == (8472, "inherit")
    assert (settings.segments[0].learning, settings.underlay.udpcsum) == (False, True)
    assert (settings.control.socket, settings.segments[0].source) == ("none", "any")
    assert settings.segments[0].multicast == config.Rate(rate=9, burst=3)


def test_the_options_of_docker_arrive_as_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[config.Settings] = []
    monkeypatch.setattr(daemon, "serve", lambda settings: seen.append(settings) or 0)
    options = (
        "--local 192.0.2.1 --peer 192.0.2.2 --peer 192.0.2.3 --vni 7-9 --plugin /p.sock --state /s --lanes 2"
    )
    assert cli.main(["docker", *options.split()]) == 0
    (settings,) = seen
    assert settings.docker is not None
    assert [str(peer) for peer in settings.docker.peers] == ["192.0.2.2", "192.0.2.3"]
    assert (settings.docker.vnis, settings.docker.plugin, settings.docker.state) == ("7-9", "/p.sock", "/s")
    assert (settings.lanes.count, settings.segments) == (2, ())


def test_the_control_socket_of_a_file_gives_way_to_the_options(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[config.Settings] = []

    def serve(
        settings: config.Settings, reload: Callable[[], config.Settings], file: str, control: str | None
    ) -> int:
        seen.extend([settings, reload()])
        return 0

    monkeypatch.setattr(daemon, "serve", serve)
    file = tmp_path / "vx.toml"
    file.write_text(
        '[control]\nsocket = "/x/y.sock"\n[underlay]\nlocal = "192.0.2.1"\n[[segment]]\nvni = 1\ntap = "a"\n'
    )
    for options, path in (((), "/x/y.sock"), (("--control", "/z.sock"), "/z.sock")):
        seen.clear()
        assert cli.main(["run", str(file), *options]) == 0
        assert [settings.control.socket for settings in seen] == [path, path]
    assert cli.main(["run", str(file), "--control", "x"]) == 2
    assert "--control x: a path with a /, such as" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--help"], *([*each.name.split(), "--help"] for each in cli.COMMANDS)]
)
def test_help_shows_an_example(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "example" in out
