"""What is saved of a running VTEP makes another that is the same, whatever was done to the first."""

from __future__ import annotations

import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from support.dry_vtep import DryVtep

from vxcore import Vtep, config, toml_writer
from vxcore.control.requests import Operated, answer, asked
from vxcore.errors import ConfigError, VxcoreError
from vxcore.faults import faults
from vxcore.fdb import KIND_NAMES
from vxcore.remotes import unpacked

# What may be asked for. Few values, so that requests meet.

VNIS = st.sampled_from([0, 1, 42, 0xFFFFFF])
MACS = st.integers(1, 5).map(lambda n: f"02:00:00:00:00:{n:02x}")
REMOTES = st.sampled_from(["192.0.2.2", "192.0.2.3", "192.0.2.4", "2001:db8::2"])
ADDRESSES = st.sampled_from(["10.42.0.7", "10.42.0.8", "fd42::7", "fe80::7"])
FLOODED = st.sampled_from(["flood", "drop", {"rate": 5}, {"rate": 7, "burst": 9}])
LISTS = st.none() | st.lists(st.sampled_from([42, "0-1", "40-16777215"]), max_size=2)
SEQUENCES = st.integers(0, 3)
KINDS = st.sampled_from(["static", "control", "sticky"])


def entries(**more: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"mac": MACS, "remote": REMOTES, **more}, optional={"kind": KINDS}).map(
        numbered
    )


def numbered(entry: dict[str, Any]) -> dict[str, Any]:
    """A sequence number for those that have one."""
    return entry if entry.get("kind", "static") == "static" else {**entry, "sequence": int(entry["mac"][-1])}


KEYS: dict[str, st.SearchStrategy[Any]] = {
    "remotes": st.lists(REMOTES, max_size=3, unique=True),
    "fdb": st.lists(entries(), max_size=3, unique_by=lambda entry: entry["mac"]),
    "neighbours": st.lists(
        st.fixed_dictionaries({"address": ADDRESSES, "mac": MACS, "router": st.booleans()}),
        max_size=2,
        unique_by=lambda entry: entry["address"],
    ),
    "learning": st.booleans(),
    "ageing": st.integers(0, 500),
    "maxaddress": st.integers(0, 3),
    "source": st.sampled_from(["peers", "any", ["192.0.2.0/24", "2001:db8::/32"]]),
    "broadcast": FLOODED,
    "multicast": FLOODED,
    "unknown_unicast": FLOODED,
    "mtu": st.none() | st.just(1400),
}
SEGMENTS = st.fixed_dictionaries({"vni": VNIS}, optional=KEYS).map(
    lambda keys: {"tap": f"vx{keys['vni']}", **keys}
)
REQUESTS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "segment.add": st.builds(lambda one: {"segments": [one]}, SEGMENTS),
    "segment.change": st.fixed_dictionaries(
        {"vni": VNIS, "set": st.fixed_dictionaries({}, optional=KEYS)},
        optional={"unset": st.lists(st.sampled_from(sorted(KEYS)), max_size=2)},
    ),
    "segment.flood": st.fixed_dictionaries(
        {"vni": VNIS},
        optional={"add": st.lists(REMOTES, max_size=2), "remove": st.lists(REMOTES, max_size=2)},
    ),
    "segment.remove": st.fixed_dictionaries({"vnis": st.lists(VNIS, max_size=2)}),
    "fdb.add": st.builds(lambda one: {"entries": [one]}, entries(vni=VNIS)),
    "fdb.replace": st.builds(lambda one: {"entries": [one]}, entries(vni=VNIS)),
    "fdb.remove": st.builds(lambda vni, mac: {"entries": [{"vni": vni, "mac": mac}]}, VNIS, MACS),
    "remote.add": st.fixed_dictionaries({"address": REMOTES, "vnis": LISTS}),
    "remote.change": st.fixed_dictionaries({"address": REMOTES, "vnis": LISTS}),
    "remote.remove": st.builds(lambda address: {"addresses": [address]}, REMOTES),
    "neighbour.set": st.builds(
        lambda vni, address, mac: {"entries": [{"vni": vni, "address": address, "mac": mac}]},
        VNIS,
        ADDRESSES,
        MACS,
    ),
    "neighbour.remove": st.builds(
        lambda vni, address: {"entries": [{"vni": vni, "address": address}]}, VNIS, ADDRESSES
    ),
}
STEPS = st.sampled_from(sorted(REQUESTS)).flatmap(lambda name: st.tuples(st.just(name), REQUESTS[name]))
BEGIN = {
    "underlay": {"local": ["192.0.2.1", "2001:db8::1"], "ttl": "inherit", "srcport": [5000, 5007]},
    "tables": {"entries": 40},
}


