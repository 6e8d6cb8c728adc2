"""The doctor in namespaces that are ill: each finding appears where its cause is, and goes with it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.hosts import Host, Lan, VtepProcess, wait_until
from support.peers import require_tool

pytestmark = pytest.mark.usefixtures("root")
KEYS = {"check", "state", "what", "todo"}
FILE = """\
[underlay]
local = "192.0.2.1"
{underlay}

[[segment]]
vni = 42
{port}
remotes = ["192.0.2.2"{more}]
{segment}
"""


THIEF = """
import signal, socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("", 4789))
print(flush=True)
signal.pause()
"""


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan(2) as lan:
        yield lan


@pytest.fixture
def patient(lan: Lan) -> Host:
    return lan.hosts[0]


class Doctor:
    """`vxcore doctor` on a host, for a file with what is given."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host, self.file = host, folder / "vx.toml"

    def examine(self, *before: str, **given: str) -> dict[str, list[dict[str, Any]]]:
        """The findings, by check; each as the page says, and the exit code agrees with them."""
        words = {"underlay": "", "port": 'tap = "vx42"', "more": "", "segment": "", **given}
        self.file.write_text(FILE.format(**words))
        run = self.host.run(
            *before, sys.executable, "-m", "vxcore", "doctor", "--json", str(self.file), check=False
        )
        findings = json.loads(run.stdout)
        assert all(set(each) == KEYS and each["what"] for each in findings)
        assert all(bool(each["todo"]) == (each["state"] != "ok") for each in findings)
        assert run.returncode == any(each["state"] == "wrong" for each in findings), run.stdout
        by_check: dict[str, list[dict[str, Any]]] = {}
        for each in findings:
            by_check.setdefault(each["check"], []).append(each)
        return by_check

    def finds(self, check: str, state: str, what: str, *before: str, **given: str) -> None:
        """Require one finding of this check and state, with these words."""
        found = self.examine(*before, **given).get(check, [])
        assert [each for each in found if each["state"] == state and what in each["what"]], found


@pytest.fixture
def doctor(patient: Host, tmp_path: Path) -> Doctor:
    return Doctor(patient, tmp_path)


def test_a_host_that_is_well(doctor: Doctor) -> None:
    found = doctor.examine()
    states = {check: {each["state"] for each in each_of} for check, each_of in found.items()}
    assert states.pop("time") <= {"ok", "warning"}  # of the machine that the test runs on
    assert set(states) == {
        *("kernel", "permissions", "tun", "offloads", "files", "buffers", "clock"),
        *("address", "port", "route", "mtu", "rp_filter", "checksum", "firewall"),
    }
    assert all(state == {"ok"} for state in states.values()), found
    assert "segments may have an MTU of 1450" in found["mtu"][0]["what"]
    assert doctor.host.ip("link", "show", "type", "tun").stdout == ""


def test_text_says_the_same(doctor: Doctor) -> None:
    doctor.examine()
    run = doctor.host.run(sys.executable, "-m", "vxcore", "doctor", str(doctor.file))
    assert "ok       port         UDP port 4789 on 192.0.2.1 is free\n" in run.stdout
    run = doctor.host.run(sys.executable, "-m", "vxcore", "doctor")
    assert "ok       checksum     packets from 127.0.0.1 to itself arrive as they were sent\n" in run.stdout


def test_a_new_namespace_has_no_loopback(doctor: Doctor) -> None:
    doctor.host.ip("link", "set", "lo", "down")
    doctor.finds("checksum", "warning", "lo is down: this host cannot send to itself")
    run = doctor.host.run(sys.executable, "-m", "vxcore", "doctor")
    assert "-> `ip link set lo up`" in run.stdout


def test_an_mtu_that_is_too_large(doctor: Doctor) -> None:
    words = "vx42 has an MTU of 1460, and the route to 192.0.2.2 by eth (MTU 1500) has room for 1450"
    doctor.finds("mtu", "wrong", words, segment="mtu = 1460")
    doctor.host.ip("link", "set", "eth", "mtu", "1400")
    doctor.finds("mtu", "wrong", "by eth (MTU 1400) has room for 1350", segment="mtu = 1450")
    doctor.finds("mtu", "ok", "segments may have an MTU of 1350")
    doctor.host.ip("tuntap", "add", "vx42", "mode", "tap")
    doctor.finds("mtu", "warning", "vx42 has an MTU of 1500")
    doctor.host.ip("link", "add", "veth0", "type", "veth", "peer", "veth1")
    doctor.finds("mtu", "wrong", "veth0 has an MTU of 1500", port='port = { kind = "packet", dev = "veth0" }')


def test_a_port_that_somebody_has(doctor: Doctor, lan: Lan) -> None:
    one, two = lan.hosts
    thief = one.start(sys.executable, "-c", THIEF)
    assert thief.stdout is not None
    thief.stdout.readline()
    doctor.finds("port", "wrong", "UDP port 4789 on 192.0.2.1 is taken by python")
    doctor.finds("port", "ok", "UDP port 4790 on 192.0.2.1 is free", underlay="dstport = 4790")
    thief.kill()
    thief.wait()
    one.kernel_vxlan([two])
    doctor.finds("port", "wrong", "is taken by the kernel (a vxlan device?)")
    one.ip("link", "delete", "vx42")
    vtep = VtepProcess(one, "run", str(doctor.file))
    doctor.finds("port", "ok", ": a VTEP that runs")
    vtep.stop()


