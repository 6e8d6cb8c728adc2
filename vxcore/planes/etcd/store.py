"""A member of an etcd cluster, spoken with by the JSON gateway of its v3 API.

Place in the house: in planes.etcd, beside records. The client library makes requests, leases and
transactions; the stream of a watch is read here, for the library's own watcher tells nobody when a stream
ends, and knows nothing of compaction. Everything that goes wrong is a StoreError.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from vxcore import config
from vxcore.errors import ConfigError, VxcoreError

try:
    import requests
    from etcd3gw.client import Etcd3Client
    from etcd3gw.exceptions import Etcd3Exception
    from etcd3gw.lease import Lease
    from urllib3.exceptions import ReadTimeoutError
except ModuleNotFoundError as error:
    from vxcore.errors import MissingExtraError

    raise MissingExtraError("[etcd] needs etcd3gw: `pip install 'vxcore[etcd]'` brings it") from error

_API = "/v3/"  # of etcd 3.4 and later
_PAGE = 2000  # keys in one reply
_MAX_LINE = 64 << 20  # of a watch: some of etcd's largest requests
_BATCH = 60  # changes in a transaction; etcd's limit is 128, as it is set up by itself
T = TypeVar("T")


class StoreError(VxcoreError):
    """This member of the store cannot be used, for now at least."""


class CompactedError(StoreError):
    """What happened since then is not kept any more."""


class Entry(NamedTuple):
    """A key as it was at some revision; without a value it was deleted then."""

    key: str
    value: bytes | None
    lease: int
    revision: int


class Change(NamedTuple):
    """What is to become of a key, if it is still as of that revision; 0: if there is none."""

    key: str
    value: bytes | None
    seen: int


class Whole(NamedTuple):
    """All there is at some revision."""

    revision: int
    entries: list[Entry]


class _Header(Struct):
    revision: int = 0
    cluster_id: str = ""


class _KeyValue(Struct):
    key: bytes
    value: bytes = b""
    mod_revision: int = 0
    lease: int = 0


class _Range(Struct):
    header: _Header
    kvs: list[_KeyValue] = []  # msgspec copies it
    more: bool = False


class _Txn(Struct):
    header: _Header
    succeeded: bool = False


class _Event(Struct):
    kv: _KeyValue
    type: str = "PUT"


class _Result(Struct):
    header: _Header
    canceled: bool = False
    cancel_reason: str = ""
    compact_revision: int = 0
    events: list[_Event] = []  # msgspec copies it


class _Line(Struct):
    """Of a watch's stream."""

    result: _Result | None = None
    error: dict[str, Any] | None = None


class Access:
    """How members are reached: TLS, user and password, which are read once.

    Raises ConfigError for files that cannot be used.
    """

    def __init__(self, settings: config.Etcd) -> None:
        self.settings = settings
        self.password = ""
        if settings.password_file is not None:
            self.password = _text("etcd.password_file", settings.password_file).rstrip("\n")
        _check_certificates(settings)

    def session(self) -> requests.Session:
        """For one member; of no proxy, and of no password in a home directory."""
        session = requests.Session()
        session.trust_env = False
        if self.settings.ca is not None:
            session.verify = self.settings.ca
        if self.settings.cert is not None and self.settings.key is not None:
            session.cert = (self.settings.cert, self.settings.key)
        return session


