"""``vxcore encap``: the frames of a capture with VXLAN around them.

Place in the house: a command's work, above sink; the reverse of decap.
"""

from __future__ import annotations

import argparse
import logging
from contextlib import ExitStack

import numpy as np

from vxcore._fast.batch import Spread
from vxcore._fast.codec import Tunnel, encap
from vxcore._fast.pcap import BLOCK_SIZE, LINK_ETHERNET, MAX_PACKETS
from vxcore.capture.progress import blocks
from vxcore.capture.sink import LINK_RAW, FileSink, Form, Records, choose_form, replacing
from vxcore.capture.source import Capture, open_capture
from vxcore.verdict import Verdict

log = logging.getLogger("vxcore")


class Encap:
    """Encapsulates batches; counts what became of their packets."""

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self._spread = Spread(BLOCK_SIZE, MAX_PACKETS)
        self.verdicts = np.zeros(len(Verdict), np.int64)

    def records(self, capture: Capture) -> Records:
        """Encapsulate the batch that was just read, in a copy that has room for the headers."""
        reader = capture.reader
        batch = self._spread.take(reader.batch)
        batch.verdict[reader.link != LINK_ETHERNET] = Verdict.LINK_TYPE
        missing = np.maximum(reader.original_len, batch.length) - batch.length
        encap(batch, self._tunnel)
        self.verdicts += np.bincount(batch.verdict, minlength=len(self.verdicts))
        pick = np.flatnonzero(batch.verdict == Verdict.DELIVERED).astype(np.uint32)
        vni = batch.vni.astype(np.int64)
        return Records(batch, reader.time_ns, batch.length + missing, pick, vni)


def main(arguments: argparse.Namespace) -> int:
    """Encapsulate a capture; the exit code is 1 when it was damaged or a frame could not be carried."""
    tunnel = _tunnel(arguments)
    work = Encap(tunnel)
    with ExitStack() as stack:
        capture = open_capture(arguments.input, stack)
        source = Form(capture.reader.pcapng, capture.reader.nanoseconds)
        form = choose_form(arguments.output, arguments.format, source)
        file = stack.enter_context(replacing(arguments.output))
        link = LINK_ETHERNET if tunnel.spec.ethernet else LINK_RAW
        sink = FileSink(file, form, link, arguments.comment)
        for _ in blocks(capture):
            sink.write(work.records(capture))
    return int(_report(work.verdicts, capture))


def _tunnel(arguments: argparse.Namespace) -> Tunnel:
    """The Tunnel of the options; wire.TunnelSpec checks them."""
    macs = tuple(arguments.ethernet) if arguments.ethernet else None
    return Tunnel(
        local=arguments.local,
        remote=arguments.remote,
        vni=arguments.vni,
        dst_port=arguments.dstport,
        src_port=tuple(arguments.srcport),
        ttl=arguments.ttl,
        tos=arguments.tos,
        df=arguments.df,
        udp_checksum=True if arguments.udpcsum else None,
        ethernet=macs,
        outer_vlan=arguments.outer_vlan,
        inner_vlan=arguments.inner_vlan,
    )


def _report(verdicts: np.ndarray[tuple[int], np.dtype[np.int64]], capture: Capture) -> bool:
    """Say what became of the packets; whether anything went wrong."""
    refused = {Verdict(number): int(n) for number, n in enumerate(verdicts) if n and number}
    log.info("%d packets: %d encapsulated", int(verdicts.sum()), int(verdicts[Verdict.DELIVERED]))
    for verdict, number in refused.items():
        log.error("%d packets left out: %s: %s", number, verdict.name, verdict.text)
    if capture.problem is not None:
        log.error("%s: %s; all before that was written", capture.source.name, capture.problem)
    return bool(refused) or capture.problem is not None
