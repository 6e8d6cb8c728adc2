"""The underlay TAP of tunnel GSO: a device behind which this host routes the VTEP's own address.

Place in the house: above ports, below engine. The kernel cuts super-frames in tunnels since Linux 6.17,
if they come from a TAP that was told so; the VTEP then is a host of its own behind that TAP, and this
host its router. Everything here is set-up; closing the TAP takes all of it away.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute  # type: ignore[import-untyped]

from vxcore._fast.codec import Rules, Tunnel
from vxcore._fast.gsotap import GsoTapPort
from vxcore.config import Underlay
from vxcore.errors import ConfigError, UnsupportedError
from vxcore.parts import Part
from vxcore.ports import IPAddress, open_tun, route_to, set_offload

_VNET_TUNNEL_LEN = 24  # struct virtio_net_hdr_v1_hash_tunnel
# linux/if_tun.h: CSUM, TSO4, TSO6, TSO_ECN, USO4, USO6, UDP_TUNNEL_GSO, UDP_TUNNEL_GSO_CSUM
_OFFLOADS = 0x01 | 0x02 | 0x04 | 0x08 | 0x20 | 0x40 | 0x80 | 0x100
_NUD_PERMANENT = 0x80  # linux/neighbour.h
_OUR_MAC = "02:56:58:4c:41:4e"  # locally administered; seen by this host alone


class UnderlayTap:
    """A new TAP with a route to each local address, ready for packets.

    Raises ConfigError when the name is taken or the host does not forward, UnsupportedError before
    Linux 6.17, OSError otherwise.
    """

    def __init__(
        self,
        settings: Underlay,
        locals_: tuple[IPAddress, ...],
        dstports: Collection[int],
        n_lanes: int,
        mtu: int,
        handed: Part | None = None,
    ) -> None:
        self.settings = settings
        self.dstports = tuple(dstports)
        self.name = settings.via
        self.locals = locals_
        self.mtu = mtu
        self.fds: list[int] = []
        if handed is not None:
            self.fds, self.mtu, self.host_mac = handed.fds, handed.facts["mtu"], handed.facts["host_mac"]
            return
        with ExitStack() as undo, IPRoute() as route:
            undo.callback(self.close)
            if route.link_lookup(ifname=self.name):
                raise ConfigError(f"via {self.name}: that device exists; give the name of a new device")
            for _ in range(n_lanes):
                self.fds.append(open_tun(self.name, n_lanes > 1, _VNET_TUNNEL_LEN))
            if not set_offload(self.fds, self.name, _OFFLOADS):
                release = os.uname().release
                raise UnsupportedError(
                    f'kind "tap" needs tunnel offloads of TAP devices, Linux 6.17; this is {release}'
                )
            self._route(route)
            undo.pop_all()

    def part(self) -> Part:
        """What another process goes on with."""
        return Part(list(self.fds), {"mtu": self.mtu, "host_mac": self.host_mac})

    def _route(self, route: IPRoute) -> None:
        if all(local.version == 4 for local in self.locals):
            Path(f"/proc/sys/net/ipv6/conf/{self.name}/disable_ipv6").write_text("1")
        try:
            index = route.link_lookup(ifname=self.name)[0]
            route.link("set", index=index, mtu=self.mtu, state="up")
            self.host_mac = str(route.get_links(index)[0].get_attr("IFLA_ADDRESS"))
            for local in self.locals:
                route.neigh("replace", dst=str(local), lladdr=_OUR_MAC, ifindex=index, state=_NUD_PERMANENT)
                route.route("replace", dst=f"{local}/{local.max_prefixlen}", oif=index)
        except Exception as error:  # pyroute2's NetlinkError is no OSError
            code = getattr(error, "code", errno.EIO)
            raise OSError(code, f"{self.name}: routing to it: {os.strerror(code)}") from None
        for local in self.locals:
            _require_forwarding(local.version, self.name)

    def tunnels(self, remotes: list[IPAddress]) -> list[Tunnel]:
        """The way to each remote; its outer header says so when a packet must not be fragmented."""
        return [self._tunnel(remote) for remote in remotes]

    def _tunnel(self, remote: IPAddress) -> Tunnel:
        settings = self.settings
        local = next(local for local in self.locals if local.version == remote.version)
        checksum = settings.udpcsum if remote.version == 4 else not settings.udp6zerocsumtx
        return Tunnel(
            local=local,
            remote=remote,
            vni=0,
            dst_port=settings.dstport,
            src_port=settings.srcport,
            ttl=settings.ttl if isinstance(settings.ttl, int) and settings.ttl else 64,
            df="set",  # a VTEP must not fragment (RFC 7348 section 4.3), and this host would
            udp_checksum=checksum,
            ethernet=(self.host_mac, _OUR_MAC),
        )

    def port(self, number: int, tunnels: list[Tunnel]) -> GsoTapPort:
        """The queue of one lane as its underlay port."""
        options: dict[str, Any] = {"ports": self.dstports}
        zero = "accept" if self.settings.udp6zerocsumrx else "drop"
        verify = Rules(zero_checksum6=zero, **options)
        trust = Rules(udp_checksum="ignore", **options)
        return GsoTapPort(f"tap {self.name}", self.fds[number], self.mtu, tunnels, verify, trust)

    def close(self) -> None:
        while self.fds:
            os.close(self.fds.pop())


def _require_forwarding(version: int, device: str) -> None:
    path = Path(f"/proc/sys/net/ipv{version}/conf/{device}/forwarding")
    if path.read_text().strip() != "1":
        switch = "net.ipv4.ip_forward" if version == 4 else "net.ipv6.conf.all.forwarding"
        raise ConfigError(f'kind "tap": this host does not forward IPv{version}; `sysctl -w {switch}=1`')


def narrowest_mtu(remotes: list[IPAddress], dev: str | None) -> int:
    """The smallest MTU of the routes to the remotes, in bytes; 1500 without any."""
    return min((route_to(remote, dev)[1] for remote in remotes), default=1500)
