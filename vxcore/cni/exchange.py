"""What a container runtime says to a CNI plugin, by environment and standard input, and what it hears.

Place in the house: in cni, above addresses and errors. The specification is CNI 1.1
(https://www.cni.dev/docs/spec/); the numbers of errors are its section 2.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, NamedTuple

from vxcore.addresses import AddressError, MacAddress
from vxcore.errors import VxcoreError

VERSIONS = ("0.4.0", "1.0.0", "1.1.0")
_SINCE_1_1 = ("STATUS", "GC")
_CONTAINER_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_DEVICE = re.compile(r"(?!\.{1,2}\Z)[!-$&-.0-9;-~]{1,15}")
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_MAX_VNI = 0xFF_FFFF
_SMALLEST_MTU = 68
_UNSUPPORTED = ("vlan", "vlanTrunk", "macspoofchk", "portIsolation", "disableContainerInterface")
"""Keys of the reference plugin `bridge` that would be missed."""


class Code(IntEnum):
    """Kinds of errors; from 100 on they are the plugin's own."""

    VERSION = 1
    UNSUPPORTED = 2
    ENVIRONMENT = 4
    IO = 5
    DECODE = 6
    CONFIG = 7
    TRY_AGAIN = 11
    NOT_CONNECTED = 51
    SYSTEM = 100
    NOT_AS_IT_WAS = 101


class CniError(VxcoreError):
    """What a runtime is told when a command fails."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        super().__init__(msg)
        self.code, self.details = code, details

    def told(self, version: str) -> dict[str, Any]:
        """As the specification has it."""
        error = {"cniVersion": version, "code": int(self.code), "msg": str(self)}
        return error | ({"details": self.details} if self.details else {})


class Attachment(NamedTuple):
    """Which container, and which device of it."""

    container: str
    device: str
    netns: str
    """"": it has no namespace any more."""


def attachment(environment: Mapping[str, str], *, netns: bool) -> Attachment:
    """What the environment names; `netns`: whether there must be a namespace."""
    container, device = environment.get("CNI_CONTAINERID", ""), environment.get("CNI_IFNAME", "")
    if not _CONTAINER_ID.fullmatch(container):
        raise CniError(
            Code.ENVIRONMENT, f"CNI_CONTAINERID {container!r}: letters, digits, and _.- among them"
        )
    if not _DEVICE.fullmatch(device):
        raise CniError(Code.ENVIRONMENT, f"CNI_IFNAME {device!r}: a device name of up to 15 characters")
    path = environment.get("CNI_NETNS", "")
    if netns and not path:
        raise CniError(Code.ENVIRONMENT, "CNI_NETNS: missing; the file of the container's network namespace")
    return Attachment(container, device, path)


class Config(NamedTuple):
    """A network as its configuration has it."""

    version: str
    name: str
    vni: int
    bridge: str
    control: str | None
    """The VTEP's control socket; None: this network namespace's."""
    gateway: bool
    """Whether the bridge has the gateway's address."""
    default_route: bool
    """Whether containers' default route is by it."""
    masquerade: bool
    """Whether what containers send to other networks has this host's address."""
    hairpin: bool
    """Whether a container may reach itself by a published port."""
    promiscuous: bool
    """Of the bridge."""
    mtu: int | None
    """None: the segment's."""
    mac: str | None
    ipam: str | None
    """The plugin that gives addresses; None: there are none."""
    previous: dict[str, Any] | None
    data: dict[str, Any]
    """All of it."""


