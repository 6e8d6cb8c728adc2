"""Who is measured: each kind of VTEP, brought up on a host towards one remote.

Place in the house: above topology and openvswitch, below the measures. The variants of vxcore are data
(variants.toml).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
import tomllib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.hosts import Host, run

from benchmarks import ROOT
from benchmarks.datapath.openvswitch import Switch
from benchmarks.datapath.topology import Stage, add_underlay_address, pin
from benchmarks.peers import AbsentError

VNI = 42
DEVICE = "vx42"
INNER_MTU = 1450


@dataclass(frozen=True)
class Access:
    """For small packets: the device through which frames enter, and who is on which side."""

    device: str
    near_mac: str
    far_mac: str
    far_gateway_mac: str
    """Of the remote VTEP, where nobody answers ARP."""


class Kind(ABC):
    """A kind of VTEP."""

    name: str

    @abstractmethod
    def up(self, stage: Stage, host: Host, remote: Host, access: Access | None) -> list[int]:
        """Bring a VTEP up on a host and give the pids of its processes.

        Its overlay device is vx42, with an address; with `access`, frames enter by that instead.
        """

    def pin(self, pids: list[int], cpu: int) -> None:
        """Keep its processes on one CPU."""
        for pid in pids:
            pin(pid, cpu)

    def target(self, host: Host) -> str:
        """The address of a host that this kind carries packets to."""
        return f"10.42.0.{host.number}"

    def address(self, host: Host) -> str:
        """Of the VTEP on a host, in the underlay."""
        return host.v4

    def underlay_device(self) -> str:
        """The device with the host's underlay address."""
        return "eth"


class Veth(Kind):
    """No VTEP at all: what the veth pair itself carries."""

    name = "veth"

    def up(self, stage: Stage, host: Host, remote: Host, access: Access | None) -> list[int]:
        return []

    def target(self, host: Host) -> str:
        return host.v4


class Kernel(Kind):
    """The kernel's vxlan device."""

    name = "kernel"

    def up(self, stage: Stage, host: Host, remote: Host, access: Access | None) -> list[int]:
        kernel_device(host, remote)
        if access:
            entry = (access.far_mac, "dev", DEVICE, "dst", remote.v4, "self", "permanent")
            run("bridge", "-n", host.namespace, "fdb", "append", *entry)
            bridge(host, access, remote)
        return []


class OpenVSwitch(Kind):
    """Open vSwitch's userspace datapath."""

    name = "ovs"

    def up(self, stage: Stage, host: Host, remote: Host, access: Access | None) -> list[int]:
        switch = Switch(host, remote, stage.directory, INNER_MTU)
        host.overlay(DEVICE)
        if access:
            switch.vsctl("add-port", DEVICE, access.device)
            switch.appctl("fdb/add", DEVICE, "vtep", "0", access.far_mac)
            switch.appctl("fdb/add", DEVICE, access.device, "0", access.near_mac)
            switch.appctl("tnl/arp/set", "phy", remote.v4, access.far_gateway_mac)
        return switch.pids

    def underlay_device(self) -> str:
        return "phy"


