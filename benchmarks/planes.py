"""Control planes at scale: how long until all hosts know all endpoints, and what that takes.

Place in the house: beside suites, for nobody else has such a thing. Hosts are VTEPs without devices
(tests/support/dry_vtep.py) with the real tables and the real control plane, all in one process in a network
namespace, so that what is said of a host's memory and messages is a host's, and times are at most what hosts
with processors of their own would need. A function for each plane, in `PLANES`.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec import Struct
from support.bgp import GoBgp
from support.dry_vtep import DryVtep
from support.etcd import Etcd as Member
from support.hosts import Host as Namespace
from support.hosts import Lan, wait_until

from benchmarks import machine
from vxcore import config
from vxcore.addresses import MacAddress
from vxcore.planes.plane import Plane
from vxcore.told import Endpoint, Route
from vxcore.told import Member as TakesPart
from vxcore.vtep import Vtep

VNI = 42
DEADLINE_S = 600.0
MakePlane = Callable[[Vtep, Callable[[], set[Route]]], Plane]


class Found(Struct, frozen=True, kw_only=True):
    """What was measured; times are from the moment that all hosts have something to tell."""

    plane: str
    hosts: int
    endpoints: int
    members_s: float
    """Until each host knows all others, which have just started."""
    endpoints_s: float
    """Until each host has all endpoints of others in its tables, which came at one moment."""
    move_s: float
    """Until all know that one endpoint has moved."""
    host_kib: float
    """Memory of one host for its plane and all that it knows, beside its tables as they are when empty."""
    speaker_mib: float
    """Of whom they speak with: the store, or the speakers together."""
    messages: float
    """Of one host, to it and from it, for all that."""
    cpu_s: float
    """CPU time of all hosts together."""
    foreign_share: float
    """Of the machine's CPU time, what other processes had."""


def address_of(number: int) -> str:
    """The VTEP address of a host."""
    return f"192.0.2.{number + 10}"


class Site:
    """A host: a VTEP, what it has to tell, and its plane."""

    def __init__(self, number: int, make: MakePlane, stack: ExitStack) -> None:
        self.address = ip_address(address_of(number))
        settings = {
            "underlay": {"local": str(self.address)},
            "tables": {"entries": 4096, "remotes": 512, "segments": 16},
            "segment": [{"vni": VNI, "tap": "x"}],
        }
        self.vtep: Vtep = stack.enter_context(DryVtep(settings))
        self.routes: set[Route] = {TakesPart(VNI, self.address)}
        self.plane = make(self.vtep, lambda: set(self.routes))

    def endpoint(self, number: int) -> Endpoint:
        """That of this number, behind this host."""
        mac = MacAddress((0x02_00_00_00_00_00 + number).to_bytes(6, "big").hex(":"))
        address = ip_address(f"10.{number >> 16}.{number >> 8 & 0xFF}.{number & 0xFF}")
        return Endpoint(vni=VNI, mac=mac, vtep=self.address, addresses=(address,))

    def tell(self, *, add: Sequence[Route] = (), remove: Sequence[Route] = ()) -> None:
        self.routes = (self.routes - set(remove)) | set(add)
        self.plane.changed()

    def heard(self) -> int:
        return self.vtep.n_told_by(self.plane.name)


def measure(name: str, make: MakePlane, n_hosts: int, n_endpoints: int, speaker: Callable[[], int]) -> Found:
    """With planes that `make` makes; `speaker` is the memory, in bytes, of whom they speak with."""
    with ExitStack() as stack:
        sites = [Site(number, make, stack) for number in range(n_hosts)]
        gc.collect()
        before, meter, cpu = _memory(os.getpid()), machine.Meter(), time.process_time()
        began = time.monotonic()
        for site in sites:
            stack.enter_context(site.plane)
        members_s = _until(sites, lambda site: site.heard() == n_hosts - 1, began)
        began = time.monotonic()
        for number, site in enumerate(sites):
            site.tell(add=[site.endpoint(n) for n in range(number, n_endpoints, n_hosts)])
        own = n_endpoints // n_hosts
        endpoints_s = _until(sites, lambda site: site.heard() == n_hosts - 1 + n_endpoints - own, began)
        move_s = _moved(sites)
        counts = [site.plane.status().counts for site in sites]
        return Found(
            plane=name,
            hosts=n_hosts,
            endpoints=n_endpoints,
            members_s=round(members_s, 2),
            endpoints_s=round(endpoints_s, 2),
            move_s=round(move_s, 2),
            host_kib=round((_memory(os.getpid()) - before) / n_hosts / 1024, 1),
            speaker_mib=round(speaker() / 2**20, 1),
            messages=round(sum(each["requests"] + each["messages"] for each in counts) / n_hosts, 1),
            cpu_s=round(time.process_time() - cpu, 1),
            foreign_share=round(meter.shares()[0], 3),
        )


