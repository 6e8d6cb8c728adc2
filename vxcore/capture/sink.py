"""Where packets go: one capture file, or one for each VNI.

Place in the house: above the compiled Writer, under the commands decap and encap. A regular file
appears under its name when it is complete; a failure leaves what was there before.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from vxcore import files
from vxcore._fast.batch import PacketBatch
from vxcore._fast.pcap import LINK_ETHERNET, Writer
from vxcore.capture.source import naming
from vxcore.errors import ConfigError

LINK_RAW = 101  # bare IP
_MAX_NAMED = 60_000  # VNIs with an interface of their own in a pcapng; the others share one a link type
_MAX_INTERFACES = 65_536  # more than our Reader takes, and others still less
_MAX_OPEN = 128  # files of a split at a time: far below what a process may open
_SPLIT_BLOCK = 64 << 10
_OTHER = 1 << 32  # the key of packets without a VNI


class Form(NamedTuple):
    """What kind of capture is written."""

    pcapng: bool
    nanoseconds: bool

    @property
    def suffix(self) -> str:
        """What the names of such files end with."""
        return ".pcapng" if self.pcapng else ".pcap"


def choose_form(name: str, wanted: str | None, source: Form) -> Form:
    """The form of an output: as `wanted` ("pcap", "pcapng"), as its name ends, or else as its source.

    What comes from a pcapng is written in nanoseconds: any of its interfaces may have them.
    Raises ConfigError for a name that promises compression.
    """
    suffix = Path(name).suffix.lower()
    if suffix in (".gz", ".zst"):
        raise ConfigError(f"{name}: compressed captures are read, not written; write to - and compress that")
    kind = wanted or {".pcap": "pcap", ".pcapng": "pcapng"}.get(suffix)
    pcapng = source.pcapng if kind is None else kind == "pcapng"
    return Form(pcapng, source.pcapng or source.nanoseconds)


# Files that appear when they are complete


@contextmanager
def replacing(name: str) -> Iterator[io.FileIO]:
    """A file to write that gets its name when all went well; ``-`` and devices are written directly.

    Raises OSError that names the file, ConfigError when standard output is a terminal.
    """
    if name != "-":
        with naming(name), files.replacing(name, sync=False) as file:
            yield io.FileIO(file.fileno(), "wb", closefd=False)
        return
    if os.isatty(1):
        raise ConfigError("standard output is a terminal; redirect it, or name a file")
    with naming("standard output"):
        yield io.FileIO(1, "wb", closefd=False)


@contextmanager
def filling(name: str) -> Iterator[Path]:
    """A directory to fill that gets its name when all went well.

    Raises ConfigError when there is a directory of this name that is not empty.
    """
    target = Path(os.path.realpath(name))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{name}: exists and is no empty directory; name a new one")
    try:
        partial = Path(tempfile.mkdtemp(".part", f".{target.name[:200]}.", target.parent))
    except OSError as error:
        error.filename = name
        raise
    try:
        yield partial
        partial.chmod(0o777 & ~files.umask())
        partial.replace(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


# Writing packets


class Records(NamedTuple):
    """Packets to write: of `batch` those that `pick` numbers; the other arrays are for all, shape (n,).

    `link` None says that all are Ethernet; `vni` has -1 for packets that have none.
    """

    batch: PacketBatch
    time_ns: NDArray[np.int64]
    original_len: NDArray[np.uint32] | None
    pick: NDArray[np.uint32]
    vni: NDArray[np.int64]
    link: NDArray[np.uint16] | None = None


class Sink(Protocol):
    """Takes packets; counts those that do not fit what it writes."""

    n_unfit: int

    def write(self, records: Records) -> None:
        """Write the packets, in their order."""


class FileSink:
    """One capture file. In a pcapng each VNI is an interface, so that it is not lost.

    A pcap holds packets of one link type; ``n_unfit`` counts those of others, which are left out (and
    what is of more link types than a pcapng can have interfaces).
    """

    def __init__(self, file: io.FileIO, form: Form, link: int = LINK_ETHERNET, comment: str | None = None):
        if comment is not None and not form.pcapng:
            raise ConfigError("a pcap has no place for a comment; write a pcapng (--format)")
        self._link = link
        self._writer = Writer(
            file, pcapng=form.pcapng, nanoseconds=form.nanoseconds, link=link, comment=comment
        )
        self._interfaces: dict[int, int] = {}
        self.n_unfit = 0

    def write(self, records: Records) -> None:
        """Write the packets, in their order."""
        pick, interface = records.pick, None
        if self._writer.pcapng:
            pick, interface = self._interface(records)
        elif records.link is not None:
            pick = pick[records.link[pick] == self._link]
        self.n_unfit += len(records.pick) - len(pick)
        self._writer.write(records.batch, records.time_ns, records.original_len, pick, interface)

    def _interface(self, records: Records) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Which packets to write, and the number of each one's interface, made when it is the first."""
        link = records.link if records.link is not None else np.full(1, self._link, np.uint16)
        keys = np.where(records.vni < 0, _OTHER, records.vni) | link.astype(np.int64) << 33
        different, where = np.unique(keys[records.pick], return_inverse=True)
        numbers = np.array([self._number(int(key)) for key in different], np.int64)[where]
        interface = np.zeros(len(keys), np.uint32)
        interface[records.pick] = np.maximum(numbers, 0)
        return records.pick[numbers >= 0], interface

    def _number(self, key: int) -> int:
        """The interface of a link type and VNI; -1 when there can be no more."""
        vni, link, n_known = key & 0xFFFFFF, key >> 33, len(self._interfaces)
        if key in self._interfaces:
            return self._interfaces[key]
        if n_known >= _MAX_NAMED and not key & _OTHER:
            return self._number(_OTHER | link << 33)
        if n_known == _MAX_INTERFACES:
            return -1
        name = "other" if key & _OTHER else f"vxlan{vni}"
        self._interfaces[key] = self._writer.add_interface(link, name)
        return self._interfaces[key]