@dataclass(frozen=True)
class Vxcore(Kind):
    """One variant of vxcore."""

    name: str
    about: str = ""
    overlay: str = "tap"
    own_address: str = "{host}"
    settings: dict[str, Any] = field(default_factory=dict)
    prepare: tuple[tuple[str, ...], ...] = ()
    linux: tuple[int, int] = (0, 0)
    """The first version that has what it needs."""
    tree: Path = ROOT
    """The checkout, with its modules built, that is run."""

    def up(self, stage: Stage, host: Host, remote: Host, access: Access | None) -> list[int]:
        words = {
            "local": self.address(host),
            "remote": self.address(remote),
            "gateway": remote.v4,
            "access": access.device if access else "acc",
        }
        if self.overlay == "device" and access is None:
            host.ip("link", "add", DEVICE, "mtu", str(INNER_MTU), "type", "veth", "peer", "name", "acc")
            host.ip("link", "set", "acc", "mtu", str(INNER_MTU), "up")
        for command in self.prepare:
            host.run(*(word.format(**words) for word in command))
        file = stage.directory / f"{host.number}.toml"
        file.write_text(self.toml(words, access))
        pid = self._start(host, file)
        if self.overlay == "tap" or access is None:
            host.overlay(DEVICE)
        if self.overlay == "tap" and access is not None:
            bridge(host, access, remote)
        return [pid]

    def _start(self, host: Host, file: Path) -> int:
        """Run the VTEP of the tree; it carries frames when this returns."""
        process = host.start(sys.executable, "-m", "vxcore", "run", str(file), cwd=self.tree)
        assert process.stdout is not None
        if not process.stdout.readline().startswith("ready "):
            raise AssertionError(f"{self.name} does not start: {process.communicate(timeout=15)[1].strip()}")
        return process.pid

    def address(self, host: Host) -> str:
        return self.own_address.format(host=host.v4, number=host.number)

    def toml(self, words: dict[str, str], access: Access | None) -> str:
        """The settings file."""
        settings = _filled(self.settings, words)
        segment: dict[str, Any] = {"vni": VNI, "remotes": [words["remote"]], **settings.pop("segment", {})}
        if self.overlay == "tap":
            segment["tap"] = DEVICE
        underlay = {"local": words["local"], **settings.pop("underlay", {})}
        tables = {"underlay": underlay, **settings}
        text = "".join(_table(f"[{name}]", table) for name, table in tables.items())
        entry = f'fdb = [{{ mac = "{access.far_mac}", remote = "{words["remote"]}" }}]\n' if access else ""
        return text + _table("[[segment]]", segment) + entry


def _filled(value: Any, words: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(one, words) for key, one in value.items()}
    return value.format(**words) if isinstance(value, str) else value


def _table(head: str, table: dict[str, Any]) -> str:
    return "\n".join([head, *(f"{key} = {_toml(value)}" for key, value in table.items())]) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_toml(one)}' for key, one in value.items())} }}"
    return json.dumps(value)  # strings, numbers, booleans and lists of these are written as in JSON


def kernel_device(host: Host, remote: Host) -> None:
    """Make the kernel's vx42; AbsentError where the kernel has no such device."""
    try:
        host.kernel_vxlan([remote], vni=VNI)
    except AssertionError as error:
        if any(words in str(error) for words in ("Unknown device type", "not supported")):
            raise AbsentError("the kernel's vxlan device is not there; `modprobe vxlan` brings it") from None
        raise


def bridge(host: Host, access: Access, remote: Host) -> None:
    """Plug the access device and vx42 into one bridge that knows who is where."""
    host.ip("link", "add", "bridge0", "type", "bridge", "mcast_snooping", "0")
    for device, mac in ((access.device, access.near_mac), (DEVICE, access.far_mac)):
        host.ip("link", "set", device, "master", "bridge0", "up")
        run("bridge", "-n", host.namespace, "fdb", "replace", mac, "dev", device, "master", "static")
    host.ip("link", "set", "bridge0", "up")


def variants() -> list[Vxcore]:
    """The variants of vxcore in the order of their file, without those that this kernel is too old for."""
    tables = tomllib.loads(Path(__file__).with_name("variants.toml").read_text())
    release = tuple(int(word) for word in re.findall(r"\d+", os.uname().release)[:2])
    return [one for one in (_variant(name, table) for name, table in tables.items()) if one.linux <= release]


def _variant(name: str, table: dict[str, Any]) -> Vxcore:
    lists = {"prepare": tuple(tuple(command) for command in table.get("prepare", []))}
    return Vxcore(name=name, **{**table, **lists, "linux": tuple(table.get("linux", (0, 0)))})


def kinds(against: Path | None = None) -> dict[str, Kind]:
    """All kinds by name, neighbours first; with another tree, each variant of vxcore from there too."""
    ours = variants()
    theirs = [dataclasses.replace(one, name=f"{one.name}@against", tree=against) for one in ours if against]
    return {kind.name: kind for kind in (Veth(), Kernel(), OpenVSwitch(), *ours, *theirs)}


def pair(stage: Stage, left: Kind, right: Kind, mode: str) -> tuple[Host, Host, list[int]]:
    """Two hosts over one veth pair with a VTEP each; the pids of these."""
    a, b = stage.host(1), stage.host(2)
    stage.link(a, "eth", b, "eth", mode)
    for host in (a, b):
        add_underlay_address(host)
    return a, b, left.up(stage, a, b, None) + right.up(stage, b, a, None)
