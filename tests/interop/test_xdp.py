"""AF_XDP: what it takes and what it leaves to the host's stack; devices it cannot use, or that change."""

from __future__ import annotations

import errno
import re
import signal
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from support import hosts, scripted
from support.hosts import Host, Lan, VtepProcess, wait_until
from support.peers import require_tool

from vxcore import wire

pytestmark = pytest.mark.usefixtures("root")
VXCORE = (sys.executable, "-m", "vxcore")
XDP = ("--underlay", "xdp")
GENERIC = ("--no-offload", "xdp_native")


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan(2) as lan:
        yield lan
    assert hosts.namespaces_of_this_process() == []


def command(one: Host, two: Host, *options: str, family: int = 4) -> tuple[str, ...]:
    ends = ("--local", one.address(family), "--remote", two.address(family))
    port = () if "--port" in options else ("--tap", "vx42")
    return ("up", "--vni", "42", *ends, *port, *options)


def underlay(one: Host, two: Host, *options: str, family: int = 4) -> VtepProcess:
    """A VTEP on `one` with a TAP, and `two` as its only remote."""
    vtep = VtepProcess(one, *command(one, two, *XDP, *options, family=family))
    one.overlay("vx42")
    return vtep


def overlay(one: Host, two: Host, *options: str, before: tuple[str, ...] = ()) -> VtepProcess:
    """A VTEP on `one` whose hosts are at the other end, `host`, of the veth `access`."""
    peer = ("peer", "name", "host", "mtu", "1450")
    one.ip("link", "add", "access", "mtu", "1450", "type", "veth", *peer)
    one.run("sysctl", "-qw", "net.ipv6.conf.access.disable_ipv6=1")
    one.ip("link", "set", "access", "up")
    one.overlay("host")
    return VtepProcess(one, *command(one, two, "--port", "xdp=access", *options), before=before)


def refused(host: Host, *arguments: str, before: tuple[str, ...] = ()) -> str:
    """What is said when it does not start; it leaves nothing."""
    done = host.run(*before, *VXCORE, *arguments, check=False)
    assert done.returncode in (1, 2), done.stdout
    assert "xdp" not in host.ip("link", "show").stdout.replace("name vxcore", "")
    return done.stderr


def transfers(one: Host, two: Host) -> None:
    for family in ("10.42.0.", "fd42::"):
        one.transfer(two, f"{family}{two.number}", "tcp", 2_000_000)
        two.transfer(one, f"{family}{one.number}", "tcp", 2_000_000)


# What it takes, and what it leaves

ECHO = """
import socket
sock = socket.socket(type=socket.SOCK_DGRAM)
sock.bind(("{address}", {port}))
print("listening", flush=True)
payload, sender = sock.recvfrom(100)
sock.sendto(payload, sender)
"""
ASK = """
import socket
sock = socket.socket(type=socket.SOCK_DGRAM)
sock.settimeout(5)
sock.sendto(b"hello", ("{address}", {port}))
assert sock.recv(100) == b"hello"
"""


def echoes(one: Host, two: Host, address: str, port: int) -> None:
    """A datagram from `two` reaches a process on `one`, and its answer comes back."""
    server = one.start(sys.executable, "-c", ECHO.format(address=address, port=port))
    assert server.stdout is not None
    assert server.stdout.readline() == "listening\n"
    two.run(sys.executable, "-c", ASK.format(address=address, port=port))


@pytest.mark.parametrize("mode", [(), GENERIC], ids=["native", "generic"])
def test_all_other_traffic_goes_on_to_the_stack(lan: Lan, mode: tuple[str, ...]) -> None:
    one, two = lan.hosts
    one.ip("address", "add", "192.0.2.99/24", "dev", "eth")
    two.kernel_vxlan([one])
    vtep = underlay(one, two, *mode)
    one.ping("10.42.0.2")
    two.ping(one.v4)
    two.ping(one.v6)
    two.transfer(one, one.v4, "tcp", 1_000_000)
    echoes(one, two, one.v4, 4790)
    echoes(one, two, "192.0.2.99", 4789)
    one.ping("10.42.0.2")
    assert vtep.counters()["drops"] == {}


def unreachables(host: Host) -> int:
    """ICMP errors of this kind that the host's stack has sent."""
    names, values = re.findall(r"^Icmp: (.*)$", host.run("cat", "/proc/net/snmp").stdout, re.MULTILINE)
    return dict(zip(names.split(), map(int, values.split()), strict=True))["OutDestUnreachs"]


