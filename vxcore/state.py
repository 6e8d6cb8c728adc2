"""What was learned, kept in a file over a restart, so that a VTEP comes back without flooding.

Place in the house: above the tables' modules, below engine. Settings are not in it: what they no longer allow
is left out when it is read. The file is one line that names the format, one of JSON (`Header`), the addresses
of remotes, 16 bytes each with IPv4 mapped, and rows of `ROW`. It is written and read whole, or not at all.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from vxcore._fast.table import KINDS, PORT, Reader
from vxcore.errors import TableFullError, VxcoreError
from vxcore.fdb import SEEN_BITS, Fdb, now_s
from vxcore.files import replacing
from vxcore.journal import Journal
from vxcore.remotes import IPAddress, Remotes, packed, unpacked

log = logging.getLogger("vxcore")

ROW = np.dtype([("mac", "<u8"), ("vni", "<u4"), ("remote", "<u4"), ("age_s", "<u4")])
_FORMAT = 1
_NAME = b"vxcore learned "
_ADDRESS_LEN = 16
_LEARNED = (KINDS["learned"], KINDS["frozen"])


class StateError(VxcoreError):
    """A file does not hold what was learned, or not all of it."""


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much follows, when it was true, and the SHA-256 of it."""

    saved_s: int
    """Of the clock since 1970."""
    remotes: int
    entries: int
    sha256: str


class Learned(NamedTuple):
    """Entries as `ROW`, `remote` being the index of an address (uint8 (n, 16)); how old they were then."""

    addresses: NDArray[np.uint8]
    rows: NDArray[Any]
    saved_s: int


# The file


def write(path: str, learned: Learned) -> None:
    """Put a file in the place of what is there, or leave that as it is and raise OSError."""
    body = learned.addresses.tobytes() + learned.rows.astype(ROW).tobytes()
    header = Header(
        saved_s=learned.saved_s,
        remotes=len(learned.addresses),
        entries=len(learned.rows),
        sha256=hashlib.sha256(body).hexdigest(),
    )
    with replacing(path, 0o600) as file:
        file.write(_NAME + b"%d\n" % _FORMAT + msgspec.json.encode(header) + b"\n" + body)


