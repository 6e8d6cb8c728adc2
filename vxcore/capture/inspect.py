"""``vxcore inspect``: what VXLAN traffic a capture holds, in a table or as JSON.

Place in the house: a command's work, above strip. What is counted is counted in tables of a fixed
size (the compiled Tally), each with a row for all that found no place, so that memory grows neither
with the file nor with what somebody put into it.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import numpy as np

from vxcore._fast.tally import Tally, flow_keys, pair_keys
from vxcore.addresses import format_mac
from vxcore.capture.counts import Counts
from vxcore.capture.progress import blocks
from vxcore.capture.source import Capture, open_capture
from vxcore.capture.strip import StripOptions, Stripped, Stripper
from vxcore.columns import columns
from vxcore.sizes import amount
from vxcore.verdict import Verdict
from vxcore.wire import VXLAN_PORT, address_from_16

log = logging.getLogger("vxcore")

MAX_VNIS = 1 << 17
MAX_PAIRS = 1 << 16
MAX_FLOWS = 1 << 18
OVERFLOW = "(others, the table is full)"
_PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 33: "DCCP", 58: "ICMPv6", 132: "SCTP", 136: "UDPLite"}


class Summary:
    """Counts of one capture, taken batch by batch."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.vnis = Tally(8, MAX_VNIS)
        self.pairs = Tally(32, MAX_PAIRS)
        self.flows = Tally(48, MAX_FLOWS)
        self.ports = np.zeros(65536, np.int64)
        self.n_bytes = 0
        self.first_ns = np.iinfo(np.int64).max
        self.last_ns = np.iinfo(np.int64).min

    def add(self, stripped: Stripped) -> None:
        """Count a batch."""
        batch, reader = stripped.batch, stripped.reader
        self.counts.add(stripped)
        self.n_bytes += int(stripped.length.sum(dtype=np.int64))
        self.first_ns = min(self.first_ns, int(reader.time_ns.min()))
        self.last_ns = max(self.last_ns, int(reader.time_ns.max()))
        vnis = batch.vni.astype("<u8").view(np.uint8).reshape(-1, 8)
        self.vnis.add(vnis, batch)
        self.pairs.add(pair_keys(batch, stripped.outer_at), batch)
        self.flows.add(flow_keys(batch), batch)
        delivered = batch.verdict == Verdict.DELIVERED
        self.ports += np.bincount(batch.source_port[delivered], minlength=65536)

    def entropy(self) -> float:
        """Of the outer source ports, in bits: what there is for the underlay's links to choose by."""
        shares = self.ports[self.ports > 0] / max(1, self.ports.sum())
        return abs(float(-(shares * np.log2(shares)).sum()))


def main(arguments: argparse.Namespace, say: Callable[[Iterable[str]], None]) -> int:
    """Summarise a capture, by `say`; the exit code is 1 when it was damaged."""
    ports = tuple(arguments.port or (VXLAN_PORT,))
    stripper = Stripper(StripOptions(ports=ports, checksum=arguments.checksum, gpe=arguments.gpe))
    summary = Summary()
    with ExitStack() as stack:
        capture = open_capture(arguments.file, stack)
        for _ in blocks(capture):
            summary.add(stripper.strip(capture.reader))
    report = as_data(summary, capture, arguments.top)
    say([json.dumps(report, indent=2)] if arguments.json else as_text(report))
    if summary.counts.links:
        log.warning("%s: %s", capture.source.name, summary.counts.unsupported())
    if capture.problem is not None:
        log.error("%s: %s; the summary is of what is before that", capture.source.name, capture.problem)
    return int(capture.problem is not None)


# As data, for --json


def as_data(summary: Summary, capture: Capture, top: int) -> dict[str, Any]:
    """The summary as JSON has it; each table with its `top` largest rows, by bytes."""
    counts = summary.counts
    return {
        "file": capture.source.name,
        "format": "pcapng" if capture.reader.pcapng else "pcap",
        "packets": counts.n_packets,
        "bytes": summary.n_bytes,
        "first": _time(summary.first_ns) if counts.n_packets else None,
        "last": _time(summary.last_ns) if counts.n_packets else None,
        "seconds": (summary.last_ns - summary.first_ns) / 1e9 if counts.n_packets else 0.0,
        "problem": capture.problem,
        "cut_short": counts.n_cut,
        "verdicts": {Verdict(number).name: int(n) for number, n in enumerate(counts.verdicts) if n},
        "source_ports": {
            "different": int(np.count_nonzero(summary.ports)),
            "entropy_bits": round(summary.entropy(), 3),
        },
        "vnis": _table(summary.vnis, top, _vni),
        "vtep_pairs": _table(summary.pairs, top, _pair),
        "inner_flows": _table(summary.flows, top, _flow),
    }


