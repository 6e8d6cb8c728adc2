"""What stands in the store: keys and JSON values, and the routes that they mean.

Place in the house: lowest of planes.etcd. docs/etcd.md says the same for those who write other programs. A
key is below ``PREFIX/v1/``:

    vteps/ADDRESS         whose VTEP address it is
    segments/VNI/ADDRESS  a VTEP takes part in a segment
    endpoints/VNI/MAC     behind which VTEP a MAC address is

A value may have keys that are not known here; they are passed over. Who may write there may write anything.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from vxcore.addresses import MacAddress, parse_unicast
from vxcore.config import IPAddress, decode
from vxcore.errors import VxcoreError
from vxcore.problem import plain
from vxcore.told import Endpoint, Member, Route

FORMAT = "v1"
_VTEPS, _SEGMENTS, _ENDPOINTS = "vteps", "segments", "endpoints"
_MAX_VNI = 0xFF_FFFF
_MAX_SEQUENCE = 0xFFFF_FFFF
_MAX_ADDRESSES = 256
_MAX_BYTES = 1 << 16


class RecordError(VxcoreError):
    """A key or its value is none of ours."""


class Claim(Struct, frozen=True, kw_only=True):
    """The value of ``vteps/ADDRESS``."""

    owner: str
    """Of one process after the other in the same place the same, and of no other."""
    host: str = ""
    """Its name, for people."""
    vxcore: str = ""
    """Its version."""


class _Member(Struct, frozen=True):
    """The value of ``segments/VNI/ADDRESS``: there is nothing more to say."""


class _Endpoint(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The value of ``endpoints/VNI/MAC``."""

    vtep: IPAddress
    addresses: tuple[IPAddress, ...] = ()
    sequence: int = 0
    sticky: bool = False
    router: bool = False


Record = Claim | Route


def claim_key(address: IPAddress) -> str:
    """The key of a VTEP address."""
    return f"{_VTEPS}/{address}"


def key_of(route: Route) -> str:
    """The key of what a route says."""
    if isinstance(route, Member):
        return f"{_SEGMENTS}/{route.vni}/{route.vtep}"
    return f"{_ENDPOINTS}/{route.vni}/{route.mac}"


def value_of(record: Record) -> bytes:
    """As it stands in the store; of very many addresses the first, for with more it would mean nothing."""
    if isinstance(record, Endpoint):
        value = _Endpoint(
            vtep=record.vtep,
            addresses=record.addresses[:_MAX_ADDRESSES],
            sequence=record.sequence,
            sticky=record.sticky,
            router=record.router,
        )
        return msgspec.json.encode(value, enc_hook=str)
    return msgspec.json.encode(_Member() if isinstance(record, Member) else record, enc_hook=str)


def read(key: str, value: bytes) -> Record:
    """What a key means; raises RecordError, saying why in plain text, when it is none of these."""
    if len(value) > _MAX_BYTES:
        raise RecordError(f"a value of {len(value)} bytes; {_MAX_BYTES} at most")
    kind, *names = key.split("/")
    try:
        if kind == _VTEPS and len(names) == 1:
            _as_written(names[0], str(parse_unicast(names[0])))
            return msgspec.json.decode(value, type=Claim)
        if kind == _SEGMENTS and len(names) == 2:
            msgspec.json.decode(value, type=_Member)
            return Member(_vni(names[0]), _address(names[1]))
        if kind == _ENDPOINTS and len(names) == 2:
            return _endpoint(names[0], names[1], value)
    except RecursionError:  # even where nothing is known of it, and passed over
        raise RecordError("JSON is nested too deep") from None
    except (msgspec.DecodeError, UnicodeDecodeError, VxcoreError) as error:
        raise RecordError(plain(str(error))) from None
    raise RecordError("there are no such keys")


def _endpoint(vni: str, mac: str, value: bytes) -> Endpoint:
    read = msgspec.json.decode(value, type=_Endpoint, dec_hook=decode)
    if not 0 <= read.sequence <= _MAX_SEQUENCE:
        raise RecordError(f"sequence {read.sequence}; 0 to {_MAX_SEQUENCE}")
    if len(read.addresses) > _MAX_ADDRESSES:
        raise RecordError(f"{len(read.addresses)} addresses; {_MAX_ADDRESSES} at most")
    _as_written(mac, MacAddress(mac))
    return Endpoint(
        vni=_vni(vni),
        mac=MacAddress(mac),
        vtep=read.vtep,
        addresses=read.addresses,
        sequence=read.sequence,
        sticky=read.sticky,
        router=read.router,
    )


def _vni(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > len(str(_MAX_VNI)):
        raise RecordError("its VNI is no number")
    _as_written(text, str(int(text)))
    if int(text) > _MAX_VNI:
        raise RecordError(f"its VNI is above {_MAX_VNI}")
    return int(text)


def _address(text: str) -> IPAddress:
    address = parse_unicast(text)
    _as_written(text, str(address))
    return address


def _as_written(text: str, ours: str) -> None:
    """One thing has one key."""
    if text != ours:
        raise RecordError(f"it is written {ours}")
