"""etcd on a host of a Lan, what stands in it, and VTEPs that find each other by it.

Place in the house: above hosts and rooms, under the tests of the control plane etcd.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from support.hosts import DEADLINE_S, Host, Lan, VtepProcess, run, wait_until
from support.operated import Operated
from support.rooms import program

CLIENT, PEER = 2379, 2380
AT_ONCE = ("dad_transmits=0", "router_solicitations=0", "mldv2_unsolicited_report_interval=1")
"""What a kernel says by itself on a new device, it is to say before a test counts what comes."""
SHORT_S = 2  # a lease that a test waits for
EXPIRED_S = SHORT_S + 3.0  # etcd looks for leases that have run out twice a second


class Etcd:
    """A member of a cluster on `host`, alone if `others` are none; its files are in `folder`.

    `words` are further options. A context manager; started anew it has its data again.
    """

    def __init__(
        self, host: Host, folder: Path, *words: str, name: str = "m1", cluster: str = "", tls: bool = False
    ) -> None:
        self.host, self.folder, self.name = host, folder, name
        self._words = words
        self._scheme = "https" if tls else "http"
        self._cluster = cluster or f"{name}={self._peer}"
        self._curl: tuple[str, ...] = ()
        self._token: tuple[str, ...] = ()
        self.prefix = "/vxcore"
        self.process: subprocess.Popen[str] | None = None

    @property
    def root(self) -> str:
        """What all keys begin with."""
        return f"{self.prefix}/v1/"

    @property
    def url(self) -> str:
        return f"{self._scheme}://{self.host.v4}:{CLIENT}"

    @property
    def _peer(self) -> str:
        return f"http://{self.host.v4}:{PEER}"

    def __enter__(self) -> Etcd:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self, *, wait: bool = True) -> None:
        """Start it; wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        log = (self.folder / f"{self.name}.log").open("ab")
        words = (
            *("--name", self.name, "--data-dir", str(self.folder / self.name), "--logger", "zap"),
            *("--listen-client-urls", self.url, "--advertise-client-urls", self.url),
            *("--listen-peer-urls", self._peer, "--initial-advertise-peer-urls", self._peer),
            *("--initial-cluster", self._cluster, "--unsafe-no-fsync", *self._words),
        )
        with log:
            line = ["ip", "netns", "exec", self.host.namespace, program("etcd"), *words]
            self.process = subprocess.Popen(line, stdout=log, stderr=log, text=True)
        if wait:
            self.answers()

    def answers(self) -> None:
        """Wait until it does."""
        wait_until(self._is_healthy, f"etcd answers; see {self.folder}/{self.name}.log", 60)

    def _is_healthy(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / f"{self.name}.log").read_text()[-2000:]
        done = self.host.run("curl", "-s", "-m", "2", *self._curl, f"{self.url}/health", check=False)
        return '"true"' in done.stdout

    def kill(self) -> None:
        """At once."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.kill()
            self.process.wait(DEADLINE_S)

    def trusting(self, *curl: str) -> Etcd:
        """With these options of curl."""
        self._curl = curl
        return self

    # What stands in it

    def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """A request of the JSON gateway."""
        words = ("-s", "-m", "10", *self._curl, *self._token, "-d", json.dumps(body))
        reply = json.loads(self.host.run("curl", *words, f"{self.url}/v3/{path}").stdout)
        assert "error" not in reply, reply
        return dict(reply)

    def _entries(self) -> dict[str, dict[str, Any]]:
        """What etcd says of each key, without what all keys begin with."""
        start, end = self.root.encode(), self.root[:-1].encode() + b"0"
        reply = self.ask("kv/range", {"key": _b64(start), "range_end": _b64(end)})
        return {b64decode(kv["key"]).decode().removeprefix(self.root): kv for kv in reply.get("kvs", ())}

    def all(self) -> dict[str, Any]:
        """Values by key."""
        return {key: json.loads(b64decode(kv["value"])) for key, kv in self._entries().items()}

    def there(self) -> set[str]:
        return set(self._entries())

    def leases(self) -> dict[str, str]:
        return {key: kv["lease"] for key, kv in self._entries().items()}

    def revisions(self) -> dict[str, str]:
        """When each key was written last."""
        return {key: kv["mod_revision"] for key, kv in self._entries().items()}

    def grant(self, role: str, prefix: str) -> None:
        """Let a role read and write what begins so."""
        start, end = prefix.encode(), prefix[:-1].encode() + b"0"  # "0" follows "/"
        perm = {"permType": "READWRITE", "key": _b64(start), "range_end": _b64(end)}
        self.ask("auth/role/grant", {"name": role, "perm": perm})

    def log_in(self, name: str, password: str) -> None:
        """Ask as that user from now on."""
        self._token = ()
        token = self.ask("auth/authenticate", {"name": name, "password": password})["token"]
        self._token = ("-H", f"Authorization: {token}")

    def put(self, key: str, value: bytes | dict[str, Any]) -> None:
        """Of somebody else."""
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.ask("kv/put", {"key": _b64((self.root + key).encode()), "value": _b64(data)})

    def delete(self, key: str) -> None:
        self.ask("kv/deleterange", {"key": _b64((self.root + key).encode())})

    def compact(self) -> None:
        """Forget all but what there is now."""
        revision = self.ask("kv/range", {"key": _b64(b"/")})["header"]["revision"]
        self.ask("kv/compaction", {"revision": revision, "physical": True})


class Site(Operated):
    """A VTEP on a host that has segment 42 and hears of others by etcd alone; nothing is learned.

    `urls` are those of members of the store, if not of `etcd` alone, `extra` further lines of ``[etcd]``.
    """

    def __init__(
        self,
        host: Host,
        folder: Path,
        etcd: Etcd,
        *urls: str,
        extra: str = "",
        local: str = "",
        timeout: int = 1,
        lease: int = 30,
    ) -> None:
        self.host = host
        self.file = folder / f"{host.number}.toml"
        self.control = str(folder / f"{host.number}.sock")
        self.mac = f"02:00:00:00:42:0{host.number}"
        self.file.write_text(
            f'[underlay]\nlocal = "{local or host.v4}"\n[control]\nsocket = "{self.control}"\n'
            f'[[segment]]\nvni = 42\ntap = "vx42"\nlearning = false\n'
            f'[etcd]\nurls = {json.dumps(urls or [etcd.url])}\nprefix = "{etcd.prefix}"\nlease = {lease}\n'
            f"timeout = {timeout}\n{extra}\n"
        )
        host.run("sysctl", "-qw", *(f"net.ipv6.conf.default.{each}" for each in AT_ONCE))
        self.start()

    def start(self) -> None:
        self.vtep = VtepProcess(self.host, "run", str(self.file))
        self.host.ip("link", "set", "vx42", "address", self.mac)
        self.host.overlay("vx42")

    def hears_of(self, *numbers: int) -> None:
        """Wait until it has heard of these hosts and no others, with all that they have."""
        wanted = {f"02:00:00:00:42:0{number}" for number in numbers}
        wait_until(lambda: self.heard() == wanted, f"host {self.host.number} hears of {numbers}")

    def heard(self) -> set[str]:
        """Whose endpoints it uses, and sends BUM frames to."""
        rows = [row for row in self.show("route") if row["state"] == "used"]
        members = {row["vtep"] for row in rows if row["route"] == "member"}
        ends = [row for row in rows if row["route"] == "endpoint" and len(row["addresses"]) > 1]
        return {row["mac"] for row in ends if row["vtep"] in members}

    def kill(self) -> None:
        self.vtep.process.kill()
        self.vtep.process.wait()


@contextmanager
def hosts_with_etcd(folder: Path) -> Iterator[tuple[Lan, Etcd]]:
    """Hosts, and etcd on the last one."""
    with Lan(4) as lan, Etcd(lan.hosts[3], folder) as member:
        yield lan, member


def end_vteps(lan: Lan) -> None:
    """Those that a test has left."""
    for host in lan.hosts[:-1]:  # processes that took the place of others are nobody's children
        for pid in run("ip", "netns", "pids", host.namespace).stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        for process in host.processes:
            process.communicate()
        host.processes.clear()


def endpoint(number: int) -> str:
    """The key of what a site has."""
    return f"endpoints/42/02:00:00:00:42:0{number}"


def keys_of(number: int) -> set[str]:
    """All keys of a site."""
    address = f"192.0.2.{number}"
    return {f"vteps/{address}", f"segments/42/{address}", endpoint(number)}


def _b64(data: bytes) -> str:
    return b64encode(data).decode()