def test_the_stack_answers_nothing_that_comes_to_our_port(lan: Lan) -> None:
    """Fragments go to the stack, which puts them together; the port is kept there."""
    one, two = lan.hosts
    two.kernel_vxlan([one])
    underlay(one, two)
    before = unreachables(one)
    send_udp = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.sendto(bytes(4000), ('{}', 4789))"
    two.run(sys.executable, "-c", send_udp.format(one.v4))
    one.ping("10.42.0.2")
    assert unreachables(one) == before


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("options", [("--udpcsum",), ("--udp6zerocsumtx", "--udp6zerocsumrx")])
def test_checksums_in_both_directions(lan: Lan, family: int, options: tuple[str, ...]) -> None:
    one, two = lan.hosts
    two.kernel_vxlan([one], *(option[2:] for option in options), family=family)
    vtep = underlay(one, two, *options, family=family)
    one.ping("10.42.0.2")
    transfers(one, two)
    assert vtep.counters()["drops"] == {}


SEND_FRAMES = """
import socket, sys
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
sock.bind(("eth", 0))
for frame in sys.argv[1:]:
    sock.send(bytes.fromhex(frame))
"""


def hostile(one: Host, two: Host) -> dict[str, bytes]:
    """Packets to our address and port that are wrong, by the verdict that each must have."""
    macs = tuple(bytes.fromhex(host.mac("eth").replace(":", "")) for host in (one, two))
    spec = wire.TunnelSpec(
        local=ip_address(two.v4), remote=ip_address(one.v4), vni=42, udp_checksum=True, ethernet=macs
    )
    whole = wire.encapsulate(bytes(60), spec)[1]
    udp = 14 + 20
    return {
        "truncated": whole[:udp] + whole[udp : udp + 4] + b"\0\x0c\0\0" + bytes(4),
        "bad_udp_length": whole[: udp + 4] + b"\xff\xff" + whole[udp + 6 :],
        "udp_checksum": whole[:-1] + b"\x01",
        "no_vni_flag": whole[: udp + 6] + b"\0\0\0" + whole[udp + 9 :],
        "unknown_vni": whole[: udp + 6] + b"\0\0" + whole[udp + 8 : udp + 12] + b"\1" + whole[udp + 13 :],
    }


def with_right_lengths(packet: bytes) -> bytes:
    """The IPv4 header's length and checksum as they should be."""
    header = packet[14:16] + len(packet[14:]).to_bytes(2, "big") + packet[18:24] + b"\0\0" + packet[26:34]
    total = sum(int.from_bytes(header[n : n + 2], "big") for n in range(0, 20, 2))
    total = (total & 0xFFFF) + (total >> 16)
    total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return packet[:14] + header[:10] + total.to_bytes(2, "big") + header[12:] + packet[34:]


@pytest.mark.parametrize("mode", [(), GENERIC], ids=["native", "generic"])
def test_hostile_packets_are_dropped_and_counted(lan: Lan, mode: tuple[str, ...]) -> None:
    one, two = lan.hosts
    two.kernel_vxlan([one])
    vtep = underlay(one, two, *mode)
    packets = hostile(one, two)
    packets["truncated"] = with_right_lengths(packets["truncated"])
    before = vtep.counters()["drops"]
    two.run(sys.executable, "-c", SEND_FRAMES, *(packet.hex() for packet in packets.values()))
    two.run(sys.executable, "-c", SEND_FRAMES, *(packets["no_vni_flag"][:n].hex() for n in range(14, 42)))
    expected = {**before, **dict.fromkeys(packets, 1)}
    wait_until(lambda: vtep.counters()["drops"] == expected, f"one of each: {vtep.counters()['drops']}")
    one.ping("10.42.0.2")


def test_what_we_are_too_slow_for_is_counted(lan: Lan) -> None:
    one, two = lan.hosts
    vtep = underlay(one, two)
    two.ping(one.v4)
    vtep.process.send_signal(signal.SIGSTOP)
    flood = (
        "import socket; s = socket.socket(type=socket.SOCK_DGRAM)\n"
        f"for _ in range(10000): s.sendto(bytes(200), ('{one.v4}', 4789))"
    )
    two.run(sys.executable, "-c", flood)
    vtep.process.send_signal(signal.SIGCONT)
    wait_until(lambda: vtep.drops("no_vni_flag") >= 2048, "what the ring held is looked at")
    assert vtep.drops("underlay_overrun") > 0
    assert vtep.drops("underlay_overrun") + vtep.drops("no_vni_flag") <= 10000