def _moved(sites: Sequence[Site]) -> float:
    """The first endpoint goes from the first host to the last one."""
    began, old, new = time.monotonic(), sites[0].endpoint(0), sites[-1].endpoint(0)
    sites[0].tell(remove=[old])
    sites[-1].tell(add=[new])
    return _until(sites[:-1], lambda site: _has(site, new), began)


def _has(site: Site, endpoint: Endpoint) -> bool:
    """Whether it knows of it, with whatever sequence number."""
    told = (each for each in site.vtep.told_by(site.plane.name) if isinstance(each, Endpoint))
    return (endpoint.mac, endpoint.vtep) in ((each.mac, each.vtep) for each in told)


def _until(sites: Sequence[Site], settled: Callable[[Site], bool], began: float) -> float:
    for site in sites:
        wait_until(lambda: settled(site), "all know all", DEADLINE_S)  # noqa: B023 - called at once
    return time.monotonic() - began


def _memory(pid: int) -> int:
    """Resident, in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# The planes: what runs beside the hosts, and what each host has


@contextmanager
def etcd(namespace: Namespace, folder: Path, n_hosts: int) -> Iterator[list[str]]:
    """One member of etcd; the words that the process of the hosts is told."""
    with Member(namespace, folder) as member:
        assert member.process is not None
        yield [member.url, str(member.process.pid)]


def etcd_hosts(n_hosts: int, n_endpoints: int, url: str, pid: str) -> Found:
    """Hosts that speak with it."""
    from vxcore.planes.etcd.etcd import Etcd

    def make(vtep: Vtep, now: Callable[[], set[Route]]) -> Plane:
        settings = config.Etcd(urls=(url,), timeout=60, lease=300)
        return Etcd(vtep, settings, now, owner=str(vtep.locals[0]))

    return measure("etcd", make, n_hosts, n_endpoints, lambda: _memory(int(pid)))


@contextmanager
def evpn(namespace: Namespace, folder: Path, n_hosts: int) -> Iterator[list[str]]:
    """A GoBGP for each host, and one that reflects their routes."""
    addresses = [address_of(number) for number in range(n_hosts)]
    for address in addresses:
        namespace.ip("address", "add", f"{address}/32", "dev", "lo")
    reflector = GoBgp(namespace, folder, *addresses, reflects=True, api=_api(folder, "reflector"))
    speakers = [GoBgp(namespace, folder, namespace.v4, own=own, api=_api(folder, own)) for own in addresses]
    with ExitStack() as stack:
        for speaker in (reflector, *speakers):
            stack.enter_context(speaker)
        wait_until(lambda: reflector("neighbor").count("Establ") == n_hosts, "all sessions", DEADLINE_S)
        yield [str(folder), *(str(speaker.pid) for speaker in (reflector, *speakers))]


def _api(folder: Path, name: str) -> str:
    return f"unix://{folder}/{name}.sock"


def evpn_hosts(n_hosts: int, n_endpoints: int, folder: str, *pids: str) -> Found:
    """Hosts each of which speaks with its own."""
    from vxcore.planes.evpn.evpn import Evpn

    def make(vtep: Vtep, now: Callable[[], set[Route]]) -> Plane:
        settings = config.Evpn(api=_api(Path(folder), str(vtep.locals[0])), timeout=60)
        return Evpn(vtep, settings, now)

    return measure("evpn", make, n_hosts, n_endpoints, lambda: sum(_memory(int(pid)) for pid in pids))


class Beside(Protocol):
    """Runs what the plane's hosts speak with, in a namespace, with files in a folder."""

    def __call__(self, namespace: Namespace, folder: Path, n_hosts: int) -> Any: ...


PLANES: dict[str, tuple[Beside, Callable[..., Found]]] = {
    "etcd": (etcd, etcd_hosts),
    "evpn": (evpn, evpn_hosts),
}


def main() -> None:
    """Measure each plane, and print what was found as lines of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planes", description=__doc__)
    parser.add_argument("--hosts", type=int, default=100)
    parser.add_argument("--endpoints", type=int, default=1000, help="of all hosts together (1000)")
    parser.add_argument("--only", nargs="+", choices=PLANES, default=list(PLANES), metavar="PLANE")
    parser.add_argument("--inside", nargs="+", help=argparse.SUPPRESS)  # the process of the hosts
    options = parser.parse_args()
    if options.inside:
        name, *words = options.inside
        print(msgspec.json.encode(PLANES[name][1](options.hosts, options.endpoints, *words)).decode())
        return
    amounts = ("--hosts", str(options.hosts), "--endpoints", str(options.endpoints))
    for name in options.only:
        with (
            Lan(1) as lan,
            tempfile.TemporaryDirectory() as folder,
            PLANES[name][0](lan.hosts[0], Path(folder), options.hosts) as words,
        ):
            command = [sys.executable, "-m", "benchmarks.planes", *amounts, "--inside", name, *words]
            process = lan.hosts[0].start(*command)
            out, err = process.communicate()
            print(out if process.returncode == 0 else err, end="", flush=True)


if __name__ == "__main__":
    main()
