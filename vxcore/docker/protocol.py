"""What Docker says to a network driver, and hears: requests and replies as JSON has them.

Place in the house: lowest of docker. The names are those of the protocol (moby, libnetwork/docs/remote.md);
what a driver has no use for is passed over.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

GENERIC = "com.docker.network.generic"
"""Among the options of a network: those that the user gave by ``-o``."""
INTERNAL = "com.docker.network.internal"


class Asked(Struct, frozen=True, rename="pascal"):
    """A request."""


class Nothing(Asked, frozen=True):
    """There is nothing to say."""


class CreateNetwork(Asked, frozen=True):
    """A network comes; its addresses are the business of Docker's IPAM."""

    network_id: str = msgspec.field(name="NetworkID")
    options: dict[str, Any] | None = None

    @property
    def given(self) -> dict[str, Any]:
        """What the user gave by ``-o``."""
        return dict((self.options or {}).get(GENERIC) or {})

    @property
    def internal(self) -> bool:
        """Whether containers are to have no way out."""
        return bool((self.options or {}).get(INTERNAL))


class OfNetwork(Asked, frozen=True):
    """Names a network."""

    network_id: str = msgspec.field(name="NetworkID")


class OfEndpoint(OfNetwork, frozen=True):
    """Names a container's end in a network."""

    endpoint_id: str = msgspec.field(name="EndpointID")


class Interface(Struct, frozen=True, rename="pascal", omit_defaults=True):
    """What a container's device has; in a reply, what the driver chose."""

    address: str = ""
    address_ipv6: str = msgspec.field(name="AddressIPv6", default="")
    mac_address: str = ""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Those that there are, without the lengths of their networks."""
        return tuple(each.partition("/")[0] for each in (self.address, self.address_ipv6) if each)


class CreateEndpoint(OfEndpoint, frozen=True):
    """A container is to have an end in a network."""

    interface: Interface | None = None


class Join(OfEndpoint, frozen=True):
    """An end is to be in a container, whose network namespace is `sandbox_key`."""

    sandbox_key: str = ""


# Replies


def activated() -> dict[str, Any]:
    """Of Plugin.Activate."""
    return {"Implements": ["NetworkDriver"]}


def capabilities() -> dict[str, Any]:
    """Docker on each host has its own list of networks, and these reach beyond the host."""
    return {"Scope": "local", "ConnectivityScope": "global"}


def endpoint_created(mac: str) -> dict[str, Any]:
    """`mac` is what the driver chose; "": the user did."""
    return {"Interface": msgspec.to_builtins(Interface(mac_address=mac))}


def joined(device: str, *, way_out: bool) -> dict[str, Any]:
    """The device that Docker moves into the container; no gateway, so that Docker gives it a way out."""
    names = {"SrcName": device, "DstPrefix": "eth"}
    return {"InterfaceName": names, "DisableGatewayService": not way_out}
