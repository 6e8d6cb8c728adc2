"""The collector's settings and its place in the tables; what it does with packets is tested in namespaces."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from vxcore import cli, config, daemon
from vxcore._fast.table import ANY_VNI, Reader, Tables
from vxcore.errors import ConfigError
from vxcore.faults import faults
from vxcore.sizes import LARGEST, SMALLEST, Size

LOCAL = '[underlay]\nlocal = "192.0.2.1"\n'
FILES = '[[collect]]\nwrite = "/tmp/x"\n'
OPTIONS = ["collect", "--local", "192.0.2.1"]


# Settings


def test_a_collector_alone_is_a_whole_file(tmp_path: Path) -> None:
    file = tmp_path / "vx.toml"
    file.write_text(f'{LOCAL}{FILES}vnis = ["1-100", 4096]\nrotate = "1 GiB"\nkeep = 10\nsource = ["::/0"]\n')
    assert faults(file) == []
    (collect,) = config.load(file).collects
    assert (collect.ranges, collect.title) == ([(1, 100), (4096, 4096)], "1-100,4096")
    assert (collect.rotate, collect.keep, collect.overlay) == (1 << 30, 10, None)


MISTAKES = [
    ("[[collect]]\n", "collect[0].write: missing; a collector needs it, or tap or port"),
    (f'{FILES}tap = "x"\n', "collect[0].tap: there is write as well; one of write, tap and port"),
    ('[[collect]]\ntap = "x"\nkeep = 3\n', "collect[0].keep: 3 is about files; leave it out, or give write"),
    (f"{FILES}keep = 0\n", "collect[0].keep: 0 is not allowed; an integer from 1 to 1000000"),
    (f"{FILES}vnis = []\n", 'collect[0].vnis: [] has none; "all", or a list, each a VNI such as 42'),
    (f'{FILES}vnis = ["9-5"]\n', 'collect[0].vnis[0]: "9-5" is no VNI and no range of them'),
    (f'{FILES}vnis = "some"\n', 'collect[0].vnis: "some" is not allowed; "all", or a list'),
    (f'{FILES}source = ["192.0.2.1/24"]\n', 'collect[0].source[0]: "192.0.2.1/24" has host bits set'),
    (f'{FILES}rotate = "1 pound"\n', 'collect[0].rotate: "1 pound" is no size; a number of bytes from 64KiB'),
    (f"{FILES}rotate = 5\n", "collect[0].rotate: 5 is too small; a number of bytes from 64KiB to 1TiB"),
    (f"{FILES}rotat = 5\n", "collect[0].rotat: unknown key; did you mean rotate?"),
    (FILES + FILES, "collect[1].vnis: some are collect[0]'s; each VNI to one of them"),
    (
        f"{FILES}vnis = [1]\n{FILES}vnis = [2]\n",
        'collect[1].write: "/tmp/x" is the directory of another collector; each has its own',
    ),
    (
        '[[segment]]\nvni = 5\ntap = "x"\n' + FILES + 'vnis = [2, "4-9"]\n',
        'collect[0].vnis[1]: "4-9" has the VNI of segment[0]; leave that one out, or "all"',
    ),
    (
        '[[segment]]\nvni = 5\ntap = "x"\n[[collect]]\ntap = "x"\n',
        'collect[0].tap: "x" is the device of another; each has its own',
    ),
]


@pytest.mark.parametrize(("text", "said"), MISTAKES)
def test_each_mistake_is_told_with_its_place(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "vx.toml"
    file.write_text(LOCAL + text)
    found = faults(file)
    assert [line.split(": ", 1)[1].startswith(said) for line in found].count(True) == 1, found
    with pytest.raises(ConfigError):
        config.load(file)


OPTION_MISTAKES = [
    (["-w", "/tmp/x", "--vni", "5,x"], "--vni x: is no VNI and no range of them; a VNI such as 42"),
    (["-w", "/tmp/x", "--rotate", "huge"], "--rotate huge: is no size; a number of bytes from 64KiB"),
    (["-w", "/tmp/x", "--source", "nowhere"], "--source nowhere: is not an IP prefix"),
    (["-w", "/tmp/x", "--keep", "many"], "--keep many: an integer from 1 to 1000000"),
    (["-w", ""], '-w "": a directory'),
    ([], "-w: missing; a collector needs it, or tap or port"),
    (["--tap", "x", "--rotate-seconds", "5"], "--rotate-seconds 5: is about files"),
    (["--tap", "x", "--port", "packet=y"], "--port: there is tap as well"),
    (["--port", "eth0"], "--port eth0: KIND=DEV such as packet=veth0"),
]


@pytest.mark.parametrize(("options", "said"), OPTION_MISTAKES)
def test_a_mistake_among_the_options_is_one_line(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*OPTIONS, *options]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"vxcore: error: {said}")
    assert err.count("\n") == 1


def test_without_an_address_of_its_own_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["collect", "-w", "/tmp/x"]) == 2
    assert "--local: missing" in capsys.readouterr().err


def test_options_say_what_a_file_says(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[config.Settings] = []
    monkeypatch.setattr(daemon, "serve", lambda settings: seen.append(settings) or 0)
    options = "-w /tmp/x --vni 1-100,4096 --source 192.0.2.0/24 --rotate 64KiB --keep 2 --snaplen 96"
    assert cli.main([*OPTIONS, *options.split()]) == 0
    data = tomllib.loads(
        f'{LOCAL}{FILES}vnis = ["1-100", "4096"]\nsource = ["192.0.2.0/24"]\n'
        "rotate = 65536\nkeep = 2\nsnaplen = 96\n"
    )
    assert seen == [config.from_mapping(data)]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *[("64KiB", SMALLEST), ("65536", SMALLEST), ("1TiB", LARGEST), ("500MB", 500_000_000)],
        *[("64kb", None), ("2 tib", None), ("-1", None), ("", None), ("1e9", None), ("1 GiB ", None)],
    ],
)
def test_sizes(text: str, size: int | None) -> None:
    if size is not None:
        assert Size(text) == size
        return
    with pytest.raises(ConfigError, match="64KiB to 1TiB"):
        Size(text)


# Tables


def collector(*ranges: tuple[int, int], vni: int = ANY_VNI, **options: Any) -> tuple[Tables, Reader]:
    tables = Tables(4, 4, 4)
    tables.add_segments([5], [[]], port=1)
    tables.add_collector(vni, 2, ranges, **options)
    reader = Reader(tables)
    reader.enter()
    return tables, reader


def test_vnis_without_a_segment_are_the_collectors() -> None:
    tables, reader = collector(any_source=True)
    assert [reader.find_segment(vni) for vni in (0, 4, 5, 6, 0xFFFFFF)] == [1, 1, 0, 1, 1]
    tables.add_segments([6], [[]], port=3)
    tables.remove_segments([0])
    reader.enter()
    assert [reader.find_segment(vni) for vni in (4, 5, 6)] == [1, 1, 2]
    assert reader.is_welcome(1, bytes(16))


def test_ranges_are_the_collectors_and_no_other_vni() -> None:
    _, reader = collector((7, 9), (0xFFFFFE, 0xFFFFFF), vni=7)
    vnis = (0, 5, 6, 7, 8, 9, 10, 0xFFFFFD, 0xFFFFFE, 0xFFFFFF)
    assert [reader.find_segment(vni) for vni in vnis] == [-1, 0, -1, 1, 1, 1, -1, -1, 1, 1]
    assert not reader.is_welcome(1, bytes(16))


def test_a_vni_that_a_segment_has_is_refused_with_nothing_applied() -> None:
    tables = Tables(4, 4, 4)
    tables.add_segments([5], [[]], port=1)
    with pytest.raises(ValueError, match="VNI 5 is there already"):
        tables.add_collector(3, 2, [(3, 6)])
    assert [tables.find_segment(vni) for vni in range(3, 7)] == [-1, -1, 0, -1]
    with pytest.raises(ValueError, match="at most 16777215"):
        tables.add_segments([ANY_VNI], [[]], port=1)


def test_a_collector_stays() -> None:
    tables, _ = collector()
    with pytest.raises(ValueError, match="collector"):
        tables.remove_segments([1])