def test_an_idle_lane_sleeps(lan: Lan) -> None:
    """Not woken by its ring of packets to send, which always has room."""
    one, two = lan.hosts
    two.kernel_vxlan([one])
    vtep = underlay(one, two)
    one.ping("10.42.0.2")
    one.ip("link", "set", "vx42", "down")
    before = vtep.counters()["lanes"][0]["wakeups"]
    hosts.wait_until(lambda: vtep.counters()["lanes"][0]["wakeups"] > before, "the lane's tick")
    assert vtep.counters()["lanes"][0]["wakeups"] < before + 20


# Devices


def attached(host: Host, device: str) -> bool:
    return "prog/xdp" in host.ip("link", "show", device).stdout


def features(host: Host, device: str) -> str:
    return host.run("ethtool", "-k", device).stdout


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("mode", [(), GENERIC], ids=["native", "generic"])
def test_the_device_is_left_as_it_was(lan: Lan, sent: signal.Signals, mode: tuple[str, ...]) -> None:
    require_tool("ethtool")
    one, two = lan.hosts
    one.ip("link", "add", "access", "type", "veth", "peer", "name", "host")
    one.ip("link", "set", "access", "up")
    devices = ("eth", "access", "host")
    before = [(features(one, device), one.ip("-d", "link", "show", device).stdout) for device in devices]
    vtep = VtepProcess(one, *command(one, two, *XDP, "--port", "xdp=access", *mode))
    assert attached(one, "eth")
    assert attached(one, "access")
    vtep.process.send_signal(sent)
    vtep.process.wait(timeout=hosts.DEADLINE_S)
    wait_until(lambda: not attached(one, "eth") and not attached(one, "access"), "nothing is attached")
    after = [(features(one, device), one.ip("-d", "link", "show", device).stdout) for device in devices]
    assert after == before
    two.ping(one.v4)


def test_what_the_driver_does_not_do_is_shown_among_the_offloads(lan: Lan) -> None:
    one, two = lan.hosts
    vtep = underlay(one, two)
    states = vtep.counters()["offloads"]
    assert states["xdp_native"] == "on"
    assert states["xdp_zero_copy"] == "refused by the driver of eth"
    vtep.stop()
    states = underlay(one, two, *GENERIC, "--no-offload", "xdp_zero_copy").counters()["offloads"]
    assert (states["xdp_native"], states["xdp_zero_copy"]) == ("off", "off")


def test_devices_that_cannot_be_used_are_refused_by_name(lan: Lan) -> None:
    one, two = lan.hosts
    one.ip("tuntap", "add", "tun0", "mode", "tun")
    one.ip("link", "add", "big", "mtu", "9000", "type", "bridge")
    one.ip("link", "set", "big", "up")
    for device, said in {
        "none": "none: there is no such device",
        "tun0": "tun0 is no Ethernet device",
        "big": "big has an MTU of 9000, and AF_XDP takes packets of up to 3822 bytes; `ip link set big mtu",
    }.items():
        assert said in refused(one, *command(one, two, "--port", f"xdp={device}"))
    assert "local 198.51.100.1 is not an address" in refused(
        one, *("up", "--vni", "1", "--local", "198.51.100.1", "--remote", two.v4, "--tap", "t", *XDP)
    )


def test_more_lanes_than_queues_are_refused(lan: Lan) -> None:
    one, two = lan.hosts
    said = refused(one, *command(one, two, *XDP, "--lanes", "2"))
    assert "eth has 1 receive queue for 2 lanes, and AF_XDP needs one for each; `ethtool -L eth rx 2`" in said


def test_a_device_that_somebody_else_has_a_program_on_is_refused(lan: Lan) -> None:
    one, two = lan.hosts
    vtep = underlay(one, two)
    said = one.run(
        *(*VXCORE, *command(one, two, *XDP, "--dstport", "8472"), "--tap", "other"), check=False
    ).stderr
    assert "eth has an XDP program of somebody else; see `ip link show eth`" in said
    two.kernel_vxlan([one])
    one.ping("10.42.0.2")
    vtep.stop()


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("-bpf,-sys_admin", "AF_XDP: making a map of sockets: no permission; root, or CAP_BPF and"),
        ("-net_raw", "no permission for AF_XDP: opening a socket; root or CAP_NET_RAW"),
    ],
)
def test_a_missing_capability_is_named(lan: Lan, missing: str, said: str) -> None:
    require_tool("setpriv")
    one, two = lan.hosts
    assert said in refused(one, *command(one, two, *XDP), before=("setpriv", f"--bounding-set={missing}"))


