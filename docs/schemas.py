"""Writes docs/json-schemas.json: what the commands print with --json, as the structs have it.

Place in the house: a tool of the documentation (`make docs`); a test holds the page equal to what this
writes, and the commands to the page.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.json import schema_components

from vxcore.control import protocol as p
from vxcore.gen import report

PAGE = Path(__file__).with_name("json-schemas.json")


class Saved(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The running state as TOML, and the file that has it now; null: it was only printed."""

    file: str | None
    text: str


OUTPUTS: dict[str, Any] = {
    "show": p.Overview,
    "show segment": list[p.SegmentRow],
    "show fdb": list[p.FdbRow],
    "show remote": list[p.RemoteRow],
    "show neighbour": list[p.NeighbourRow],
    "show plane": list[p.PlaneRow],
    "show route": list[p.RouteRow],
    "show lane": list[p.LaneRow],
    "show drops": list[p.DropRow],
    "show offload": list[p.OffloadRow],
    "segment show": list[p.SegmentRow],
    "fdb show": list[p.FdbRow],
    "remote show": list[p.RemoteRow],
    "neighbour show": list[p.NeighbourRow],
    **dict.fromkeys(("segment add", "segment set", "segment del"), p.Done),
    **dict.fromkeys(("fdb add", "fdb replace", "fdb del", "fdb flush"), p.Done),
    **dict.fromkeys(("remote add", "remote set", "remote del"), p.Done),
    **dict.fromkeys(("neighbour add", "neighbour del"), p.Done),
    "reload": p.Reloaded,
    "save": Saved,
    **dict.fromkeys(("upgrade", "takeover"), p.Upgraded),
    "ping": p.Host,
    "ping --vtep": p.Reached,
    "gen send": report.Sent,
    "gen receive": report.Received,
    "trace": p.Seen,
    "trace, when packets were lost": p.Dropped,
    "monitor": p.Happened,
    "monitor, when events were dropped": p.Dropped,
}
"""What each command prints; monitor a line for each event."""


def document() -> dict[str, Any]:
    """The whole page: definitions, and for each command the schema of its output."""
    schemas, definitions = schema_components(OUTPUTS.values(), ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What the commands of vxcore print with --json",
        "$comment": "Written by `make docs` from control/protocol.py and gen/report.py; a change goes there.",
        "commands": dict(zip(OUTPUTS, schemas, strict=True)),
        "$defs": definitions,
    }


def page() -> str:
    """The page as text."""
    return json.dumps(document(), indent=1) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
