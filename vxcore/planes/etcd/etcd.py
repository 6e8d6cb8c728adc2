"""The control plane etcd: what this VTEP has stands in the store, and what others wrote is in its tables.

Place in the house: outermost of planes.etcd. One thread connects, reads the whole, and follows a watch;
beside it, as long as a connection lasts, another keeps the lease and writes what has changed. When the
connection is lost, what is known stays in the tables, and other members are tried in turn.

A VTEP's keys are under one lease, and are gone so many seconds after it. They are its own by its address:
who has the key of the address has all keys that name it. The process that comes after one that was killed,
or that takes its VTEP over, finds its owner's name at that key, and takes the lease on with all it holds.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from vxcore import config
from vxcore._version import __version__
from vxcore.plane_status import Status, Trouble
from vxcore.planes.etcd.book import Book
from vxcore.planes.etcd.records import Claim, claim_key, key_of, value_of
from vxcore.planes.etcd.store import Access, CompactedError, Store, StoreError
from vxcore.planes.plane import Connection, Pauses
from vxcore.problem import plain
from vxcore.told import Route
from vxcore.vtep import Vtep

log = logging.getLogger("vxcore")

_AGAIN_S = 0.5  # after somebody else was faster with a key
_LEAVE_S = 5.0

Now = Callable[[], Collection[Route]]


class Etcd:
    """A VTEP's part in the store, while inside ``with``; `now` is all that it has to tell.

    Raises ConfigError for files of the settings that cannot be used; a store that cannot be reached is
    waited for.
    """

    name = "etcd"

    def __init__(self, vtep: Vtep, settings: config.Etcd, now: Now, owner: str | None = None) -> None:
        self._vtep, self._settings, self._now = vtep, settings, now
        self._access = Access(settings)
        self._address = vtep.locals[0]
        self._claim = Claim(
            owner=owner or _owner(vtep.settings.underlay.dstport),
            host=socket.gethostname(),
            vxcore=__version__,
        )
        self._book = Book(vtep.locals)
        self._lock = threading.RLock()
        self._wake, self._ends = threading.Event(), threading.Event()
        self._store: Store | None = None
        self._lease = 0
        self._revision, self._cluster = 0, ""
        self._connection = Connection(vtep, self.name)
        self._url = settings.urls[0]
        self._wants: Collection[str] = ()
        self._named: dict[str, str] = {}
        self._announced = 0
        self._counts: Counter[str] = Counter(requests=0, messages=0, events=0, splits=0, whole_reads=0)
        self._thread = threading.Thread(target=self._run, name="vxcore-etcd", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave: others hear at once that this VTEP is gone."""
        self._ends.set()
        self._wake.set()
        self._thread.join(_LEAVE_S + self._settings.timeout)

    def changed(self) -> None:
        """There is something else to tell."""
        self._wake.set()

    def status(self) -> Status:
        """How it is now."""
        heard = self._vtep.n_told_by(self.name)
        with self._lock:
            conflicts = [Trouble(key, f"{other} has it") for key, other in self._named.items()]
            return Status(
                plane=self.name,
                state=self._connection.state,
                since_s=round(self._connection.since_s, 3),
                peer=self._url,
                reason=self._connection.reason,
                heard=heard,
                announced=self._announced,
                troubles=(*conflicts, *self._book.ignored),
                counts=dict(self._counts),
            )

    # Connections

    def _run(self) -> None:
        pauses = Pauses()
        for url in itertools.cycle(self._settings.urls):
            if self._ends.is_set():
                return
            pauses.begin()
            try:
                self._connect(url)
            except StoreError as error:
                self._lost(url, str(error))
            except Exception as error:
                log.exception("etcd: %s", url)
                self._lost(url, repr(error))
            self._ends.wait(pauses.end())

    def _lost(self, url: str, reason: str) -> None:
        with self._lock:
            was, is_new = self._connection.lost(reason)
            self._url = url
            self._counts["splits"] += was
        if self._ends.is_set():
            return
        if was:
            log.warning("etcd: split from %s: %s; traffic goes on by what was known", url, reason)
        elif is_new:
            log.warning("etcd: %s: %s; it is tried again", url, reason)

    def _connect(self, url: str) -> None:
        """As long as it lasts; returns when this VTEP leaves."""
        with Store(url, self._access, self._count) as store:
            self._catch_up(store)
            self._take_lease(store)
            with self._lock:
                self._url = url
                lasted_s = self._connection.made()
            log.info("etcd: connected to %s, after %.1f s", url, lasted_s)
            with self._writing(store):
                self._follow(store)

    @contextmanager
    def _writing(self, store: Store) -> Iterator[None]:
        """Meanwhile the writer does its part; when that ends, so does the connection, and for its reason."""
        failures: list[StoreError] = []
        writer = threading.Thread(
            target=self._write, args=(store, failures.append), name="vxcore-etcd-w", daemon=True
        )
        writer.start()
        try:
            yield
        except StoreError as error:
            failures.append(error)  # after the writer's, if it was first
        finally:
            store.close()
            self._wake.set()
            writer.join()
        if failures and not self._ends.is_set():
            raise failures[0]

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    # What others say

    def _catch_up(self, store: Store) -> None:
        """Know the store as it is, or as it was when last heard, to go on from there."""
        now = store.revision()
        if store.cluster != self._cluster or not 0 < self._revision <= now:
            self._read_whole(store)

    def _read_whole(self, store: Store) -> None:
        whole = store.read()
        with self._lock:
            routes = self._book.replace(whole.entries)
            self._revision, self._cluster = whole.revision, store.cluster
            self._counts["whole_reads"] += 1
        self._vtep.tell_all(self.name, routes)
        self._wake.set()

    def _follow(self, store: Store) -> None:
        while not store.closed:
            try:
                for revision, entries in store.watch(self._revision + 1):
                    with self._lock:
                        news = self._book.update(entries)
                        self._revision = revision
                        self._counts["events"] += len(entries)
                        concerned = any(self._concerns(entry.key) for entry in entries)
                    self._vtep.tell(self.name, add=news.add, remove=news.remove)
                    if concerned:
                        self._wake.set()
            except CompactedError as error:
                log.info("etcd: %s; all is read again", error)
                self._read_whole(store)

    def _concerns(self, key: str) -> bool:
        """Whether it is for the writer to look at."""
        return key in self._wants or self._book.names(key, self._address)

    # What this VTEP says

    def _take_lease(self, store: Store) -> None:
        """The one that was had before, by this process or the one before it, or a new one."""
        with self._lock:
            claimed = self._book.claim(self._address)
        mine = claimed is not None and claimed[1].owner == self._claim.owner
        for lease in (self._lease, claimed[0].lease if claimed and mine else 0):
            if lease and store.keep_alive(lease) == self._settings.lease:
                self._lease = lease
                return
        self._lease = store.grant(self._settings.lease)

    def _write(self, store: Store, failed: Callable[[StoreError], None]) -> None:
        """Keep lease and keys, until this VTEP leaves or the connection is lost."""
        try:
            keep_at = time.monotonic() + self._settings.lease / 3
            while True:
                self._wake.clear()
                if self._ends.is_set() or store.closed:  # of which it is woken from now on
                    break
                now = time.monotonic()
                if now >= keep_at:
                    self._keep(store)
                    keep_at = now + self._settings.lease / 3
                settled = self._sync(store)
                self._wake.wait(max(0.0, keep_at - time.monotonic()) if settled else _AGAIN_S)
            if self._ends.is_set() and not store.closed:
                store.revoke(self._lease)
        except StoreError as error:
            if not store.closed:
                failed(error)
        except Exception as error:
            log.exception("etcd: %s", store.url)
            failed(StoreError(repr(error)))
        finally:
            store.close()

    def _keep(self, store: Store) -> None:
        if not store.keep_alive(self._lease):
            log.warning("etcd: the lease has run out; others have not seen this VTEP for a while")
            self._lease = store.grant(self._settings.lease)

    def _sync(self, store: Store) -> bool:
        """Have the keys in the store that are to be there; False: look at them again soon."""
        wanted = self._wanted()
        with self._lock:
            self._wants = wanted.keys()
            if not self._is_claimable():
                return True
            changes = self._book.changes(wanted, self._address, self._lease)
            self._name_conflicts(self._book.conflicts(wanted, self._address))
        changes.sort(key=lambda change: change.key != claim_key(self._address))  # first the address
        n_done = 0
        for entry in store.write(changes, claim_key(self._address), self._lease):
            n_done += 1
            with self._lock:
                if entry.revision > self._revision:  # or the watch had it, and what became of it
                    self._book.update([entry])
        with self._lock:
            self._announced = sum(map(self._book.has, wanted.items())) - 1
        return n_done == len(changes)

    def _wanted(self) -> dict[str, bytes]:
        wanted = {claim_key(self._address): value_of(self._claim)}
        for route in self._now():
            if route.vtep == self._address:
                wanted[key_of(route)] = value_of(route)
        return wanted

    def _is_claimable(self) -> bool:
        """Whether the address is ours, or nobody's; the log says once whose it is."""
        claimed = self._book.claim(self._address)
        if claimed is None or claimed[1].owner == self._claim.owner:
            return True
        self._announced = 0
        where = plain(claimed[1].host) or "a host"
        self._name_conflicts({claim_key(self._address): f"another VTEP, on {where},"})
        return False

    def _name_conflicts(self, conflicts: dict[str, str]) -> None:
        for key, other in conflicts.items():
            if self._named.get(key) != other:
                log.warning("etcd: %s is not announced: %s has it; the first one stays", key, other)
        for key in self._named.keys() - conflicts.keys():
            log.info("etcd: nobody else has %s any more", key)
        self._named = conflicts


def _owner(dstport: int) -> str:
    """The same for each process in this place: this boot of the machine, network namespace and UDP port."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    namespace = Path("/proc/self/ns/net").stat()
    place = f"{boot} {namespace.st_dev} {namespace.st_ino} {dstport}"
    return hashlib.sha256(place.encode()).hexdigest()[:32]
