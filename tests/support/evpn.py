"""Hosts with vxcore and a BGP speaker beside it, and who they exchange routes with.

Place in the house: above bgp, under the tests of the control plane EVPN.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from support.bgp import Frr, GoBgp, Guest
from support.hosts import Host, Lan, VtepProcess, wait_until
from support.operated import Operated

HERE, THERE, MOVED, STAYS, STILL = (f"02:00:00:00:42:{n}" for n in ("01", "02", "97", "98", "99"))
"""MAC addresses: of the guest of host 1 and of the guest of host 2; others that they have for a while."""


class Site(Operated):
    """A VTEP on a host whose bridge br42 has its TAP, and which hears of others by the speaker beside it."""

    def __init__(self, host: Host, folder: Path, evpn: str = "") -> None:
        self.host = host
        self.file, self.control = folder / f"{host.number}.toml", str(folder / f"{host.number}.sock")
        self.settings(evpn)
        host.ip("link", "add", "br42", "type", "bridge", "mcast_snooping", "0")
        host.run("sysctl", "-qw", "net.ipv6.conf.br42.disable_ipv6=1")
        host.ip("link", "set", "br42", "mtu", "1450", "up")
        self.start()

    def settings(self, evpn: str) -> None:
        self.file.write_text(
            f'[underlay]\nlocal = "{self.host.v4}"\n[control]\nsocket = "{self.control}"\n'
            '[[segment]]\nvni = 42\ntap = "vx42"\nlearning = false\nunknown_unicast = "drop"\n'
            f"[evpn]\ntimeout = 4\n{evpn}\n"
        )

    def start(self) -> None:
        self.vtep = VtepProcess(self.host, "run", str(self.file))
        self.host.run("sysctl", "-qw", "net.ipv6.conf.vx42.disable_ipv6=1")
        self.host.ip("link", "set", "vx42", "master", "br42", "up")

    def restart(self, evpn: str) -> None:
        """With other settings."""
        self.vtep.stop()
        self.settings(evpn)
        self.start()

    def route(self, mac: str) -> dict[str, Any]:
        """What it hears of a MAC address; empty: nothing."""
        return next(iter(self.show("route", mac)), {})

    def hears(self, mac: str, **said: Any) -> dict[str, Any]:
        """Wait until what it hears of a MAC address is this."""

        def is_so() -> bool:
            route = self.route(mac)
            return bool(route) and all(route[name] == value for name, value in said.items())

        wait_until(is_so, f"host {self.host.number} hears of {mac}: {said}")
        return self.route(mac)

    def hears_nothing_of(self, mac: str) -> None:
        wait_until(lambda: not self.route(mac), f"host {self.host.number} hears nothing of {mac}")


class Pair:
    """vxcore with GoBGP on host 1, FRR on host 2, and a guest behind each."""

    def __init__(self, stack: ExitStack, folder: Path, evpn: str = "") -> None:
        lan = stack.enter_context(Lan(2))
        one, two = lan.hosts
        self.frr = Frr(two, folder, one)
        self.frr.start()
        self.gobgp = stack.enter_context(GoBgp(one, folder, two.v4))
        self.site = Site(one, folder, evpn)
        self.here = stack.enter_context(Guest(one, 11, HERE))
        self.there = stack.enter_context(Guest(two, 12, THERE))
        self.here.speaks()
        self.there.speaks()

    def meet(self) -> None:
        """Wait until each has heard of the other's guest."""
        self.site.hears(THERE, vtep="192.0.2.2", state="used")
        wait_until(lambda: self.frr.sends_to(HERE) == "192.0.2.1", "FRR hears of the guest here")


class Triangle:
    """Two hosts with vxcore and GoBGP each, whose routes a third one reflects; a guest behind each."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        lan = stack.enter_context(Lan(3))
        *hosts, middle = lan.hosts
        self.reflector = stack.enter_context(
            GoBgp(middle, folder, *(host.v4 for host in hosts), reflects=True)
        )
        self.speakers = [stack.enter_context(GoBgp(host, folder, middle.v4)) for host in hosts]
        self.sites = [Site(host, folder) for host in hosts]
        macs = zip(hosts, (HERE, THERE), strict=True)
        self.guests = [stack.enter_context(Guest(host, host.number + 10, mac)) for host, mac in macs]
        for guest in self.guests:
            guest.speaks()

    def meet(self) -> None:
        """Wait until each has heard of the other's guest."""
        for site, mac in zip(self.sites, (THERE, HERE), strict=True):
            site.hears(mac, state="used")
            site.becomes("connected")

    def ping(self) -> None:
        one, other = self.guests
        one.inside.ping(other.v4)
