"""A VTEP beside the Linux kernel's vxlan device: both ways, both families, with offloads and without."""

from __future__ import annotations

import itertools
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import hosts
from support.hosts import Lan, VtepProcess, wait_until
from support.peers import require_tool

pytestmark = pytest.mark.usefixtures("root", "nothing_is_left")


UNDERLAYS = ("udp", "packet")


@pytest.fixture(
    params=itertools.product((4, 6), ("offload", "wire"), UNDERLAYS), ids=lambda p: f"v{p[0]}-{p[1]}-{p[2]}"
)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Lan, VtepProcess, int]]:
    """Host 1 runs vxcore, host 2 the kernel's device."""
    family, mode, underlay = request.param
    with Lan(2) as lan:
        if mode == "wire":
            require_tool("ethtool")
            lan.wire_mode()
        one, two = lan.hosts
        two.kernel_vxlan([one], family=family)
        yield lan, lan.vtep(one, "--underlay", underlay, family=family), family


def test_everything_crosses_both_ways(pair: tuple[Lan, VtepProcess, int]) -> None:
    lan, vtep, family = pair
    one, two = lan.hosts
    overhead = 50 if family == 4 else 70
    assert one.mtu("vx42") == 1500 - overhead == two.mtu("vx42")
    for size in (0, 1, 56, 57, 1000, 1500 - overhead - 28):  # up to the MTU: 20 bytes IPv4, 8 ICMP
        one.ping("10.42.0.2", "-M", "do", "-s", str(size))
        two.ping("10.42.0.1", "-M", "do", "-s", str(size))
    one.ping("fd42::2", "-s", str(1500 - overhead - 48))
    two.ping("fd42::1")
    for target_one, target_two in (("10.42.0.1", "10.42.0.2"), ("fd42::1", "fd42::2")):
        for kind, n_bytes in (("tcp", 20_000_000), ("udp", 400_000)):
            one.transfer(two, target_two, kind, n_bytes)
            two.transfer(one, target_one, kind, n_bytes)
    # Multicast listener reports and the like may go out while the devices come up; nothing else may drop.
    assert set(vtep.counters()["drops"]) <= hosts.STARVED


def test_a_bridged_container_behind_the_tap_reaches_the_kernel_peer() -> None:
    """Its veth leaves checksums partial and hands us 64 KiB super-frames that a veth must not see whole."""
    with Lan(2) as lan:
        one, two = lan.hosts
        two.kernel_vxlan([one])
        vtep = VtepProcess(one, "up", "--vni", "42", "--local", one.v4, "--remote", two.v4, "--tap", "vx42")
        container = hosts.Host(f"{one.namespace}c", 9)
        hosts.run("ip", "netns", "add", container.namespace)
        try:
            one.ip("link", "add", "br0", "mtu", "1450", "type", "bridge")
            one.ip(
                "link",
                "add",
                "c0",
                "mtu",
                "1450",
                "type",
                "veth",
                "peer",
                "eth",
                "netns",
                container.namespace,
            )
            container.ip("link", "set", "eth", "mtu", "1450")
            for device in ("vx42", "c0", "br0"):
                one.ip("link", "set", device, "up", *(("master", "br0") if device != "br0" else ()))
            container.overlay("eth")
            wait_until(lambda: container.pings("10.42.0.2"), "the container reaches the peer")
            for kind, n_bytes in (("tcp", 20_000_000), ("udp", 400_000)):
                container.transfer(two, "10.42.0.2", kind, n_bytes)
                two.transfer(container, "10.42.0.9", kind, n_bytes)
            assert set(vtep.counters()["drops"]) <= hosts.STARVED
        finally:
            for process in container.processes:
                process.communicate()
            hosts.run("ip", "netns", "delete", container.namespace)


@pytest.mark.parametrize("underlay", UNDERLAYS)
def test_a_packet_with_an_unknown_vni_is_dropped_and_counted(underlay: str) -> None:
    with Lan(2) as lan:
        one, two = lan.hosts
        two.kernel_vxlan([one], vni=43)
        vtep = lan.vtep(one, "--underlay", underlay)
        assert not two.pings("10.42.0.1")
        assert wait_until(lambda: vtep.drops("unknown_vni"), "counted as unknown_vni")
        assert vtep.counters()["segments"][0]["rx_packets"] == 0