def read_config(text: bytes, command: str) -> Config:
    """The configuration that a runtime sends. Raises CniError, naming the key that is wrong."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise CniError(Code.DECODE, f"the configuration is no JSON: {error}") from None
    if not isinstance(data, dict):
        raise CniError(Code.DECODE, "the configuration is no JSON object")
    version = data.get("cniVersion", "")
    if version not in VERSIONS:
        raise CniError(Code.VERSION, f"cniVersion {version!r}: known are {', '.join(VERSIONS)}")
    if command in _SINCE_1_1 and version in VERSIONS[:2]:
        raise CniError(Code.VERSION, f"cniVersion {version!r}: {command} is since 1.1.0")
    _refuse_unsupported(data)
    vni = _key(data, "vni", int)
    if isinstance(vni, bool) or not isinstance(vni, int) or not 0 <= vni <= _MAX_VNI:
        raise CniError(Code.CONFIG, f"vni: {vni!r} is not allowed; an integer from 0 to {_MAX_VNI}")
    default_route = bool(_key(data, "isDefaultGateway", bool))
    return Config(
        version=version,
        name=_word(data, "name", _NAME) or _missing("name"),
        vni=vni,
        bridge=_word(data, "bridge", _DEVICE) or f"vxbr{vni}",
        control=_key(data, "control", str),
        gateway=default_route or bool(_key(data, "isGateway", bool)),
        default_route=default_route,
        masquerade=bool(_key(data, "ipMasq", bool)),
        hairpin=bool(_key(data, "hairpinMode", bool)),
        promiscuous=bool(_key(data, "promiscMode", bool)),
        mtu=_mtu(data),
        mac=_mac(data),
        ipam=_word(_key(data, "ipam", dict) or {}, "type", _NAME),
        previous=_key(data, "prevResult", dict),
        data=data,
    )


def _refuse_unsupported(data: Mapping[str, Any]) -> None:
    for key in _UNSUPPORTED:
        if data.get(key):
            raise CniError(Code.UNSUPPORTED, f"{key}: vxcore does not know it; leave it out")
    backend = data.get("ipMasqBackend") or "nftables"
    if backend != "nftables":
        raise CniError(Code.UNSUPPORTED, f"ipMasqBackend: {backend!r} is none of vxcore's; nftables is")
    if data.get("hairpinMode") and data.get("promiscMode"):
        raise CniError(Code.CONFIG, "hairpinMode, promiscMode: one goes without the other")


def _mtu(data: Mapping[str, Any]) -> int | None:
    """Zero is none, as the plugin `bridge` has it."""
    mtu: int | None = _key(data, "mtu", int) or None
    if mtu is not None and (isinstance(mtu, bool) or mtu < _SMALLEST_MTU):
        raise CniError(Code.CONFIG, f"mtu: {mtu!r} is not allowed; an integer from {_SMALLEST_MTU} on")
    return mtu


def _key(data: Mapping[str, Any], key: str, kind: type) -> Any:
    value = data.get(key)
    if value is not None and not isinstance(value, kind):
        raise CniError(Code.CONFIG, f"{key}: {value!r} is not allowed; {_KINDS[kind]}")
    return value


_KINDS = {int: "an integer", bool: "true or false", str: "a string", dict: "an object"}


def _word(data: Mapping[str, Any], key: str, form: re.Pattern[str]) -> str | None:
    value = _key(data, key, str)
    if value is not None and not form.fullmatch(value):
        raise CniError(Code.CONFIG, f"{key}: {value!r} is not allowed; a name without / and white space")
    return str(value) if value is not None else None


def _missing(key: str) -> str:
    raise CniError(Code.CONFIG, f"{key}: missing")


def _mac(data: Mapping[str, Any]) -> str | None:
    """By the capability `mac`, or by ``args``, as the conventions have it."""
    arguments = _key(_key(data, "args", dict) or {}, "cni", dict) or {}
    mac = (_key(data, "runtimeConfig", dict) or {}).get("mac") or arguments.get("mac")
    try:
        return str(MacAddress(str(mac))) if mac else None
    except AddressError as error:
        raise CniError(Code.CONFIG, f"mac: {error}") from None


def valid_attachments(config: Config) -> set[tuple[str, str]]:
    """Of the command GC: containers and their devices that are to stay."""
    listed = config.data.get("cni.dev/valid-attachments")
    if not isinstance(listed, list):
        raise CniError(Code.CONFIG, "cni.dev/valid-attachments: missing; a list")
    try:
        return {(str(each["containerID"]), str(each["ifname"])) for each in listed}
    except (KeyError, TypeError):  # not to be guessed at: who is not among them loses his device
        text = "cni.dev/valid-attachments: not allowed; a list of objects with containerID and ifname"
        raise CniError(Code.CONFIG, text) from None


def result(config: Config, interfaces: list[dict[str, Any]], leased: Mapping[str, Any]) -> dict[str, Any]:
    """What ADD says: devices, of which the last is the container's, and addresses, after those before."""
    before = config.previous or {}
    if config.version in VERSIONS[:2]:  # what is since 1.1
        interfaces = [{key: each[key] for key in each if key != "mtu"} for each in interfaces]
    earlier = list(before.get("interfaces") or ())
    own = len(earlier) + len(interfaces) - 1
    ips = [
        {key: ip[key] for key in ("version", "address", "gateway") if key in ip} | {"interface": own}
        for ip in leased.get("ips") or ()
    ]
    made: dict[str, Any] = {"cniVersion": config.version, "interfaces": earlier + interfaces}
    made["ips"] = list(before.get("ips") or ()) + ips
    made["routes"] = list(before.get("routes") or ()) + list(leased.get("routes") or ())
    made["dns"] = _key(config.data, "dns", dict) or leased.get("dns") or before.get("dns") or {}
    return made
