"""The underlay of packet sockets: next hops that come, go and change; what it leaves to the host's stack."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterator

import pytest
from support import hosts
from support.hosts import Host, Lan, VtepProcess, wait_until

pytestmark = pytest.mark.usefixtures("root")
PACKET = ("--underlay", "packet")


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan(3) as lan:
        yield lan
    assert hosts.namespaces_of_this_process() == []


def vtep_towards(one: Host, two: Host, *options: str, family: int = 4) -> VtepProcess:
    """A VTEP on `one` with `two` as its only remote."""
    ends = ("--local", one.address(family), "--remote", two.address(family))
    vtep = VtepProcess(one, "up", "--vni", "42", *ends, "--tap", "vx42", *PACKET, *options)
    one.overlay("vx42")
    return vtep


def next_hop(vtep: VtepProcess, remote: str) -> str:
    return str(vtep.counters()["next_hops"][remote])


@pytest.mark.parametrize("family", [4, 6])
def test_a_neighbour_that_appears_late_is_found(lan: Lan, family: int) -> None:
    one, two, _ = lan.hosts
    two.ip("link", "set", "eth", "down")
    two.kernel_vxlan([one], family=family)
    vtep = vtep_towards(one, two, family=family)
    assert not one.pings("10.42.0.2")
    assert vtep.drops("no_next_hop") > 0
    assert "not resolved" in next_hop(vtep, two.address(family))
    two.ip("link", "set", "eth", "up")
    if family == 6:
        two.ip("address", "add", f"{two.v6}/64", "dev", "eth", "nodad", check=False)
    wait_until(lambda: one.pings("10.42.0.2"), "the neighbour is found")
    assert two.mac("eth") in next_hop(vtep, two.address(family))


@pytest.mark.parametrize("family", [4, 6])
def test_a_link_address_that_changes_is_followed(lan: Lan, family: int) -> None:
    one, two, _ = lan.hosts
    two.kernel_vxlan([one], family=family)
    vtep = vtep_towards(one, two, family=family)
    one.ping("10.42.0.2")
    new = "02:00:00:00:00:77"
    one.ip("neighbour", "replace", two.address(family), "lladdr", new, "dev", "eth")
    wait_until(lambda: new in next_hop(vtep, two.address(family)), "the table's new address is used")
    assert not one.pings("10.42.0.2")
    two.ip("link", "set", "eth", "address", new)
    wait_until(lambda: one.pings("10.42.0.2"), "packets reach the new address")


def test_a_neighbour_is_asked_again_before_it_is_given_up(lan: Lan) -> None:
    one, two, _ = lan.hosts
    two.kernel_vxlan([one])
    vtep = vtep_towards(one, two)
    one.ping("10.42.0.2")
    one.ip("neighbour", "change", two.v4, "dev", "eth", "nud", "stale")

    def reachable() -> bool:
        shown = json.loads(one.ip("-j", "neighbour", "show", "to", two.v4).stdout)
        return shown[0]["state"] == ["REACHABLE"]

    wait_until(reachable, "the kernel was told to probe the stale entry")
    one.ip("neighbour", "delete", two.v4, "dev", "eth")
    one.ping("10.42.0.2")
    wait_until(reachable, "the kernel was told to resolve what it forgot")
    assert vtep.drops("no_next_hop") == 0


def test_a_route_that_changes_is_followed(lan: Lan) -> None:
    one, two, router = lan.hosts
    router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    two.kernel_vxlan([one])
    vtep = vtep_towards(one, two)
    one.ping("10.42.0.2")
    assert two.mac("eth") in next_hop(vtep, two.v4)
    one.ip("route", "add", f"{two.v4}/32", "via", router.v4, "mtu", "1400")
    wait_until(lambda: router.mac("eth") in next_hop(vtep, two.v4), "the way by the router")
    one.ping("10.42.0.2")
    assert "mtu = 1350" in one.run("ping", "-c1", "-Mdo", "-s1400", "10.42.0.2", check=False).stdout
    one.ip("route", "replace", "unreachable", f"{two.v4}/32")
    wait_until(lambda: "no route" in next_hop(vtep, two.v4), "no way")
    assert not one.pings("10.42.0.2")
    assert vtep.drops("no_next_hop") > 0
    one.ip("route", "delete", "unreachable", f"{two.v4}/32")
    wait_until(lambda: one.pings("10.42.0.2"), "the way on the link")


def test_an_interface_that_goes_down_and_comes_back(lan: Lan) -> None:
    one, two, _ = lan.hosts
    two.kernel_vxlan([one])
    vtep = vtep_towards(one, two, "--dev", "eth")
    one.ping("10.42.0.2")
    one.ip("link", "set", "eth", "down")
    wait_until(lambda: "no route" in next_hop(vtep, two.v4), "no way")
    assert not one.pings("10.42.0.2")
    one.ip("link", "set", "eth", "up")
    wait_until(lambda: one.pings("10.42.0.2"), "it carries again")


def test_two_interfaces_at_once() -> None:
    with Lan(3) as lan:
        one, two, three = lan.hosts
        one.ip(*["link", "add", "eth2", "type", "veth", "peer", "eth2", "netns"], three.namespace)
        for host, address in ((one, "198.51.100.1"), (three, "198.51.100.3")):
            host.ip("address", "add", f"{address}/24", "dev", "eth2")
            host.ip("link", "set", "eth2", "up")
        three.ip("route", "add", f"{one.v4}/32", "dev", "eth2", "src", "198.51.100.3")
        two.kernel_vxlan([one])
        vtep = VtepProcess(
            *(one, "up", "--vni", "42", "--local", one.v4, "--tap", "vx42", *PACKET),
            *("--remote", two.v4, "--remote", "198.51.100.3"),
        )
        one.overlay("vx42")
        three.v4 = "198.51.100.3"
        three.kernel_vxlan([one])
        one.ping("10.42.0.2")
        one.ping("10.42.0.3")
        assert "on eth2," in next_hop(vtep, three.v4)
        assert "on eth," in next_hop(vtep, two.v4)


def test_a_remote_behind_a_device_that_is_no_ethernet_is_refused_by_name(lan: Lan) -> None:
    one = lan.hosts[0]
    one.ip("tuntap", "add", "tun0", "mode", "tun")
    one.ip("link", "set", "tun0", "up")
    one.ip("route", "add", "198.51.100.0/24", "dev", "tun0")
    arguments = ("--vni", "42", "--local", one.v4, "--remote", "198.51.100.1", "--tap", "vx42", *PACKET)
    done = one.run(sys.executable, "-m", "vxcore", "up", *arguments, check=False)
    assert done.returncode == 2
    assert "198.51.100.1 is reached by tun0, which is no Ethernet" in done.stderr


def unreachables(host: Host) -> int:
    """ICMP errors of this kind that the host's stack has sent."""
    names, values = re.findall(r"^Icmp: (.*)$", host.run("cat", "/proc/net/snmp").stdout, re.MULTILINE)
    return dict(zip(names.split(), map(int, values.split()), strict=True))["OutDestUnreachs"]


