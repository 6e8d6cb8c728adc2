"""A member of a store is believed in what it says, and no more than that."""

from __future__ import annotations

import json
import threading
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any, cast

from support.dry_vtep import DryVtep

from vxcore import config
from vxcore.planes.etcd.etcd import Etcd
from vxcore.planes.etcd.records import claim_key, key_of
from vxcore.planes.etcd.store import Access, Change, Entry, Store
from vxcore.told import Member

VTEP = ip_address("192.0.2.1")
ROOT = "/vxcore/v1/"


@contextmanager
def watched(*lines: dict[str, Any]) -> Iterator[Store]:
    """A member of which a watch gets these lines, and then the end."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()
            for line in lines:
                self.wfile.write(json.dumps({"result": line}).encode() + b"\n")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        with Store(url, Access(config.Etcd(urls=(url,))), lambda _: None) as store:
            yield store
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def put(key: str, revision: int) -> dict[str, Any]:
    kv = {"key": b64encode((ROOT + key).encode()).decode(), "value": b64encode(b"{}").decode()}
    return {"kv": kv | {"mod_revision": str(revision)}}


def test_a_part_of_what_is_long_past_is_no_news_of_now() -> None:
    """etcd sends what a late watch has missed in parts, each with the revision of now in its header."""
    now = {"revision": "9000"}
    first = {"header": now, "events": [put("a", 1001), put("b", 2000)]}
    with watched({"header": now, "created": True}, first) as store:
        revision, entries = next(store.watch(1001))
    assert revision == 2000  # from there it is to go on if the connection is lost now
    assert [(entry.key, entry.revision) for entry in entries] == [("a", 1001), ("b", 2000)]


class Overtaken:
    """A store in which somebody deletes a key at once, and the watch is the first to say so."""

    def __init__(self) -> None:
        self.etcd: Etcd
        self.written: list[str] = []
        self.revision = 10

    def write(self, changes: Sequence[Change], claim: str, lease: int) -> Iterator[Entry]:
        for change in changes:
            made = Entry(change.key, change.value, lease, self.revision + 1)
            self.revision += 2
            self.written.append(change.key)
            self.etcd._book.update([made, Entry(change.key, None, 0, self.revision)])
            self.etcd._revision = self.revision
            yield made


def test_a_key_that_is_gone_before_its_writer_knows_is_written_again() -> None:
    with DryVtep() as vtep:
        store = Overtaken()
        settings = config.Etcd(urls=("http://127.0.0.1:1",))
        store.etcd = Etcd(vtep, settings, lambda: [Member(42, VTEP)])
        for _ in range(2):
            store.etcd._sync(cast("Store", store))
    assert store.written == 2 * [claim_key(VTEP), key_of(Member(42, VTEP))]
