"""`vxcore check`: all that is wrong with a file, each with its line, and nothing that is not."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vxcore import cli, config
from vxcore.errors import ConfigError
from vxcore.faults import faults

GOOD = """\
[underlay]
local = "192.0.2.1"

[tables]
moves = 3

[[remote]]
address = "192.0.2.2"
vnis = [42, "100-199"]

[[segment]]
vni = 42
tap = "vx42"
remotes = ["192.0.2.2"]
source = ["198.51.100.0/24", "2001:db8::/32"]
broadcast = { rate = 100 }
unknown_unicast = "drop"

[[segment]]
vni = 43
tap = "vx43"
fdb = [{ mac = "02:00:00:00:00:01", remote = "192.0.2.3" }]
"""


def said(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "vx.toml"
    file.write_text(text)
    return [line.removeprefix(f"{file}:") for line in faults(file)]


def test_a_good_file_has_no_faults(tmp_path: Path) -> None:
    assert said(tmp_path, GOOD) == []
    (one, two) = config.load(tmp_path / "vx.toml").segments
    assert one.broadcast == config.Rate(rate=100, burst=32)
    assert (one.unknown_unicast, two.unknown_unicast, two.admits) == ("drop", "flood", "peers")


def test_every_mistake_is_told_in_the_order_of_lines(tmp_path: Path) -> None:
    text = (
        GOOD.replace("moves = 3", "movs = 3\nentries = 0")
        .replace('address = "192.0.2.2"\n', "")
        .replace('"100-199"', '"199-100"')
        .replace("2001:db8::/32", "2001:db8::1/32")
        .replace("198.51.100.0/24", "198.51.100.0/33")
        .replace("rate = 100", "burst = 0, rat = 1")
        .replace("vni = 43", 'vni = "43"')
        .replace("02:00:00:00:00:01", "03:00:00:00:00:01")
    )
    assert [line.partition("; ")[0] for line in said(tmp_path, text)] == [
        "5: tables.movs: unknown key",
        "6: tables.entries: 0 is not allowed",
        "8: remote[0].address: missing",
        '9: remote[0].vnis[1]: "199-100" is no VNI and no range of them',
        '15: segment[0].source[0]: "198.51.100.0/33" is not an IP prefix',
        '15: segment[0].source[1]: "2001:db8::1/32" has host bits set',
        "16: segment[0].broadcast.burst: 0 is not allowed",
        "16: segment[0].broadcast.rat: unknown key",
        "16: segment[0].broadcast.rate: missing",
        '20: segment[1].vni: "43" is not allowed',
        '22: segment[1].fdb[0].mac: "03:00:00:00:00:01" is a group address',
    ]


CONTRADICTIONS = [
    ('"192.0.2.3"', '"192.0.2.1"', '22: segment[1].fdb[0].remote: "192.0.2.1" is a local address'),
    ("vni = 43", "vni = 42", "20: segment[1].vni: 42 is the VNI of segment[0]"),
    ("42, ", "", '14: segment[0].remotes[0]: "192.0.2.2" may not speak in VNI 42'),
    ("moves = 3", "entries = 1\nsegments = 1", "6: tables.segments: 1 is less than the"),
    ('"192.0.2.1"', '"2001:db8::1"', '8: remote[0].address: "192.0.2.2" is IPv4 and no local address is'),
    (
        "[[segment]]\nvni = 43",
        '[[remote]]\naddress = "192.0.2.2"\n[[segment]]\nvni = 43',
        "20: remote[1].address",
    ),
]


@pytest.mark.parametrize(("old", "new", "expected"), CONTRADICTIONS)
@pytest.mark.parametrize("beside", ["", '\n[[segment]]\nvni = -1\ntap = "a"\nremotes = ["x"]\n'])
def test_contradictions_are_told_beside_other_mistakes(
    tmp_path: Path, old: str, new: str, expected: str, beside: str
) -> None:
    lines = said(tmp_path, GOOD.replace(old, new, 1) + beside)
    assert any(line.startswith(expected) for line in lines), lines
    assert len(lines) >= (3 if beside else 1)


@pytest.mark.parametrize(
    "text", ["", "segment = 3\n", "segment = []\n", "segment = [3]\n", "[[segment]]\n", "a ="]
)
def test_what_is_hardly_a_file_has_faults_too(tmp_path: Path, text: str) -> None:
    assert said(tmp_path, text)


def test_a_file_that_cannot_be_read_has_one_fault(tmp_path: Path) -> None:
    assert faults(tmp_path / "none.toml") == [
        f"{tmp_path / 'none.toml'}: cannot be read: No such file or directory"
    ]


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.text(max_size=8),
    st.builds(list),
    st.builds(dict),
    st.builds(lambda: [{}]),
)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [place for key, value in items for place in [(*path, key), *places(value, (*path, key))]]


def written(node: Any) -> str:
    if isinstance(node, dict):
        return "{" + ", ".join(f"{key} = {written(value)}" for key, value in node.items()) + "}"
    if isinstance(node, list):
        return "[" + ", ".join(map(written, node)) + "]"
    if isinstance(node, str):
        return '"' + "".join(c if c.isalnum() or c in ".:/-" else f"\\U{ord(c):08x}" for c in node) + '"'
    return str(node).lower()


def refusal(file: Path) -> str:
    """What `vxcore run` says of it, if it refuses it."""
    try:
        config.load(file)
    except ConfigError as error:
        return str(error)
    return ""


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_there_are_faults_exactly_when_the_file_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    """And what `vxcore run` says of it is one of them."""
    tree = tomllib.loads(GOOD)
    for _ in range(data.draw(st.integers(0, 3))):
        *parents, key = data.draw(st.sampled_from(places(tree) or [("underlay",)]))
        node: Any = tree
        for step in parents:
            node = node[step]
        value = data.draw(ODD)
        if value is None:
            del node[key]
        else:
            node[key] = value
    file = tmp_path / "vx.toml"
    file.write_text("".join(f"{key} = {written(value)}\n" for key, value in tree.items()))
    found = faults(file)
    said = refusal(file)
    assert said in found if said else found == []


def test_the_command_says_so_and_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "vx.toml"
    file.write_text(GOOD.replace("vni = 43", "vni = -1").replace("moves = 3", "moves = -1"))
    assert cli.main(["check", str(file)]) == 2
    assert len(capsys.readouterr().out.splitlines()) == 2
    file.write_text(GOOD)
    assert cli.main(["check", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: nothing is wrong\n"