class SplitSink:
    """A directory with a file for each VNI (``vni-42.pcap``) and one for the rest (``other.pcap``).

    Few of them are open at a time; which were begun is a bit for each VNI.
    """

    def __init__(self, directory: Path, form: Form) -> None:
        self._directory = directory
        self._form = form
        self._begun = np.zeros(1 << 24, np.bool_)
        self._open: OrderedDict[int, tuple[io.FileIO, Writer]] = OrderedDict()
        self._rest: FileSink | None = None
        self._rest_file: io.FileIO | None = None
        self.n_unfit = 0

    def write(self, records: Records) -> None:
        """Write each packet to the file of its VNI."""
        vni = records.vni[records.pick]
        order = np.argsort(vni, kind="stable")
        bounds = np.flatnonzero(np.diff(vni[order])) + 1
        for part in np.split(records.pick[order], bounds):
            if len(part):
                self._write_one(int(records.vni[part[0]]), records._replace(pick=part))

    def _write_one(self, vni: int, records: Records) -> None:
        if vni < 0:
            self._write_rest(records)
            return
        pick, interface = records.pick, None
        if records.link is not None and self._form.pcapng:
            interface = (records.link == LINK_RAW).astype(np.uint32)
        elif records.link is not None:
            pick = pick[records.link[pick] == LINK_ETHERNET]
            self.n_unfit += len(records.pick) - len(pick)
        self._writer(vni).write(records.batch, records.time_ns, records.original_len, pick, interface)

    def _writer(self, vni: int) -> Writer:
        if vni in self._open:
            self._open.move_to_end(vni)
            return self._open[vni][1]
        if len(self._open) == _MAX_OPEN:
            self._open.popitem(last=False)[1][0].close()
        file = io.FileIO(self._directory / f"vni-{vni}{self._form.suffix}", "ab")
        append = bool(self._begun[vni])
        writer = Writer(
            file,
            pcapng=self._form.pcapng,
            nanoseconds=self._form.nanoseconds,
            append=append,
            n_interfaces=2 if append else 0,
            block_size=_SPLIT_BLOCK,
        )
        if self._form.pcapng and not append:
            writer.add_interface(LINK_ETHERNET, f"vxlan{vni}")
            writer.add_interface(LINK_RAW, f"vxlan{vni}")
        self._begun[vni] = True
        self._open[vni] = file, writer
        return writer

    def _write_rest(self, records: Records) -> None:
        if self._rest is None:
            self._rest_file = io.FileIO(self._directory / f"other{self._form.suffix}", "wb")
            first = LINK_ETHERNET if records.link is None else int(records.link[records.pick[0]])
            self._rest = FileSink(self._rest_file, self._form, first)
        before = self._rest.n_unfit
        self._rest.write(records)
        self.n_unfit += self._rest.n_unfit - before

    def close(self) -> None:
        """Close what is still open."""
        for file, _ in self._open.values():
            file.close()
        if self._rest_file is not None:
            self._rest_file.close()


@contextmanager
def splitting(name: str, form: Form) -> Iterator[SplitSink]:
    """A SplitSink whose directory gets its name when all went well."""
    with filling(name) as directory:
        sink = SplitSink(directory, form)
        with naming(name), closing(sink):
            yield sink