def test_an_underlay_device_that_is_deleted_ends_the_process(lan: Lan) -> None:
    one, two = lan.hosts
    vtep = underlay(one, two)
    one.ip("link", "delete", "eth")
    _, err = vtep.process.communicate(timeout=hosts.DEADLINE_S)
    assert vtep.process.returncode == 1
    assert "underlay port xdp eth: the device is gone" in err


def test_an_underlay_device_that_goes_down_and_comes_back(lan: Lan) -> None:
    one, two = lan.hosts
    two.kernel_vxlan([one])
    underlay(one, two)
    one.ping("10.42.0.2")
    one.ip("link", "set", "eth", "down")
    assert not one.pings("10.42.0.2")
    one.ip("link", "set", "eth", "up")
    wait_until(lambda: one.pings("10.42.0.2"), "it carries again")


def test_an_overlay_device_that_goes_down_or_is_deleted(lan: Lan) -> None:
    one, two = lan.hosts
    two.kernel_vxlan([one])
    vtep = overlay(one, two)
    one.ping("10.42.0.2")
    one.ip("link", "set", "access", "down")
    two.pings("10.42.0.1")
    assert vtep.drops("overlay_down") > 0
    one.ip("link", "set", "access", "up")
    wait_until(lambda: one.pings("10.42.0.2"), "it carries again")
    one.ip("link", "delete", "access")
    two.pings("10.42.0.1")
    assert "access is gone, and AF_XDP with it: no frames; start vxcore anew" in vtep.stop()


def test_what_is_odd_about_an_overlay_device_is_warned_of(lan: Lan) -> None:
    one, two = lan.hosts
    one.ip("link", "add", "access", "type", "veth", "peer", "name", "host")
    one.ip("address", "add", "198.51.100.1/24", "dev", "access")
    said = VtepProcess(one, *command(one, two, "--port", "xdp=access")).stop()
    assert "access has the address 198.51.100.1, where this host hears nothing now" in said
    assert "access: its MTU is 1500 and the underlay carries 1450" in said
    assert "access is down: no frames until it is up" in said


# While it runs


def test_a_device_goes_from_one_segment_to_another_and_is_given_back(lan: Lan, tmp_path: Path) -> None:
    one, two = lan.hosts
    two.kernel_vxlan([one], vni=43)
    overlay(one, two).stop()  # which leaves the devices
    file = tmp_path / "vxcore.toml"

    def settings(vni: int, port: str) -> None:
        segment = f'[[segment]]\nvni = {vni}\n{port}\nremotes = ["{two.v4}"]\n'
        file.write_text(f'[underlay]\nkind = "xdp"\nlocal = "{one.v4}"\n{segment}')

    settings(42, 'port = { kind = "xdp", dev = "access" }')
    vtep = VtepProcess(one, "run", str(file))
    assert not one.pings("10.42.0.2")
    settings(43, 'port = { kind = "xdp", dev = "access" }')
    vtep.process.send_signal(signal.SIGHUP)
    wait_until(lambda: one.pings("10.42.0.2"), "the device is the other segment's")
    transfers(one, two)
    settings(44, 'tap = "vx44"')
    vtep.process.send_signal(signal.SIGHUP)
    wait_until(lambda: not attached(one, "access"), "the device is given back")
    vtep.stop()


# Calls that fail


@pytest.fixture(scope="module")
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scripted.build(tmp_path_factory.mktemp("syscalls"))


@pytest.mark.parametrize("error", [errno.EAGAIN, errno.ENOBUFS, errno.EBUSY])
def test_a_call_that_did_not_send_all_is_made_again(lan: Lan, preloaded: Path, error: int) -> None:
    one, two = lan.hosts
    two.kernel_vxlan([one])
    before = ("env", f"LD_PRELOAD={preloaded}", f"VX_REFUSE_WAKEUPS={error}", "VX_WAKEUPS=2")
    vtep = overlay(one, two, *XDP, before=before)
    transfers(one, two)
    assert vtep.counters()["drops"] == {}