def _time(ns: int) -> str:
    """ISO 8601 with nanoseconds; a number of seconds where no calendar goes."""
    seconds, rest = divmod(ns, 1_000_000_000)
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
    except (OverflowError, ValueError, OSError):
        return f"{seconds}.{rest:09d}"


def _table(tally: Tally, top: int, name: Any) -> dict[str, Any]:
    rows = [{**name(key), "packets": packets, "bytes": n_bytes} for key, packets, n_bytes in tally.rows(top)]
    return {
        "different": tally.count,
        "rows": rows,
        "overflow": {"packets": tally.other_packets, "bytes": tally.other_bytes},
    }


def _vni(key: bytes) -> dict[str, Any]:
    return {"vni": int.from_bytes(key, "little")}


def _pair(key: bytes) -> dict[str, Any]:
    return {"source": str(address_from_16(key[:16])), "destination": str(address_from_16(key[16:]))}


def _flow(key: bytes) -> dict[str, Any]:
    """A flow's key (see flow_keys) in words."""
    vni, version, protocol = int.from_bytes(key[:4], sys.byteorder), key[4], key[5]
    first, second = int.from_bytes(key[8:10], "big"), int.from_bytes(key[10:12], "big")
    if version == 0:
        source, destination = format_mac(key[16:22]), format_mac(key[32:38])
        return {"vni": vni, "protocol": f"{first:#06x}", "source": source, "destination": destination}
    ends = {"source": str(address_from_16(key[16:32])), "destination": str(address_from_16(key[32:]))}
    ports = {"source_port": first, "destination_port": second} if first or second else {}
    return {"vni": vni, "protocol": _PROTOCOLS.get(protocol, str(protocol)), **ends, **ports}


# As text


def as_text(report: dict[str, Any]) -> Iterator[str]:
    """The lines of the table."""
    yield f"{report['file']}: {report['format']}, {report['packets']} packets, {amount(report['bytes'])}"
    if report["first"]:
        yield f"from {report['first']} to {report['last']}, {report['seconds']:.3f} s"
    if report["cut_short"]:
        yield f"{report['cut_short']} frames cut short by the snap length"
    yield ""
    yield from columns(["VERDICT", "PACKETS"], _verdict_rows(report["verdicts"]))
    yield from _source_ports(report["source_ports"])
    yield from _section("VNI", report["vnis"], lambda row: [str(row["vni"])])
    yield from _section(
        "VTEPS", report["vtep_pairs"], lambda row: [f"{row['source']} -> {row['destination']}"]
    )
    yield from _section("INNER FLOW", report["inner_flows"], _flow_words)


def _verdict_rows(verdicts: dict[str, int]) -> list[list[str]]:
    return [[f"{name}: {Verdict[name].text}", str(n)] for name, n in verdicts.items()]


def _source_ports(found: dict[str, Any]) -> Iterator[str]:
    if found["different"]:
        most = math.log2(found["different"])
        yield ""
        yield (
            f"outer source ports: {found['different']} different, entropy {found['entropy_bits']} bits"
            f" ({most:.1f} if all were used alike)"
        )


def _pair_words(row: dict[str, Any]) -> list[str]:
    return [f"{row['source']} -> {row['destination']}"]


def _flow_words(row: dict[str, Any]) -> list[str]:
    ends = [row["source"], row["destination"]]
    if "source_port" in row:
        form = "[{}]:{}" if ":" in row["source"] else "{}:{}"
        ends = [form.format(ends[0], row["source_port"]), form.format(ends[1], row["destination_port"])]
    return [f"vni {row['vni']} {row['protocol']} {ends[0]} -> {ends[1]}"]


def _section(title: str, table: dict[str, Any], words: Any) -> Iterator[str]:
    rows = [[*words(row), str(row["packets"]), amount(row["bytes"])] for row in table["rows"]]
    rest = table["different"] - len(rows)
    overflow = table["overflow"]
    if overflow["packets"]:
        rows.append([OVERFLOW, str(overflow["packets"]), amount(overflow["bytes"])])
    yield ""
    yield from columns([title, "PACKETS", "BYTES"], rows)
    if rest > 0:
        yield f"and {rest} more (--top)"