def read(path: str) -> Learned:
    """What a file holds; StateError, saying why, for anything but a whole one, and OSError."""
    name, _, rest = Path(path).read_bytes().partition(b"\n")
    if not name.startswith(_NAME):
        raise StateError("it was not written by vxcore")
    if name != _NAME + b"%d" % _FORMAT:
        form = name.removeprefix(_NAME).decode("ascii", "replace")
        raise StateError(f"its format is {form}, and this vxcore knows {_FORMAT}")
    line, _, body = rest.partition(b"\n")
    try:
        header = msgspec.json.decode(line, type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StateError(f"its header is damaged: {error}") from None
    split = header.remotes * _ADDRESS_LEN
    if len(body) != split + header.entries * ROW.itemsize:
        raise StateError(f"it has {len(body)} bytes of {split + header.entries * ROW.itemsize}")
    if hashlib.sha256(body).hexdigest() != header.sha256:
        raise StateError("its checksum is wrong")
    addresses = np.frombuffer(body[:split], np.uint8).reshape(-1, _ADDRESS_LEN)
    rows = np.frombuffer(body[split:], ROW)
    if len(rows) and rows["remote"].max() >= len(addresses):
        raise StateError("an entry names a remote that it does not have")
    return Learned(addresses, rows, header.saved_s)


# The tables


class Memory:
    """Takes what was learned out of a VTEP's tables, and puts it back."""

    def __init__(self, journal: Journal, remotes: Remotes, fdb: Fdb) -> None:
        self._journal, self._remotes, self._fdb = journal, remotes, fdb

    def take(self, within_s: int | None = None) -> Learned:
        """What lanes have learned from remotes until now, or heard from within so many seconds."""
        with self._journal.change():
            found, age_s = self._found(within_s)
            numbers, which = np.unique(found["remote"], return_inverse=True)
            addresses = [packed(self._remotes.address(int(number))) for number in numbers]
        rows = _rows(found, which, age_s)
        joined = np.frombuffer(b"".join(addresses), np.uint8).reshape(-1, _ADDRESS_LEN)
        return Learned(joined, rows, int(time.time()))

    def take_behind(self, within_s: int | None = None) -> NDArray[Any]:
        """The same of hosts behind overlay ports, as `ROW`, `remote` being the port's place."""
        found, age_s = self._found(within_s, behind=True)
        return _rows(found, found["port"], age_s)

    def put_behind(self, rows: NDArray[Any], places: dict[int, int]) -> None:
        """Learn it again, where each of those places is another one now; others are left out."""
        now = now_s()
        segments = {int(row["vni"]): int(row["segment"]) for row in self._journal.tables.segments()}
        reader = Reader(self._journal.tables)
        with _entered(reader):
            for of_vni in _by_vni(rows):
                segment = segments.get(int(of_vni["vni"][0]))
                if segment is None:
                    continue
                for was, place in places.items():
                    here = of_vni[of_vni["remote"] == was]
                    targets = np.full(len(here), PORT | place)
                    _learn_again(reader, segment, here["mac"], targets, now - here["age_s"].astype(np.int64))

    def _found(self, within_s: int | None, behind: bool = False) -> tuple[NDArray[Any], NDArray[Any]]:
        """Rows of the FDB that were learned, and how old they are."""
        found = self._fdb.snapshot()
        now = now_s()  # not before, for lanes go on meanwhile
        found = found[np.isin(found["kind"], _LEARNED) & ((found["remote"] < 0) == behind)]
        age_s = (np.uint32(now) - found["seen_s"]) & SEEN_BITS
        if within_s is None:
            return found, age_s
        return found[age_s <= within_s], age_s[age_s <= within_s]

    def put(self, learned: Learned) -> int:
        """Learn it again, as old as it is now; how many entries are back, which settings and room allow.

        A VTEP that is no remote becomes one where a segment takes packets from anybody at its address.
        """
        reader = Reader(self._journal.tables)
        with _entered(reader):
            strangers = list(_strangers(reader, learned))
        for address in strangers:
            try:
                self._remotes.learn(address)
            except TableFullError as error:
                log.warning("state: %s", error)
                break
            except (ValueError, VxcoreError) as error:
                log.info("state: %s", error)
        before = self._journal.tables.fdb_counters()["learned"]
        with _entered(reader):
            self._learn(reader, learned)
        return int(self._journal.tables.fdb_counters()["learned"]) - before

    def _learn(self, reader: Reader, learned: Learned) -> None:
        now, elapsed = now_s(), max(0, int(time.time()) - learned.saved_s)
        numbers = np.array([reader.find_remote(row.tobytes()) for row in learned.addresses], np.int64)
        segments = {int(row["vni"]): row for row in self._journal.tables.segments() if row["learning"]}
        for rows in _by_vni(learned.rows):
            segment = segments.get(int(rows["vni"][0]))
            if segment is None:
                continue
            age = rows["age_s"].astype(np.int64) + elapsed
            kept = age < (int(segment["ageing_s"]) or SEEN_BITS)
            for index in np.unique(rows["remote"][kept]).tolist():
                address = learned.addresses[index].tobytes()
                if not _admits(reader, int(segment["segment"]), int(numbers[index]), address):
                    kept &= rows["remote"] != index
            targets = numbers[rows["remote"][kept]]
            _learn_again(reader, int(segment["segment"]), rows["mac"][kept], targets, now - age[kept])


def _rows(found: NDArray[Any], remote: NDArray[Any], age_s: NDArray[Any]) -> NDArray[Any]:
    """As `ROW`, rows of the FDB."""
    rows = np.zeros(len(found), ROW)
    rows["mac"], rows["vni"], rows["remote"], rows["age_s"] = found["mac"], found["vni"], remote, age_s
    return rows


def _learn_again(
    reader: Reader, segment: int, macs: NDArray[Any], targets: NDArray[Any], seen_s: NDArray[np.int64]
) -> None:
    """Times are of the monotonic clock; what is older than that is counted from its end, as lanes count."""
    seen = (seen_s & 0xFFFF_FFFF).astype(np.uint32)
    reader.fdb_learn(segment, macs.astype(np.uint64), targets.astype(np.uint32), seen)


@contextmanager
def _entered(reader: Reader) -> Iterator[None]:
    reader.enter()
    try:
        yield
    finally:
        reader.leave()


def _by_vni(rows: NDArray[Any]) -> list[NDArray[Any]]:
    if not len(rows):
        return []
    ordered = rows[np.argsort(rows["vni"], kind="stable")]
    return np.split(ordered, np.flatnonzero(np.diff(ordered["vni"])) + 1)


def _strangers(reader: Reader, learned: Learned) -> Iterator[IPAddress]:
    """The addresses that are no remotes, where some segment takes packets from anybody there."""
    pairs = np.unique(learned.rows[["remote", "vni"]])
    for index in np.unique(pairs["remote"]).tolist():
        address = learned.addresses[index].tobytes()
        if reader.find_remote(address) >= 0:
            continue
        segments = map(reader.find_segment, pairs["vni"][pairs["remote"] == index].tolist())
        if any(segment >= 0 and reader.is_welcome(segment, address) for segment in segments):
            yield unpacked(address)


def _admits(reader: Reader, segment: int, remote: int, address: bytes) -> bool:
    """As lanes have it, of a packet that came from there."""
    if remote < 0 or not reader.may_speak(segment, remote):
        return False
    return reader.is_peer(segment, remote) or reader.is_welcome(segment, address)


class Keeper:
    """Reads a file when a VTEP starts, and writes it every `interval_s` and when it ends, while it `writes`.

    A file that is no whole one of ours is renamed to FILE.refused, and the VTEP begins without it. One that
    cannot be written is told of in the log, once until it can again; what is carried does not depend on it.
    """

    def __init__(self, memory: Memory, path: str, interval_s: float) -> None:
        self._memory, self._path, self._interval_s = memory, path, interval_s
        self.writes = True
        self._stop = threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="vxcore-state", daemon=True)

    def restore(self) -> None:
        """Before the lanes run."""
        try:
            learned = read(self._path)
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("state: %s cannot be read: %s; beginning without", self._path, error.strerror)
            return
        except StateError as error:
            self._refuse(error)
            return
        n = self._memory.put(learned)
        log.info("state: %d of %d learned addresses are back, from %s", n, len(learned.rows), self._path)

    def start(self, undo: ExitStack) -> None:
        """Write from now on; `undo` writes for the last time."""
        self._thread.start()
        undo.callback(self._close)

    def leave(self) -> None:
        """Write no more: another process does."""
        self._stop.set()
        self._thread.join()

    def save(self) -> None:
        """Write now."""
        try:
            write(self._path, self._memory.take())
        except OSError as error:
            if not self._failed:
                text = "state: %s cannot be written: %s; what was learned would not outlive a restart"
                log.warning(text, self._path, error.strerror)
            self._failed = True
        except Exception:  # of memory, say: the next time may be better
            log.exception("state: nothing was written")
        else:
            if self._failed:
                log.info("state: %s is written again", self._path)
            self._failed = False

    def _refuse(self, error: StateError) -> None:
        aside = f"{self._path}.refused"
        try:
            Path(self._path).rename(aside)
        except OSError as failure:
            aside = f"where it was ({failure.strerror})"
        log.warning("state: %s is refused: %s; kept as %s, beginning without", self._path, error, aside)

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            if self.writes:
                self.save()

    def _close(self) -> None:
        self._stop.set()
        self._thread.join()
        if self.writes:
            self.save()
