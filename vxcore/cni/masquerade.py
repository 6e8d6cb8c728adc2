"""What containers send to other networks gets this host's address (`ipMasq`), by nft(8).

Place in the house: in cni, above exchange, below plugin. Each attachment has a table of its own, made and
deleted in one go, whose name says whose it is: rules of others are left alone, and what is left behind is
found.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from hashlib import sha256
from ipaddress import ip_interface
from typing import Any

from vxcore.cni.exchange import CniError, Code, Config

_TIMEOUT_S = 60
_FAMILIES = {4: ("ip", "224.0.0.0/4"), 6: ("ip6", "ff00::/8")}
"""By version of IP: its name, and what is for groups."""


def set_up(config: Config, device: str, leased: Mapping[str, Any]) -> None:
    """For the addresses of an attachment, whose `device` is on this host; what there was is replaced."""
    table = _table(config, device)
    rules = [_rule(ip["address"]) for ip in leased.get("ips") or ()]
    chain = "; ".join(["type nat hook postrouting priority srcnat", *rules])
    _nft("-f", "-", given=f"{_deletion(table)}table inet {table} {{ chain out {{ {chain}; }}\n }}\n")


def _rule(address: str) -> str:
    interface = ip_interface(address)
    family, groups = _FAMILIES[interface.version]
    inside = f"{{ {interface.network}, {groups} }}"
    return f"{family} saddr {interface.ip} {family} daddr != {inside} masquerade"


def is_there(config: Config, device: str) -> bool:
    """Whether an attachment has its rules."""
    return _table(config, device) in _tables(config)


def forget(config: Config, device: str) -> None:
    """Delete the rules of an attachment; none is no error."""
    _delete([_table(config, device)])


def forget_others(config: Config, devices: Collection[str]) -> None:
    """Delete those of this network's attachments but for these."""
    kept = {_table(config, device) for device in devices}
    _delete([table for table in _tables(config) if table not in kept])


def _prefix(config: Config) -> str:
    return f"vxcni_{sha256(config.name.encode()).hexdigest()[:11]}_"


def _table(config: Config, device: str) -> str:
    return _prefix(config) + device


def _tables(config: Config) -> list[str]:
    names = [line.split()[-1] for line in _nft("list", "tables", "inet").splitlines()]
    return [name for name in names if name.startswith(_prefix(config))]


def _delete(tables: list[str]) -> None:
    if tables:
        _nft("-f", "-", given="".join(map(_deletion, tables)))


def _deletion(table: str) -> str:
    """Made first, for one that is not there cannot be deleted."""
    return f"table inet {table}\ndelete table inet {table}\n"


def _nft(*words: str, given: str = "") -> str:
    import subprocess  # here, for it takes longer than all else

    try:
        done = subprocess.run(
            ["nft", *words], check=False, input=given, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except FileNotFoundError:
        raise CniError(Code.SYSTEM, "ipMasq: there is no nft; install nftables") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CniError(Code.SYSTEM, f"ipMasq: nft: {error}") from None
    if done.returncode:
        raise CniError(Code.SYSTEM, f"ipMasq: nft: {done.stderr.strip().partition(chr(10))[0]}")
    return done.stdout
