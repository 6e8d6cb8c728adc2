"""The tables that a lane looks up, as far as Python fills and reads them."""

from __future__ import annotations

import pytest

from vxcore._fast.table import Tables
from vxcore.errors import TableFullError


def mapped(last: int) -> bytes:
    return bytes(10) + b"\xff\xff\xc0\x00\x02" + bytes([last])


def test_static_entries_come_back() -> None:
    tables = Tables(1, 1, 1)
    remote = tables.add_remote(mapped(2), bytes(16))
    tables.add_segment(0xABCDEF, 0, [remote], learning=True, ageing_s=300, max_learned=0)
    macs = [0x020000000000 + n for n in range(20_000)]
    for mac in macs:
        tables.add_static(0xABCDEF, mac, remote)
    tables.add_static(0xABCDEF, macs[0], remote)
    rows = tables.fdb_rows()
    assert sorted(rows) == [(0xABCDEF, mac, remote, True) for mac in macs]
    assert tables.fdb_counters()["entries"] == len(macs)


def test_segments_and_remotes_beyond_the_room_are_refused() -> None:
    tables = Tables(1, 1, 1)
    tables.add_remote(mapped(2), bytes(16))
    with pytest.raises(ValueError, match="more than 1 remotes"):
        tables.add_remote(mapped(3), bytes(16))
    with pytest.raises(ValueError, match="more than 1 segments or 1 flood members"):
        tables.add_segment(1, 0, [0, 0, 1], learning=True, ageing_s=1, max_learned=0)


def test_a_full_table_says_so() -> None:
    tables = Tables(1, 1, 0, max_entries=16)
    tables.add_remote(mapped(2), bytes(16))
    tables.add_segment(1, 0, [], learning=True, ageing_s=300, max_learned=0)

    def fill() -> None:
        for n in range(100):
            tables.add_static(1, 0x020000000000 + n, 0)

    with pytest.raises(TableFullError, match="no room in the forwarding table for 0200"):
        fill()