def test_a_firewall(doctor: Doctor) -> None:
    nft = require_tool("nft")
    host = doctor.host
    host.run(nft, "add", "table", "inet", "f")
    host.run(nft, "add chain inet f in { type filter hook input priority 0; policy drop; }")
    doctor.finds("firewall", "wrong", "drops UDP to port 4789: the policy of table inet f, chain in (input)")
    host.run(nft, "add rule inet f in ip saddr 192.0.2.0/24 udp dport 4789 accept")
    doctor.finds("firewall", "ok", "as far as its rules can be read")
    doctor.finds("checksum", "wrong", "do not arrive as they were sent")  # for lo is not let in
    host.run(nft, "add rule inet f in iifname lo accept")
    doctor.finds("checksum", "ok", "arrive as they were sent")
    host.run(nft, "insert rule inet f in iifname eth meta mark 7 udp dport 4700-4800 drop")
    doctor.finds("firewall", "warning", "may drop UDP to port 4789: rule")
    doctor.finds("firewall", "ok", "past the rules for input", underlay='kind = "packet"\ndev = "eth"')


def test_packets_to_ourselves_that_are_lost(doctor: Doctor) -> None:
    host = doctor.host
    host.run(require_tool("nft"), "add", "table", "inet", "f")
    host.run("nft", "add chain inet f in { type filter hook input priority 0; }")
    host.run("nft", "add rule inet f in iifname lo meta l4proto udp drop")
    for kind in ("without a UDP checksum", "with a UDP checksum"):
        doctor.finds("checksum", "wrong", kind)


def test_routes_that_are_missing_or_go_in_a_circle(doctor: Doctor) -> None:
    doctor.finds("route", "wrong", "no route to remote 198.51.100.9", more=', "198.51.100.9"')
    many = "".join(f', "198.51.100.{n}"' for n in range(1, 31))
    found = doctor.examine(more=many)["route"]
    assert len(found) == 11
    assert found[-1]["what"] == "and 20 more like it"
    doctor.host.ip("tuntap", "add", "vx42", "mode", "tap")
    doctor.host.ip("link", "set", "vx42", "up")
    doctor.host.ip("route", "add", "192.0.2.2", "dev", "vx42", "src", "192.0.2.1")
    doctor.finds("route", "wrong", "192.0.2.2 leads into vx42, the device of a segment: a circle")


def test_an_address_and_devices_that_are_not_there(doctor: Doctor) -> None:
    doctor.host.ip("address", "del", "192.0.2.1/24", "dev", "eth")
    doctor.finds("address", "wrong", "192.0.2.1 is not an address of this host")
    packet = 'port = { kind = "packet", dev = "veth0" }'
    doctor.finds("device", "wrong", "veth0 of VNI 42: there is no such device", port=packet)
    doctor.host.ip("link", "add", "veth0", "type", "veth", "peer", "veth1")
    doctor.finds("device", "wrong", "veth0 of VNI 42 is down", port=packet)
    for device in ("veth0", "veth1"):
        doctor.host.ip("link", "set", device, "up")
    wait_until(lambda: "state UP" in doctor.host.ip("link", "show", "veth0").stdout, "veth0 is up")
    doctor.finds("device", "ok", "veth0 of VNI 42 is there", port=packet)


def test_a_reverse_path_filter_that_sees_another_way(doctor: Doctor) -> None:
    host = doctor.host
    host.ip("link", "add", "other", "type", "veth", "peer", "behind")
    for device in ("other", "behind"):
        host.ip("link", "set", device, "up")
    host.ip("address", "add", "203.0.113.1/24", "dev", "other")
    host.ip("route", "add", "198.51.100.0/24", "via", "203.0.113.9", "dev", "other")
    more = ', "198.51.100.9"'
    for name, value in (("all", "0"), ("eth", "0")):
        host.run("sysctl", "-qw", f"net.ipv4.conf.{name}.rp_filter={value}")
    doctor.finds("rp_filter", "ok", "not strict", more=more)
    host.run("sysctl", "-qw", "net.ipv4.conf.eth.rp_filter=1")
    doctor.finds(
        "rp_filter", "warning", "198.51.100.9 is reached by other, and 192.0.2.1 is on eth", more=more
    )
    doctor.finds("rp_filter", "ok", "strict on eth, and routes agree with it")


def test_an_underlay_that_this_host_does_not_route(doctor: Doctor) -> None:
    host = doctor.host
    host.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    tap = 'kind = "tap"'
    doctor.finds("forwarding", "wrong", "net.ipv4.ip_forward is 0", underlay=tap)
    doctor.finds("address", "wrong", "192.0.2.1 is an address of eth", underlay=tap)
    host.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    doctor.finds("forwarding", "ok", "net.ipv4.ip_forward is 1", underlay=tap)


def test_what_the_user_may_not(doctor: Doctor) -> None:
    without = (require_tool("setpriv"), "--bounding-set=-all", "--inh-caps=-all")
    packet = 'port = { kind = "packet", dev = "eth" }'
    doctor.finds("permissions", "wrong", "lacks CAP_NET_ADMIN and CAP_NET_RAW", *without, port=packet)
    doctor.finds("files", "wrong", "at most 60 open files", "prlimit", "--nofile=60")


def test_a_file_with_a_mistake_is_refused_as_by_check(doctor: Doctor) -> None:
    doctor.file.write_text("[underlay]\nlocal = 3\n")
    run = doctor.host.run(sys.executable, "-m", "vxcore", "doctor", str(doctor.file), check=False)
    assert (run.returncode, run.stdout) == (2, "")
    assert "underlay.local: 3 is not allowed" in run.stderr