def state(vtep: Vtep) -> dict[str, Any]:
    """Everything that lanes go by, by addresses: numbers may differ."""
    remotes = {int(row["remote"]): unpacked(bytes(row["address"])) for row in vtep.snapshot("remotes")}
    fdb = vtep.snapshot("fdb")
    tables = vtep.tables
    return {
        "fdb": sorted(
            (row["vni"], row["mac"], KIND_NAMES[row["kind"]], str(remotes[row["remote"]]), row["sequence"])
            for row in fdb
            if row["remote"] >= 0 and KIND_NAMES[row["kind"]] != "learned"
        ),
        "neighbours": sorted(row.tobytes() for row in vtep.snapshot("neighbours")),
        "segments": sorted(
            (row["vni"], row["ageing_s"], row["max_learned"], row["learning"], row["any_source"])
            for row in vtep.snapshot("segments")
        ),
        "floods": {int(row["vni"]): set(vtep.segments.flood(row["vni"])) for row in tables.segments()},
        "policies": {int(row["vni"]): tables.policy(int(row["segment"])) for row in tables.segments()},
        "remotes": sorted((str(remotes[row["remote"]]), row["uses"]) for row in vtep.snapshot("remotes")),
        "lists": vtep.listed_remotes(),
    }


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    begin=st.lists(SEGMENTS, max_size=2, unique_by=lambda each: each["vni"]),
    steps=st.lists(STEPS, max_size=14),
)
def test_what_is_saved_makes_the_same_vtep(
    begin: list[dict[str, Any]], steps: list[tuple[str, dict[str, Any]]], tmp_path_factory: Any
) -> None:
    file = tmp_path_factory.getbasetemp() / "saved.toml"
    with DryVtep({**BEGIN, "segment": begin}) as vtep:
        operated = Operated(vtep)
        for name, words in steps:
            with suppress(VxcoreError):
                answer(operated, name, asked(name, words))
        before, text = state(vtep), toml_writer.dumps(vtep.running())
        file.write_text(text)
        assert faults(file) == []
        vtep.apply(config.load(file))
        assert (state(vtep), toml_writer.dumps(vtep.running())) == (before, text)
    with DryVtep(config.load(file)) as again:
        assert (state(again), toml_writer.dumps(again.running())) == (before, text)


def test_every_setting_is_written_and_read_back(tmp_path: Path) -> None:
    everything = {
        "underlay": {"local": ["192.0.2.1"], "dstport": 8472, "udpcsum": True, "tos": 3, "dev": "eth0"},
        "lanes": {"count": 2, "cpus": [0, 1]},
        "offload": {"join": False},
        "tables": {"segments": 9, "moves": 0},
        "control": {"socket": "/run/x/y.sock", "group": "netops"},
        "log": {"format": "json", "rate": 0},
        "process": {"user": "vxcore"},
        "metrics": {},
        "remote": [{"address": "192.0.2.9", "vnis": [3, "5-9"]}],
        "collect": [{"vnis": ["100-199"], "write": 'a "b"\\', "rotate": "1GiB", "source": ["10.0.0.0/8"]}],
        "segment": [
            {"vni": 1, "tap": "a"},
            {
                "vni": 2,
                "port": {"kind": "packet", "dev": "b"},
                "group": "239.1.1.1",
                "broadcast": {"rate": 4},
            },
        ],
    }
    made = config.from_mapping(everything)
    file = tmp_path / "all.toml"
    file.write_text(toml_writer.dumps(made))
    assert config.load(file) == made


def test_what_has_its_default_is_not_written() -> None:
    text = toml_writer.dumps(config.from_mapping({"underlay": {"local": "192.0.2.1"}}))
    assert tomllib.loads(text) == {"underlay": {"local": ["192.0.2.1"]}, "segment": []}


def test_a_control_planes_entry_in_a_file_gives_way_as_the_file_says() -> None:
    def segment(**entry: Any) -> dict[str, Any]:
        return {
            "vni": 42,
            "tap": "vx42",
            "fdb": [{"mac": "02:00:00:00:00:01", "remote": "192.0.2.2", **entry}],
        }

    def kinds(vtep: Vtep) -> list[tuple[str, int]]:
        rows = vtep.snapshot("fdb")
        return [(KIND_NAMES[row["kind"]], int(row["sequence"])) for row in rows]

    underlay = {"local": ["192.0.2.1"]}
    with DryVtep({"segment": [segment(kind="control", sequence=5)]}) as vtep:
        for entry, wanted in (
            ({"kind": "control", "sequence": 2}, ("control", 2)),
            ({}, ("static", 0)),
            ({"kind": "sticky", "sequence": 1}, ("sticky", 1)),
        ):
            vtep.apply(config.from_mapping({"underlay": underlay, "segment": [segment(**entry)]}))
            assert kinds(vtep) == [wanted]


def test_a_remote_of_the_file_that_was_removed_by_hand_is_no_obstacle() -> None:
    remote = {"remote": [{"address": "192.0.2.9"}]}
    underlay = {"underlay": {"local": ["192.0.2.1"]}}
    with DryVtep(remote) as vtep:
        vtep.remove_remotes(["192.0.2.9"])
        vtep.apply(config.from_mapping({**underlay, **remote}))
        assert [str(each.address) for each in vtep.listed_remotes()] == ["192.0.2.9"]
        vtep.remove_remotes(["192.0.2.9"])
        vtep.apply(config.from_mapping(underlay))
        assert vtep.listed_remotes() == ()


def test_what_is_saved_is_no_other_where_the_route_chose_the_local_address(tmp_path: Path) -> None:
    segment = {"segment": [{"vni": 42, "tap": "vx42", "remotes": ["192.0.2.2"]}]}
    file = tmp_path / "saved.toml"
    with DryVtep({"underlay": {}, **segment}) as vtep:
        file.write_text(toml_writer.dumps(vtep.running()))
        for settings_ in (config.load(file), config.from_mapping(segment), config.load(file)):
            vtep.apply(settings_)
        other = config.from_mapping({"underlay": {"local": "192.0.2.7"}, **segment})
        with pytest.raises(ConfigError, match=r"underlay\.local"):
            vtep.apply(other)
    assert tomllib.loads(file.read_text())["underlay"] == {"local": ["192.0.2.1"]}
