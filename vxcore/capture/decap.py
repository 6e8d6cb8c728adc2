"""``vxcore decap``: the inner frames of a capture, in one file or one for each VNI.

Place in the house: a command's work, above strip and sink. A batch is read, stripped and written
before the next, so memory does not grow with the file.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import numpy as np
from numpy.typing import NDArray

from vxcore._fast.pcap import LINK_ETHERNET
from vxcore.capture.counts import Counts
from vxcore.capture.progress import blocks
from vxcore.capture.sink import (
    LINK_RAW,
    FileSink,
    Form,
    Records,
    Sink,
    choose_form,
    replacing,
    splitting,
)
from vxcore.capture.source import Capture, open_capture
from vxcore.capture.strip import StripOptions, Stripped, Stripper
from vxcore.errors import ConfigError
from vxcore.verdict import Verdict
from vxcore.wire import VXLAN_PORT

log = logging.getLogger("vxcore")


class Decap:
    """Strips batches and says what of each is to be written."""

    def __init__(self, options: StripOptions, vnis: list[int] | None, keep_other: bool) -> None:
        self._stripper = Stripper(options)
        self._vnis = None if vnis is None else np.array(vnis, np.uint32)
        self._keep_other = keep_other
        self.counts = Counts()

    def records(self, capture: Capture) -> Records:
        """Strip the batch that was just read: the frames, and the rest as it was if that is kept."""
        stripped = self._stripper.strip(capture.reader)
        batch = stripped.batch
        if self._vnis is not None:
            other_vni = (batch.verdict == Verdict.DELIVERED) & ~np.isin(batch.vni, self._vnis)
            batch.verdict[other_vni] = Verdict.UNKNOWN_VNI
        self.counts.add(stripped)
        delivered = batch.verdict == Verdict.DELIVERED
        wanted = delivered
        if self._keep_other:
            stripped.restore(~delivered)
            wanted = batch.verdict != Verdict.UNKNOWN_VNI
        pick = np.flatnonzero(wanted).astype(np.uint32)
        vni = np.where(delivered, batch.vni, np.int64(-1))
        link = self._links(stripped, delivered)
        return Records(batch, capture.reader.time_ns, stripped.original_len(), pick, vni, link)

    def _links(self, stripped: Stripped, delivered: NDArray[np.bool_]) -> NDArray[np.uint16] | None:
        """What each packet to write starts with; None: all of them with Ethernet."""
        bare = stripped.batch.protocol != 0
        if not self._keep_other and not bare.any():
            return None
        inner = np.where(bare, np.uint16(LINK_RAW), np.uint16(LINK_ETHERNET))
        return np.where(delivered, inner, stripped.reader.link)


@contextmanager
def _file_sink(name: str, form: Form, comment: str | None) -> Iterator[FileSink]:
    with replacing(name) as file:
        yield FileSink(file, form, comment=comment)


def _sink(arguments: argparse.Namespace, capture: Capture) -> AbstractContextManager[Sink]:
    source = Form(capture.reader.pcapng, capture.reader.nanoseconds)
    form = choose_form(arguments.split_by_vni or arguments.output, arguments.format, source)
    if arguments.split_by_vni:
        return splitting(arguments.split_by_vni, form)
    return _file_sink(arguments.output, form, arguments.comment)


def main(arguments: argparse.Namespace) -> int:
    """Decapsulate a capture; the exit code is 1 when it was damaged or not all of it could be written."""
    if (arguments.output is None) == (arguments.split_by_vni is None):
        raise ConfigError("give OUT, or --split-by-vni DIR, and not both")
    options = StripOptions(
        ports=tuple(arguments.port or (VXLAN_PORT,)),
        depth=arguments.depth,
        checksum=arguments.checksum,
        gpe=arguments.gpe,
    )
    decap = Decap(options, arguments.vni, arguments.keep_other)
    with ExitStack() as stack:
        capture = open_capture(arguments.input, stack)
        sink = stack.enter_context(_sink(arguments, capture))
        for _ in blocks(capture):
            sink.write(decap.records(capture))
    _report(decap.counts, arguments.keep_other)
    return int(_complain(decap.counts, capture, sink.n_unfit))


def _report(counts: Counts, keep_other: bool) -> None:
    others = counts.others()
    log.info(
        "%d packets: %d decapsulated, %d %s%s%s",
        counts.n_packets,
        counts.n_delivered,
        sum(others.values()),
        "others kept as they were" if keep_other else "others dropped",
        f" ({', '.join(f'{n} {verdict.name}' for verdict, n in others.items())})" if others else "",
        f"; {counts.n_cut} frames cut short by the snap length" if counts.n_cut else "",
    )


def _complain(counts: Counts, capture: Capture, n_unfit: int) -> bool:
    """Name what is wrong; whether anything is."""
    unsupported = counts.unsupported()
    if unsupported is not None:
        log.warning("%s: %s", capture.source.name, unsupported)
    if n_unfit:
        log.error("%d packets left out: a pcap holds one link type; write a pcapng (--format)", n_unfit)
    if capture.problem is not None:
        log.error("%s: %s; all before that was written", capture.source.name, capture.problem)
    nothing_known = unsupported is not None and sum(counts.links.values()) == counts.n_packets
    return nothing_known or n_unfit > 0 or capture.problem is not None
