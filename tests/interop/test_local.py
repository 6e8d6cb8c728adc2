"""What a host tells a control plane is what its kernel says of who is behind its TAPs, as it changes."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import local_view
from support.hosts import DEADLINE_S, Host, Lan

pytestmark = pytest.mark.usefixtures("root", "nothing_is_left")

MAC, BEHIND, ON_TOP = "02:00:00:00:42:01", "02:00:00:00:42:02", "02:00:00:00:42:03"


class View:
    """The program of support/local_view.py on a host."""

    def __init__(self, host: Host, *segments: dict[str, Any]) -> None:
        settings = {"underlay": {"local": host.v4}, "segment": list(segments)}
        program = str(Path(local_view.__file__))
        self.process = host.start(sys.executable, program, json.dumps(settings), stdin=subprocess.PIPE)

    def becomes(self, vnis: set[int], endpoints: dict[str, set[str]]) -> None:
        """Read until this is what there is to tell: the VNIs, and addresses by MAC address."""
        assert self.process.stdout is not None
        seen: Any = None
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            if not select.select([self.process.stdout], [], [], 1)[0]:
                continue
            line = self.process.stdout.readline()
            assert line, self.process.communicate()
            routes = json.loads(line)
            seen = (
                {each["vni"] for each in routes if each["type"] == "Member"},
                {each["mac"]: set(each["addresses"]) for each in routes if each["type"] == "Endpoint"},
            )
            if seen == (vnis, endpoints):
                return
        pytest.fail(f"it was {seen}")


@pytest.fixture
def host() -> Iterator[Host]:
    with Lan(1) as lan:
        made = lan.hosts[0]
        made.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")  # no addresses come by themselves
        yield made


def test_a_tap_and_macvlan_devices_on_it(host: Host) -> None:
    view = View(host, {"vni": 42, "tap": "vx42"}, {"vni": 43, "tap": "vx43"})
    vnis = {42, 43}
    view.becomes(vnis, {})
    host.ip("link", "set", "vx42", "address", MAC, "up")
    host.ip("address", "add", "10.42.0.1/24", "dev", "vx42")
    view.becomes(vnis, {MAC: {"10.42.0.1"}})
    host.ip(
        "link", "add", "link", "vx42", "name", "on42", "address", ON_TOP, "type", "macvlan", "mode", "bridge"
    )
    host.ip("link", "set", "on42", "up")
    host.ip("address", "add", "10.42.0.3/24", "dev", "on42")
    view.becomes(vnis, {MAC: {"10.42.0.1"}, ON_TOP: {"10.42.0.3"}})
    host.ip("address", "add", "10.42.0.9/24", "dev", "vx42")
    view.becomes(vnis, {MAC: {"10.42.0.1", "10.42.0.9"}, ON_TOP: {"10.42.0.3"}})
    host.ip("link", "delete", "on42")
    host.ip("link", "set", "vx42", "down")
    view.becomes(vnis, {})


def test_who_is_behind_a_bridge(host: Host) -> None:
    view = View(host, {"vni": 42, "tap": "vx42"})
    view.becomes({42}, {})
    host.ip("link", "add", "br42", "address", MAC, "type", "bridge")
    host.ip("link", "add", "in42", "type", "veth", "peer", "name", "out42")
    for device in ("vx42", "in42"):
        host.ip("link", "set", device, "master", "br42")
    for device in ("vx42", "in42", "out42", "br42"):
        host.ip("link", "set", device, "up")
    host.ip("address", "add", "10.42.0.1/24", "dev", "br42")
    view.becomes({42}, {MAC: {"10.42.0.1"}})
    host.run("bridge", "fdb", "add", BEHIND, "dev", "in42", "master", "static")
    host.run("bridge", "fdb", "add", ON_TOP, "dev", "vx42", "master", "static")  # of another host
    host.ip("neighbour", "add", "10.42.0.2", "lladdr", BEHIND, "dev", "br42")
    host.ip("neighbour", "add", "10.42.0.3", "lladdr", ON_TOP, "dev", "br42")
    view.becomes({42}, {MAC: {"10.42.0.1"}, BEHIND: {"10.42.0.2"}})
    host.ip("neighbour", "add", "10.42.0.22", "lladdr", BEHIND, "dev", "in42")  # as the CNI plugin says it
    view.becomes({42}, {MAC: {"10.42.0.1"}, BEHIND: {"10.42.0.2", "10.42.0.22"}})
    host.ip("link", "delete", "in42")
    view.becomes({42}, {MAC: {"10.42.0.1"}})


def test_who_was_learned_behind_one_of_several_ports(host: Host) -> None:
    for number in (1, 2):
        host.ip("link", "add", f"in{number}", "type", "veth", "peer", "name", f"out{number}")
        host.ip("link", "set", f"in{number}", "up")
    host.ip("link", "set", "out1", "address", MAC, "up")
    host.ip("link", "set", "out2", "address", BEHIND, "up")
    ports = [{"kind": "packet", "dev": "in1"}, {"kind": "packet", "dev": "in2"}]
    view = View(host, {"vni": 42, "ports": ports})
    view.becomes({42}, {})
    host.ip("neighbour", "add", "10.42.0.9", "lladdr", BEHIND, "dev", "out1")
    host.ip("address", "add", "10.42.0.1/24", "dev", "out1")
    host.run("ping", "-c", "1", "-W", "0.1", "10.42.0.9", check=False)  # a frame from there; nobody answers
    view.becomes({42}, {MAC: set()})
