"""Neighbours as a control plane sets them, against a plain dictionary, all or nothing, as lanes see them."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vxcore._fast.table import Reader, Tables
from vxcore.errors import ConfigError
from vxcore.journal import Journal
from vxcore.neighbours import Neighbours

VNIS = (7, 8, 9)
ADDRESSES = [*(f"10.0.0.{n}" for n in range(1, 12)), *(f"fd00::{n}" for n in range(1, 12))]
MAC = 0x020000000001
Model = dict[tuple[int, bytes], tuple[int, bool]]


class Control:
    def __init__(self) -> None:
        self.tables = Tables(8, 2, 8)
        self.journal = Journal(self.tables)
        self.neighbours = Neighbours(self.journal)
        self.reader = Reader(self.tables)
        for vni in VNIS:
            self.add(vni)

    def add(self, vni: int) -> None:
        self.tables.add_segment(vni, 0, [], learning=True, ageing_s=300, max_learned=0)

    def state(self) -> dict[tuple[int, bytes], tuple[int, bool]]:
        rows = self.neighbours.snapshot()
        return {(int(r["vni"]), r["address"].tobytes()): (int(r["mac"]), bool(r["router"])) for r in rows}

    def found(self, vni: int, address: str) -> tuple[int, bool] | None:
        self.reader.enter()
        try:
            return self.reader.find_neighbour(self.tables.find_segment(vni), packed(address))
        finally:
            self.reader.leave()


def packed(text: str) -> bytes:
    address = ip_address(text)
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


@pytest.fixture
def control() -> Control:
    return Control()


def test_one_address_has_one_mac_in_each_segment(control: Control) -> None:
    control.neighbours.set(7, "10.0.0.1", MAC)
    control.neighbours.set(8, "10.0.0.1", MAC + 1, router=True)
    assert control.found(7, "10.0.0.1") == (MAC, False)
    assert control.found(8, "10.0.0.1") == (MAC + 1, True)
    assert control.found(9, "10.0.0.1") is None
    control.neighbours.set(7, "10.0.0.1", MAC + 2)
    assert control.found(7, "10.0.0.1") == (MAC + 2, False)


def test_in_bulk_from_arrays(control: Control) -> None:
    addresses = np.zeros((1000, 16), np.uint8)
    addresses[:, 14:] = np.arange(1000, dtype=">u2").view(np.uint8).reshape(-1, 2)
    macs = np.arange(MAC, MAC + 1000, dtype=np.uint64)
    control.neighbours.set(np.full(1000, 7, np.uint32), addresses, macs)
    assert len(control.neighbours.snapshot()) == 1000
    assert (control.neighbours.snapshot()["mac"] == macs).all()
    control.neighbours.remove(7, addresses[::2])
    assert sorted(control.neighbours.snapshot()["mac"].tolist()) == macs[1::2].tolist()


WRONG: list[tuple[Any, str]] = [
    (([7, 77], ["10.0.0.1", "10.0.0.2"], [MAC, MAC]), "VNI 77: there is no such segment"),
    (
        (7, ["10.0.0.1", "10.0.0.2"], [MAC, 1 << 40]),
        "VNI 7, 01:00:00:00:00:00: not the address of one station",
    ),
    ((7, ["10.0.0.1", "10.0.0.2"], [MAC]), "address: (2, 16) bytes, not (1, 16)"),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG)
def test_what_is_wrong_is_named_and_nothing_is_set(control: Control, arguments: Any, said: str) -> None:
    control.neighbours.set(7, "10.0.0.1", MAC + 9)
    before = control.state()
    with pytest.raises(ConfigError) as raised:
        control.neighbours.set(*arguments)
    assert str(raised.value).startswith(said)
    assert control.state() == before
    assert control.found(7, "10.0.0.1") == (MAC + 9, False)


def test_what_is_not_there_is_named_and_nothing_is_removed(control: Control) -> None:
    control.neighbours.set(7, "10.0.0.1", MAC)
    with pytest.raises(ConfigError, match=r"VNI 7, 10\.0\.0\.2: no such neighbour"):
        control.neighbours.remove(7, ["10.0.0.1", "10.0.0.2"])
    assert control.found(7, "10.0.0.1") == (MAC, False)
    control.neighbours.remove(7, ["10.0.0.1", "10.0.0.2"], missing_ok=True)
    assert control.found(7, "10.0.0.1") is None


def test_they_go_with_their_segment(control: Control) -> None:
    control.neighbours.set([7, 8], ["10.0.0.1", "10.0.0.1"], [MAC, MAC])
    control.tables.remove_segments([control.tables.find_segment(7)])
    control.add(7)
    assert control.found(7, "10.0.0.1") is None
    assert control.found(8, "10.0.0.1") == (MAC, False)


actions = st.lists(
    st.tuples(
        st.sampled_from(["set", "remove", "fail", "renew"]),
        st.sampled_from(VNIS),
        st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=8, unique=True),
        st.integers(1, 200),
    ),
    max_size=30,
)


def apply(control: Control, what: str, vni: int, given: list[str], macs: list[int]) -> None:
    if what == "renew":
        control.tables.remove_segments([control.tables.find_segment(vni)])
        control.add(vni)
    elif what == "remove":
        control.neighbours.remove(vni, given, missing_ok=True)
    else:
        with suppress(LookupError), control.journal.change():
            control.neighbours.set(vni, given, macs)
            if what == "fail":
                control.neighbours.remove(vni, given[0])
                raise LookupError


def apply_to(model: Model, what: str, vni: int, given: list[str], macs: list[int]) -> None:
    if what == "set":
        model.update({(vni, packed(address)): (mac, False) for address, mac in zip(given, macs, strict=True)})
    elif what != "fail":
        gone = map(packed, ADDRESSES if what == "renew" else given)
        for address in gone:
            model.pop((vni, address), None)


@given(actions)
def test_whatever_is_done_lanes_see_what_a_dictionary_holds(
    actions: list[tuple[str, int, list[str], int]],
) -> None:
    control, model = Control(), {}
    for what, vni, given_, mac in actions:
        macs = [2 * mac + 512 * n for n in range(len(given_))]
        apply(control, what, vni, given_, macs)
        apply_to(model, what, vni, given_, macs)
    assert control.state() == model
    for vni in VNIS:
        for address in ADDRESSES:
            assert control.found(vni, address) == model.get((vni, packed(address)))