def _text(key: str, path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{key}: {path}: {getattr(error, 'strerror', None) or 'it is no text'}") from None


def _check_certificates(settings: config.Etcd) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for key in ("ca", "cert", "key"):
        path = getattr(settings, key)
        if path is not None:
            _text(f"etcd.{key}", path)
    key = "ca"
    try:
        if settings.ca is not None:
            context.load_verify_locations(settings.ca)
        key = "cert"
        if settings.cert is not None:
            context.load_cert_chain(settings.cert, settings.key)
    except ssl.SSLError as error:
        reason = error.reason or str(error)
        raise ConfigError(f"etcd.{key}: it cannot be used: {reason}; PEM is needed") from None


class Store:
    """One member; the prefix of all keys is left out. A context manager: it hangs up at the end.

    Methods may be called from any thread, ``watch`` by one at a time. `count` is told the names of what goes
    to and fro.
    """

    def __init__(self, url: str, access: Access, count: Callable[[str], None]) -> None:
        self.url, self._count = url, count
        settings = access.settings
        self._root = f"{settings.prefix}/v1/".encode()
        self._timeout_s = float(settings.timeout)
        self._idle_s = max(self._timeout_s, settings.lease / 3)
        parts = urlsplit(url)
        self._client = Etcd3Client(
            host=parts.hostname or "",
            port=parts.port or 2379,
            protocol=parts.scheme,
            timeout=self._timeout_s,
            api_path=_API,
            session=access.session(),
        )
        self._user = (settings.user, access.password) if settings.user is not None else None
        self._watching: requests.Response | None = None
        self.closed = False
        self._lock = threading.Lock()
        self.cluster = ""

    def __enter__(self) -> Self:
        if self._user is not None:
            name, password = self._user
            token = self._ask("/auth/authenticate", {"name": name, "password": password}, dict[str, Any])
            self._client.session.headers["Authorization"] = str(token.get("token", ""))
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up, from any thread; who reads a watch hears that it ends."""
        with self._lock:
            self.closed = True
            if self._watching is not None:
                with suppress(OSError, ValueError), _duplicate(self._watching.raw.fileno()) as sock:
                    sock.shutdown(socket.SHUT_RDWR)
        self._client.session.close()

    # Leases

    def grant(self, seconds: int) -> int:
        """A new lease."""
        return self._try(lambda: int(self._client.lease(seconds).id))

    def keep_alive(self, lease: int) -> int:
        """Let a lease begin anew; its seconds, or 0: there is no such lease any more."""
        return max(0, self._try(lambda: Lease(lease, self._client).refresh()))

    def revoke(self, lease: int) -> None:
        """End a lease, with all keys that it holds."""
        self._try(lambda: Lease(lease, self._client).revoke())

    # Reading and writing

    def revision(self) -> int:
        """The store's now; `cluster` then is the one that it is of."""
        asked = {"key": _b64(self._root), "count_only": True}
        header = self._ask("/kv/range", asked, _Range).header
        self.cluster = header.cluster_id
        return header.revision

    def read(self) -> Whole:
        """All keys, as of one revision."""
        start, end, revision = self._root, self._root[:-1] + b"0", 0  # "0" follows "/"
        entries: list[Entry] = []
        while True:
            asked = {"key": _b64(start), "range_end": _b64(end), "limit": _PAGE, "revision": revision}
            page = self._ask("/kv/range", asked, _Range)
            revision = revision or page.header.revision
            self.cluster = page.header.cluster_id
            entries += (self._entry(each, each.value) for each in page.kvs)
            if not page.more or not page.kvs:
                return Whole(revision, entries)
            start = page.kvs[-1].key + b"\0"

    def write(self, changes: Sequence[Change], claim: str, lease: int) -> Iterator[Entry]:
        """Make changes under a lease that holds the key `claim`; yields those that were made.

        What is not as it was seen stays as it is.
        """
        for start in range(0, len(changes), _BATCH):
            batch = changes[start : start + _BATCH]
            done = self._transact(batch, claim, lease)
            if done is None and len(batch) > 1:
                for change in batch:
                    yield from self._transact([change], claim, lease) or ()
            yield from done or ()

    def _transact(self, changes: Sequence[Change], claim: str, lease: int) -> list[Entry] | None:
        held = {"key": self._key(claim), "target": "LEASE", "result": "EQUAL", "lease": str(lease)}
        unclaimed = any(change.key == claim for change in changes)
        compare = [] if unclaimed else [held]
        for change in changes:
            seen = {"target": "MOD", "result": "EQUAL", "mod_revision": str(change.seen)}
            compare.append({"key": self._key(change.key), **seen})
        success = [self._operation(change, lease) for change in changes]
        reply = self._try(lambda: self._client.transaction({"compare": compare, "success": success}))
        done = self._as(reply, _Txn)
        if not done.succeeded:
            return None
        revision = done.header.revision
        return [Entry(each.key, each.value, lease, revision) for each in changes]

    def _operation(self, change: Change, lease: int) -> dict[str, Any]:
        key = self._key(change.key)
        if change.value is None:
            return {"request_delete_range": {"key": key}}
        return {"request_put": {"key": key, "value": _b64(change.value), "lease": str(lease)}}

    # Watching

    def watch(self, revision: int) -> Iterator[tuple[int, list[Entry]]]:
        """What is changed from that revision on: up to which revision each message goes, and its entries.

        Ends when nothing has been heard for a while, and is to be begun anew: the connection may be dead.
        Raises CompactedError when `revision` is too old.
        """
        asked = {"key": _b64(self._root), "range_end": _b64(self._root[:-1] + b"0")}
        body = {"create_request": {**asked, "start_revision": str(revision)}}
        try:
            with self._client.session.post(
                self._client.get_url("/watch"),
                json=body,
                stream=True,
                timeout=(self._timeout_s, self._idle_s),
            ) as response:
                self._began(response)
                for line in self._lines(response):
                    yield from self._watched(line)
        except requests.RequestException as error:
            if self.closed or not _is_silence(error):
                raise StoreError(_words(error)) from None
        finally:
            with self._lock:
                self._watching = None

    def _began(self, response: requests.Response) -> None:
        self._count("requests")
        if response.status_code != requests.codes.ok:
            raise StoreError(_said(response.text))
        with self._lock:
            if self.closed:
                raise StoreError("it is closed")
            self._watching = response

    def _lines(self, response: requests.Response) -> Iterator[bytes]:
        buffer = bytearray()
        for chunk in response.iter_content(None):
            buffer += chunk
            *lines, rest = buffer.split(b"\n")
            yield from filter(None, map(bytes, lines))
            buffer = bytearray(rest)
            if len(buffer) > _MAX_LINE:
                raise StoreError("a line without an end; it is not etcd")
        raise StoreError("the connection was closed")

    def _watched(self, text: bytes) -> Iterator[tuple[int, list[Entry]]]:
        self._count("messages")
        line = self._decoded(text)
        if line.result is None:
            raise StoreError(str((line.error or {}).get("message") or "the watch has failed"))
        result = line.result
        if result.compact_revision:
            raise CompactedError(f"revisions before {result.compact_revision} are compacted")
        if result.canceled:
            raise StoreError(result.cancel_reason or "the watch was cancelled")
        entries = [
            self._entry(event.kv, None if event.type == "DELETE" else event.kv.value)
            for event in result.events
        ]
        if entries:
            # Of what is long past each message has a part, and in its header the revision of now.
            yield max(entry.revision for entry in entries), entries

    # JSON

    def _entry(self, each: _KeyValue, value: bytes | None) -> Entry:
        key = each.key.removeprefix(self._root).decode(errors="backslashreplace")
        return Entry(key, value, each.lease, each.mod_revision)

    def _key(self, key: str) -> str:
        return _b64(self._root + key.encode())

    def _ask(self, path: str, body: dict[str, Any], kind: type[T]) -> T:
        return self._as(self._try(lambda: self._client.post(self._client.get_url(path), json=body)), kind)

    def _try(self, call: Callable[[], T]) -> T:
        self._count("requests")
        try:
            return call()
        except Etcd3Exception as error:
            raise StoreError(_said(error.detail_text or str(error))) from None
        except requests.RequestException as error:
            raise StoreError(_words(error)) from None
        except (KeyError, TypeError, ValueError, AttributeError):
            raise StoreError("what it answers is none of etcd's") from None

    def _as(self, reply: object, kind: type[T]) -> T:
        try:
            return msgspec.convert(reply, kind, strict=False)
        except msgspec.ValidationError as error:
            raise StoreError(f"what it answers is none of etcd's: {error}") from None

    def _decoded(self, text: bytes) -> _Line:
        try:
            return msgspec.json.decode(text, type=_Line, strict=False)
        except msgspec.DecodeError as error:
            raise StoreError(f"what it answers is none of etcd's: {error}") from None


def _b64(data: bytes) -> str:
    return b64encode(data).decode()


def _duplicate(fd: int) -> socket.socket:
    return socket.socket(fileno=os.dup(fd))


def _is_silence(error: requests.RequestException) -> bool:
    """Nothing was heard in a stream that had begun."""
    return bool(error.args) and isinstance(error.args[0], ReadTimeoutError)


def _said(text: str) -> str:
    """What etcd says is wrong, in JSON or in words."""
    try:
        said = msgspec.json.decode(text)
        return str(said.get("error") or said.get("message") or text)[:200]
    except (msgspec.DecodeError, AttributeError):
        return _innermost(text)[:200]


def _words(error: BaseException) -> str:
    """Of what the libraries wrap several times, what happened."""
    return _innermost(str(error) or type(error).__name__)[:200]


def _innermost(text: str) -> str:
    for mark in ("[Errno ", "timed out", "SSLError(", "Read timed out"):
        if mark in text:
            cut = text[text.index(mark) :] if mark != "timed out" else "it does not answer in time"
            return cut.rstrip("'\")>, ")
    return text