def test_what_the_kernel_never_sends_is_counted_and_does_not_hold_the_lane(lan: Lan, preloaded: Path) -> None:
    """More than there are chunks, so that all of these come back and are used again."""
    one, two = lan.hosts
    before = ("env", f"LD_PRELOAD={preloaded}", f"VX_REFUSE_WAKEUPS={errno.EAGAIN}")
    vtep = overlay(one, two, *XDP, before=before)
    one.ip("neighbour", "replace", "10.42.0.2", "lladdr", "02:00:00:00:00:02", "dev", "host")
    flood = (
        "import socket; s = socket.socket(type=socket.SOCK_DGRAM)\n"
        "for _ in range(1000): s.sendto(bytes(20), ('10.42.0.2', 9))"
    )

    def enough() -> bool:
        one.run(sys.executable, "-c", flood)
        return vtep.drops("underlay_full") > 2500

    wait_until(enough, "each is counted")

    def nothing_was_sent() -> bool:
        (segment,) = vtep.counters()["segments"]
        return (segment["tx_packets"], segment["tx_bytes"]) == (0, 0)

    wait_until(nothing_was_sent, "what was queued is no longer counted")


# Queues, sizes


def two_queues(lan: Lan, host: Host) -> None:
    """On the device, and to send to them at the other end of its cable."""
    require_tool("ethtool")
    host.run("ethtool", "-L", "eth", "rx", "2", "tx", "2")
    lan.on_switch("ethtool", "-L", f"p{host.number}", "rx", "2", "tx", "2")


@pytest.mark.parametrize("lanes", ["1", "2"])
def test_all_queues_of_a_device_are_received_from(lan: Lan, lanes: str) -> None:
    one, two = lan.hosts
    two_queues(lan, one)
    two.kernel_vxlan([one])
    vtep = underlay(one, two, "--lanes", lanes)
    one.ping("10.42.0.2")
    for _ in range(4):  # flows
        transfers(one, two)
    assert vtep.counters()["drops"] == {}


@pytest.mark.parametrize("lanes", ["1", "2"])
def test_all_queues_of_an_overlay_device_are_received_from(lan: Lan, lanes: str) -> None:
    require_tool("ethtool")
    one, two = lan.hosts
    two.kernel_vxlan([one])
    one.ip("link", "add", "access", "mtu", "1450", "type", "veth", "peer", "name", "host", "mtu", "1450")
    for device in ("access", "host"):
        one.run("ethtool", "-L", device, "rx", "2", "tx", "2")
        one.ip("link", "set", device, "up")
    one.overlay("host")
    vtep = VtepProcess(one, *command(one, two, "--port", "xdp=access", "--lanes", lanes))
    for _ in range(4):
        transfers(one, two)
    assert vtep.counters()["drops"] == {}


def test_super_frames_reach_us_where_the_driver_does_not_run_the_program(lan: Lan) -> None:
    """Then nothing turns them off at the other end of a veth; they come in several chunks."""
    one, two = lan.hosts
    two.kernel_vxlan([one])
    vtep = overlay(one, two, *XDP, *GENERIC)
    transfers(one, two)
    assert vtep.counters()["drops"] == {}


@pytest.mark.parametrize(("mtu", "native"), [(3500, True), (3822, False)])
def test_packets_up_to_the_size_of_a_chunk(mtu: int, native: bool) -> None:
    with Lan(2, mtu=mtu) as lan:
        one, two = lan.hosts
        two.kernel_vxlan([one])
        vtep = underlay(one, two)
        assert (vtep.counters()["offloads"]["xdp_native"] == "on") == native
        for host, other in ((one, two), (two, one)):
            host.ping(f"10.42.0.{other.number}", "-Mdo", f"-s{mtu - 50 - 28}")
        transfers(one, two)
        assert vtep.counters()["drops"] == {}


def test_frames_too_large_for_the_way_are_answered(lan: Lan) -> None:
    one, two = lan.hosts
    two.kernel_vxlan([one])
    vtep = overlay(one, two, *XDP)
    one.ip("route", "add", f"{two.v4}/32", "dev", "eth", "mtu", "1400")

    def answered() -> bool:
        return (
            "mtu = 1350" in one.run("ping", "-c1", "-W1", "-Mdo", "-s1400", "10.42.0.2", check=False).stdout
        )

    wait_until(answered, "the new route is followed")
    assert vtep.drops("too_big") > 0