@pytest.mark.parametrize("underlay", UNDERLAYS)
def test_a_stranger_is_refused_and_counted(underlay: str) -> None:
    with Lan(3) as lan:
        one, two, stranger = lan.hosts
        two.kernel_vxlan([one])
        stranger.kernel_vxlan([one])
        ends = ("--local", one.v4, "--remote", two.v4, "--underlay", underlay)
        vtep = VtepProcess(one, "up", "--vni", "42", *ends, "--tap", "vx42")
        one.overlay("vx42")
        one.ping("10.42.0.2")
        assert not stranger.pings("10.42.0.1")
        assert wait_until(lambda: vtep.drops("source_refused"), "counted as source_refused")


def test_three_hosts_flood_and_learn() -> None:
    with Lan(3) as lan:
        one, two, three = lan.hosts
        three.kernel_vxlan([one, two])
        first, second = lan.vtep(one), lan.vtep(two)
        for host in lan.hosts:
            for other in lan.hosts:
                if other is not host:
                    host.ping(f"10.42.0.{other.number}")
                    host.ping(f"fd42::{other.number}")
        assert first.counters()["fdb"]["entries"] == 2
        before = second.counters()["segments"][0]["rx_packets"]
        one.ping("10.42.0.3", count=50)  # learned: host 2 must not see it
        assert second.counters()["segments"][0]["rx_packets"] - before < 25


def test_a_mac_that_moves_is_learned_anew() -> None:
    with Lan(3) as lan:
        one, two, three = lan.hosts
        two.kernel_vxlan([one, three])
        three.kernel_vxlan([one, two])
        for host in (two, three):
            host.ip("address", "flush", "dev", "vx42")
            host.ip("link", "set", "vx42", "down")
            host.ip("link", "set", "vx42", "address", "02:00:00:00:00:99")
        vtep = lan.vtep(one)
        for moves, host in enumerate((two, three, two)):
            host.overlay("vx42", 9)
            assert host.pings("10.42.0.1")
            one.ping("10.42.0.9")
            assert vtep.counters()["fdb"]["moves"] == moves
            host.ip("address", "flush", "dev", "vx42")
            host.ip("link", "set", "vx42", "down")


def test_a_learned_address_ages() -> None:
    with Lan(2) as lan:
        one, two = lan.hosts
        two.kernel_vxlan([one])
        vtep = lan.vtep(one, "--ageing", "1")
        one.ping("10.42.0.2")
        assert vtep.counters()["fdb"]["entries"] == 1
        two.ip("link", "set", "vx42", "down")
        wait_until(lambda: vtep.counters()["fdb"]["aged"] == 1, "the entry has aged", seconds=90)


def link_local(host: hosts.Host) -> str:
    """The link-local address of the underlay device."""
    shown = host.ip("-6", "-o", "address", "show", "dev", "eth", "scope", "link").stdout
    return str(shown.split()[3].partition("/")[0])


def test_a_link_local_underlay() -> None:
    with Lan(2) as lan:
        one, two = lan.hosts
        for host in lan.hosts:  # done with duplicate address detection
            wait_until(
                lambda host=host: "tentative" not in host.ip("address", "show", "dev", "eth").stdout, "DAD"
            )
        first, second = link_local(one), link_local(two)
        for host, mine, other in ((one, first, second), (two, second, first)):
            ends = ("--local", mine, "--remote", other, "--dev", "eth")
            VtepProcess(host, "up", "--vni", "42", *ends, "--tap", "vx42")
            host.overlay("vx42")
        one.ping("10.42.0.2")


def test_both_families_at_once_without_a_local_address() -> None:
    with Lan(3) as lan:
        one, two, three = lan.hosts
        two.kernel_vxlan([one])
        three.kernel_vxlan([one], family=6)
        vtep = VtepProcess(
            one, "up", "--vni", "42", "--remote", two.v4, "--remote", three.v6, "--tap", "vx42"
        )
        assert "mtu 1430" in vtep.ready[0]  # of the narrower route
        one.overlay("vx42")
        one.ping("10.42.0.2")
        one.ping("10.42.0.3")


FLOOD = """
import socket
with socket.socket(type=socket.SOCK_DGRAM) as sock:
    for _ in range({n}):
        sock.sendto(bytes(1400), ("{address}", 4789))
"""