def test_the_stack_answers_no_packet_for_us_and_nobody_else_gets_the_port(lan: Lan) -> None:
    one, two, stranger = lan.hosts
    two.kernel_vxlan([one])
    stranger.kernel_vxlan([one])
    vtep = vtep_towards(one, two)
    before = unreachables(one)
    one.ping("10.42.0.2")
    stranger.pings("10.42.0.1")
    assert vtep.drops("source_refused") > 0
    assert unreachables(one) == before
    taken = one.run(
        *(sys.executable, "-m", "vxcore", "up", "--vni", "1", "--local", one.v4, "--remote", two.v4),
        *("--tap", "other", *PACKET),
        check=False,
    )
    assert taken.returncode == 1
    assert f"taken by python (pid {vtep.process.pid})" in re.sub(r"python\S*", "python", taken.stderr)
    vtep.stop()
    assert ":12B5" not in one.run("cat", "/proc/net/udp").stdout


SEND = """
import socket, sys
with socket.socket(socket.AF_INET6 if ":" in "{address}" else socket.AF_INET, socket.SOCK_DGRAM) as sock:
    for payload in {payloads}:
        sock.sendto(payload, ("{address}", 4789))
"""


@pytest.mark.parametrize("family", [4, 6])
def test_a_datagram_in_fragments_is_dropped_and_counted_once(lan: Lan, family: int) -> None:
    one, two, _ = lan.hosts
    vtep = vtep_towards(one, two, family=family)
    payloads = "[bytes(4000), bytes(4000), bytes(100)]"
    two.run(sys.executable, "-c", SEND.format(address=one.address(family), payloads=payloads))
    wait_until(lambda: vtep.drops("no_vni_flag") == 1, "the whole datagram is looked at")
    assert vtep.drops("fragment") == 2


ORDERED = """
import socket, sys
flows = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(16)]
for n in range({n}):
    for flow in flows:
        flow.sendto(n.to_bytes(4, "big"), ("10.42.0.1", 7777))
"""
IN_ORDER = """
import socket, sys
sock = socket.socket(type=socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)
sock.bind(("10.42.0.1", 7777))
sock.settimeout(5)
print("listening", flush=True)
seen = {{}}
while len(seen) < 16 or min(seen.values()) < {n} - 1:
    payload, sender = sock.recvfrom(100)
    number = int.from_bytes(payload, "big")
    assert number > seen.get(sender, -1), f"{{sender}}: {{number}} after {{seen[sender]}}"
    seen[sender] = number
"""


def test_two_lanes_share_the_flows_and_keep_the_order_in_each(lan: Lan) -> None:
    one, two, _ = lan.hosts
    two.kernel_vxlan([one])
    vtep = vtep_towards(one, two, "--lanes", "2")
    one.ping("10.42.0.2")
    receiver = one.start(sys.executable, "-c", IN_ORDER.format(n=2000))
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "listening\n"
    two.run(sys.executable, "-c", ORDERED.format(n=2000))
    _, err = receiver.communicate(timeout=hosts.DEADLINE_S)
    assert receiver.returncode == 0, err
    assert all(lane["bursts"] > 5 for lane in vtep.counters()["lanes"])  # of up to 64 frames


def test_runs_go_out_one_by_one_where_the_kernel_is_not_to_cut_them(lan: Lan) -> None:
    one, two, _ = lan.hosts
    two.kernel_vxlan([one])
    vtep = vtep_towards(one, two, "--no-offload", "udp_gso", "--no-offload", "udp_gro")
    one.transfer(two, "10.42.0.2", "tcp", 5_000_000)
    two.transfer(one, "10.42.0.1", "tcp", 5_000_000)
    assert vtep.counters()["drops"] == {}


def test_what_we_are_too_slow_for_is_counted(lan: Lan) -> None:
    one, two, _ = lan.hosts
    vtep = vtep_towards(one, two)
    vtep.process.send_signal(signal.SIGSTOP)
    two.run(sys.executable, "-c", SEND.format(address=one.v4, payloads="[bytes(1400)] * 20000"))
    vtep.process.send_signal(signal.SIGCONT)

    def all_are_counted() -> bool:
        drops = vtep.counters()["drops"]
        return bool(drops.get("underlay_overrun", 0) + drops.get("no_vni_flag", 0) == 20000)

    wait_until(all_are_counted, "each datagram is counted once")
    assert vtep.drops("underlay_overrun") > 0
