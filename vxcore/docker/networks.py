"""What is known of Docker's networks and their containers, and the file that keeps it over a restart.

Place in the house: in docker, above config and files. The file is JSON, written whole after each change, so
that what it says of networks is never half of one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from vxcore import config
from vxcore.addresses import IP_FORM, MacAddress, mac_of
from vxcore.config import IPAddress
from vxcore.errors import ConfigError, VxcoreError
from vxcore.files import replacing
from vxcore.problem import from_msgspec

_FORMAT = 1
_PREFIX = "vxcore."
_DOCKER_MTU = "com.docker.network.driver.mtu"
_PEERS = Meta(description=f"addresses with commas between, each {IP_FORM}")


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``docker network create -o vxcore.KEY=VALUE`` may say."""

    vni: Annotated[int, Meta(ge=0, le=0xFF_FFFF)] | None = None
    """None: the lowest of `vnis` that is free."""
    mtu: Annotated[int, Meta(ge=68, le=65485)] | None = None
    """None: from the route."""
    peers: Annotated[tuple[IPAddress, ...], _PEERS] | None = None
    """The other hosts, and this one or not; None: those of the settings."""


def read_options(given: Mapping[str, Any]) -> Options:
    """The options of a network, all of them text. Raises ConfigError, naming the one that is wrong."""
    if given.get("encrypted", "false").lower() != "false":
        text = "vxcore does not encrypt; leave it out, and join the hosts by WireGuard or IPsec"
        raise ConfigError(f"encrypted: {text}")
    data: dict[str, Any] = {}
    for written, value in given.items():
        name = f"{_PREFIX}mtu" if written == _DOCKER_MTU else written
        if name.startswith(_PREFIX):
            data[name.removeprefix(_PREFIX)] = value
        elif name != "encrypted":
            known = ", ".join(_PREFIX + each for each in Options.__struct_fields__)
            raise ConfigError(f"{name}: there is no such option; known are {known}")
    if "peers" in data:
        data["peers"] = [word.strip() for word in data["peers"].split(",") if word.strip()]
    try:
        return msgspec.convert(data, Options, strict=False, dec_hook=config.decode)
    except msgspec.ValidationError as error:
        raise ConfigError(_PREFIX + config.explain(from_msgspec(error, Options), data)) from None


class Endpoint(Struct, kw_only=True):
    """A container's end in a network."""

    id: str
    mac: str
    addresses: tuple[str, ...] = ()
    sandbox: str = ""
    """The file of the container's network namespace; "": it is in none."""

    @property
    def is_in_a_container(self) -> bool:
        """Whether that is there; of one that has ended Docker leaves the file for a while, but no mount."""
        return bool(self.sandbox) and os.path.ismount(self.sandbox)  # Path.is_mount() wants a folder


class Network(Struct, kw_only=True):
    """A network of Docker's, which is a segment of ours."""

    id: str
    vni: int
    mtu: int | None = None
    peers: tuple[str, ...] = ()
    internal: bool = False
    endpoints: dict[str, Endpoint] = {}  # msgspec copies it

    @property
    def short_id(self) -> str:
        """As ``docker network ls`` shows it."""
        return self.id[:12]

    @property
    def tap(self) -> str:
        """Its device on this host."""
        return f"vxd{self.vni}"

    @property
    def segment(self) -> dict[str, Any]:
        """The keys of its ``[[segment]]``."""
        keys: dict[str, Any] = {"vni": self.vni, "tap": self.tap, "remotes": list(self.peers)}
        return keys | ({"mtu": self.mtu} if self.mtu is not None else {})

    def require(self, endpoint_id: str) -> Endpoint:
        """Raises ConfigError when there is no such endpoint."""
        if endpoint_id not in self.endpoints:
            raise ConfigError(f"network {self.short_id}: there is no endpoint {endpoint_id[:12]}")
        return self.endpoints[endpoint_id]


def device_of(endpoint_id: str) -> str:
    """The name of an endpoint's device before Docker moves it into the container."""
    return f"vxe{endpoint_id[:11]}"


def mac_for(address: str, endpoint_id: str) -> str:
    """One that no other container of the network has."""
    if address:
        return mac_of(IPv4Interface(address).ip)
    return mac_of(IPv4Address(hashlib.sha256(endpoint_id.encode()).digest()[:4]))


def checked_mac(mac: str) -> str:
    """One that the user chose. Raises ConfigError when no container can have it."""
    return str(MacAddress(mac))


class _File(Struct, frozen=True, kw_only=True):
    format: int
    networks: tuple[Network, ...]


class Book:
    """The networks by ID, as the file has them.

    Raises VxcoreError when there is a file and it is none of ours: containers may run in what it had.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self.networks: dict[str, Network] = {network.id: network for network in self._read()}

    def _read(self) -> tuple[Network, ...]:
        try:
            read = msgspec.json.decode(self._path.read_bytes(), type=_File)
        except FileNotFoundError:
            return ()
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise VxcoreError(f"{self._path}: not read: {error}; without it, delete its networks") from None
        if read.format != _FORMAT:
            raise VxcoreError(f"{self._path}: its format is {read.format}, and this vxcore knows {_FORMAT}")
        return read.networks

    def save(self) -> None:
        """Put the file in the place of what is there, or raise OSError and leave that."""
        file = _File(format=_FORMAT, networks=tuple(self.networks.values()))
        self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with replacing(self._path, 0o600) as out:
            out.write(msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n")

    def require(self, network_id: str) -> Network:
        """Raises ConfigError when there is no such network."""
        if network_id not in self.networks:
            raise ConfigError(f"there is no network {network_id[:12]} of vxcore's")
        return self.networks[network_id]