def test_what_we_are_too_slow_for_is_counted() -> None:
    with Lan(2) as lan:
        one, two = lan.hosts
        vtep = lan.vtep(one)
        vtep.process.send_signal(signal.SIGSTOP)
        two.run(sys.executable, "-c", FLOOD.format(n=20000, address=one.v4))
        two.run("ping", "-c", "1", "-W", "1", one.v4)  # what was sent before it has arrived
        vtep.process.send_signal(signal.SIGCONT)

        def all_are_counted() -> bool:
            drops = vtep.counters()["drops"]
            return bool(drops.get("underlay_overrun", 0) + drops.get("no_vni_flag", 0) == 20000)

        wait_until(all_are_counted, "each datagram is counted once")
        assert vtep.drops("underlay_overrun") > 0


def test_ip_link_options_interoperate() -> None:
    with Lan(2) as lan:
        one, two = lan.hosts
        two.kernel_vxlan([one], "dstport", "8472", "udpcsum", "ttl", "9", "tos", "0x20")
        options = (
            "--dstport",
            "8472",
            "--udpcsum",
            "--ttl",
            "9",
            "--tos",
            "0x20",
            "--srcport",
            "50000",
            "50007",
        )
        lan.vtep(one, *options, "--source-ports", "8", "--dev", "eth")
        one.ping("10.42.0.2")
        two.ping("10.42.0.1")


def capture_of_a_transfer(*options: str) -> str:
    """The name of a capture of 60 packets that we sent, made where the wire comes out of host 2."""
    with Lan(2) as lan:
        one, two = lan.hosts
        lan.wire_mode()  # or the capture would show checksums that the veth leaves to nobody
        two.kernel_vxlan([one])
        lan.vtep(one, *options)
        file = f"/tmp/{one.namespace}.pcap"
        writing = ("-Z", "root", "-w", file, "-c", "60", "--immediate-mode", "-i", "eth")
        sniffer = two.start(require_tool("tcpdump"), *writing, "udp port 4789 and src host 192.0.2.1")
        assert sniffer.stderr is not None
        assert any("listening on" in line for line in sniffer.stderr)
        one.ping("10.42.0.2", count=5)
        one.transfer(two, "10.42.0.2", "tcp", 200_000)
        sniffer.wait(hosts.DEADLINE_S)
        return file


FIELDS = ["ip.ttl", "ip.dsfield", "udp.srcport", "udp.dstport", "vxlan.flags", "vxlan.vni", "udp.checksum"]
CHECKS = [word for name in ("ip", "udp", "tcp") for word in ("-o", f"{name}.check_checksum:TRUE")]
WRONG = (
    "_ws.malformed || _ws.expert.group == 0x01000000 || ip.checksum.status == 0 || udp.checksum.status == 0"
)


@pytest.mark.parametrize("underlay", UNDERLAYS)
@pytest.mark.parametrize("udpcsum", [False, True])
def test_tshark_finds_nothing_wrong_in_what_we_send(udpcsum: bool, underlay: str) -> None:
    tshark = require_tool("tshark")
    # Runs that the kernel cuts have a checksum (UDP_SEGMENT needs it); all else is as asked for.
    options = ["--udpcsum"] if udpcsum else ["--no-offload", "udp_gso"]
    file = capture_of_a_transfer("--ttl", "9", "--tos", "0x20", "--underlay", underlay, *options)
    reading = (tshark, "-n", "-r", file, *CHECKS)
    columns = ("-T", "fields", "-E", "occurrence=f", *(word for field in FIELDS for word in ("-e", field)))
    try:
        rows = hosts.run(*reading, *columns).stdout
        wrong = hosts.run(*reading, "-Y", WRONG).stdout
    finally:
        Path(file).unlink()
    assert wrong == ""
    assert len(rows.splitlines()) == 60
    for row in rows.splitlines():
        seen = dict(zip(FIELDS, row.split("\t"), strict=True))
        assert (seen["ip.ttl"], seen["vxlan.vni"], seen["vxlan.flags"]) == ("9", "42", "0x0800")
        assert int(seen["ip.dsfield"], 16) & 0xFC == 0x20
        assert 49152 <= int(seen["udp.srcport"]) <= 65535
        assert (seen["udp.checksum"] != "0x0000") == udpcsum
