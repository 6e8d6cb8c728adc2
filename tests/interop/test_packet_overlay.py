"""The packet sockets of a segment: a container's veth as its port; tags, loops, links that go and return."""

from __future__ import annotations

import errno
import json
import re
import signal
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import hosts, offload, scripted, sites
from support.hosts import Host, Lan, VtepProcess, wait_until
from support.peers import require_tool
from support.senders import Sender
from support.sites import Pair, Ports, Sites, send_datagrams, send_stream

from vxcore._fast.gso import finished

pytestmark = pytest.mark.usefixtures("root")
VXCORE = (sys.executable, "-m", "vxcore")
PORT = ("--port", "packet=vc")
WITHOUT_HEADERS = ("--no-offload", "packet_vnet")
MAC = bytes.fromhex("020000000077")
BROADCAST = b"\xff" * 6


class Set(Lan):
    """Host 1, with a container behind its veth `vc`, and host 2 with the kernel's vxlan device."""

    def __enter__(self) -> Set:
        super().__enter__()
        self.one, self.two = self.hosts
        self.container = Host(f"{self.one.namespace}c", 11)
        hosts.run("ip", "netns", "add", self.container.namespace)
        self.wire()
        self.two.kernel_vxlan([self.one])
        return self

    def wire(self, mtu: int = 1450) -> None:
        """The container's veth, for the first time or anew."""
        peer = ("peer", "name", "eth", "mtu", str(mtu), "netns", self.container.namespace)
        self.one.ip("link", "add", "vc", "mtu", str(mtu), "type", "veth", *peer)
        self.one.run("sysctl", "-qw", "net.ipv6.conf.vc.disable_ipv6=1")
        self.one.ip("link", "set", "vc", "up")
        self.container.overlay("eth")

    def start(self, *options: str, before: tuple[str, ...] = ()) -> VtepProcess:
        return VtepProcess(self.one, *self.up(), *options, before=before)

    def up(self, port: tuple[str, ...] = PORT) -> tuple[str, ...]:
        return ("up", "--vni", "42", "--local", self.one.v4, "--remote", self.two.v4, *port)

    def __exit__(self, *why: object) -> None:
        hosts.run("ip", "netns", "delete", self.container.namespace, check=False)
        super().__exit__(None, None, None)


@pytest.fixture
def lan() -> Iterator[Set]:
    with Set(2) as lan:
        yield lan
    assert not [name for name in hosts.namespaces_of_this_process() if name.startswith(lan.switch[:-1])]


def transfers(lan: Set) -> None:
    for family in ("10.42.0", "fd42:"):
        for one, other in ((lan.container, lan.two), (lan.two, lan.container)):
            for kind in ("tcp", "udp"):
                one.transfer(
                    other, f"{family}{':' if family[0] == 'f' else '.'}{other.number}", kind, 2_000_000
                )


@pytest.mark.parametrize("options", [(), WITHOUT_HEADERS, ("--underlay", "packet"), ("--lanes", "2")])
def test_a_container_and_the_peer_reach_each_other(lan: Set, options: tuple[str, ...]) -> None:
    vtep = lan.start(*options)
    wait_until(lambda: lan.container.pings("10.42.0.2"), "the peer is found")
    transfers(lan)
    assert vtep.ready == [f"ready vni 42 packet vc mtu 1450 remotes {lan.two.v4}"]
    assert set(vtep.counters()["drops"]) <= {"no_next_hop"} | hosts.STARVED
    (segment,) = vtep.counters()["segments"]
    assert (segment["port"], segment["dev"]) == ("packet", "vc")


def test_super_frames_stay_whole_with_an_underlay_tap(lan: Set) -> None:
    """From the container to the peer and back nobody cuts: few frames cross, and many bytes."""
    own = "192.0.2.101"
    for switch in ("ip_forward", "neigh.eth.proxy_delay"):
        lan.one.run("sysctl", "-qw", f"net.ipv4.{switch}={int(switch == 'ip_forward')}")
    lan.one.ip("neigh", "add", "proxy", own, "dev", "eth")
    flood = ("00:00:00:00:00:00", "dev", "vx42", "dst", own)
    hosts.run("bridge", "-n", lan.two.namespace, "fdb", "append", *flood)
    ends = ("--local", own, "--remote", lan.two.v4)
    vtep = VtepProcess(lan.one, "up", "--vni", "42", *ends, *PORT, "--underlay", "tap", "--via", "vxu")
    wait_until(lambda: lan.container.pings("10.42.0.2"), "the peer is found")
    for one, other, way in ((lan.container, lan.two, "tx"), (lan.two, lan.container, "rx")):
        before = vtep.counters()["segments"][0]
        one.transfer(other, f"10.42.0.{other.number}", "tcp", 5_000_000)
        after = vtep.counters()["segments"][0]
        n_bytes, n_packets = (
            after[f"{way}_{what}"] - before[f"{way}_{what}"] for what in ("bytes", "packets")
        )
        assert n_bytes > 3000 * n_packets
    transfers(lan)
    assert set(vtep.counters()["drops"]) <= hosts.STARVED | {"not_udp", "not_ip"}


def promiscuity(host: Host) -> int:
    return int(json.loads(host.ip("-d", "-j", "link", "show", "vc").stdout)[0]["promiscuity"])


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_interface_is_left_as_it_was_found(lan: Set, sent: signal.Signals) -> None:
    before = lan.one.ip("-d", "link", "show", "vc").stdout
    vtep = lan.start()
    assert promiscuity(lan.one) == 1
    vtep.process.send_signal(sent)
    vtep.process.communicate()
    assert lan.one.ip("-d", "link", "show", "vc").stdout == before


SEND = """
import socket, sys
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
    sock.setsockopt(263, 15, int(sys.argv[2]))  # SOL_PACKET, PACKET_VNET_HDR
    sock.bind((sys.argv[1], 0))
    for frame in sys.argv[3:]:
        sock.send(bytes.fromhex(frame))
"""


def send(host: Host, device: str, frames: list[bytes], vnet: bool = False) -> None:
    """From a packet socket; with `vnet` each frame has a virtio-net header in front."""
    host.run(sys.executable, "-c", SEND, device, str(int(vnet)), *(frame.hex() for frame in frames))


def received(host: Host) -> int:
    return int(host.run("cat", "/sys/class/net/vc/statistics/rx_packets").stdout)


@pytest.mark.parametrize("options", [(), WITHOUT_HEADERS, ("--lanes", "2")])
def test_what_the_interface_sends_does_not_come_back(lan: Set, options: tuple[str, ...]) -> None:
    """Neither what came from a remote, nor what this host sends there; and it is not counted."""
    lan.container.run("sysctl", "-qw", "net.ipv6.conf.eth.disable_ipv6=1")
    vtep = lan.start(*options)
    before = received(lan.one)
    lan.two.run("ping", "-c", "3", "-i", "0.01", "-W", "1", "10.42.0.99", check=False)
    wait_until(lambda: vtep.counters()["segments"][0]["rx_packets"] >= 3, "the peer's broadcasts come")
    send(lan.one, "vc", [BROADCAST + MAC + b"\x88\xb5" + bytes(46)] * 5)
    send(lan.container, "eth", [BROADCAST + MAC + b"\x88\xb5" + bytes(46)] * 7)
    wait_until(lambda: vtep.counters()["segments"][0]["tx_packets"] >= 7, "the container's frames leave")
    assert vtep.counters()["segments"][0]["tx_packets"] == received(lan.one) - before
    assert vtep.counters()["drops"] == {}


# -- tags ---------------------------------------------------------------------------------------

READ = """
import json, select, sys
from vxcore._fast.packet_overlay import taken
from vxcore.config import Offload
from vxcore.packet_overlay import PacketOverlay

overlay = PacketOverlay("vc", 1450, 1, Offload(packet_vnet=sys.argv[1] == "True"))
port = overlay.port(0, 0)
print("ready", flush=True)
got, n = [], int(sys.argv[2])
while len(got) < n and select.select(overlay.receivers, [], [], 10)[0]:
    got += [(f.hex(), h.hex()) for f, h in taken(port)[0] if f[6:12].hex() == sys.argv[3]]
print(json.dumps(got))
overlay.close()
"""
TAGS = [
    b"\x81\0\0\x07",
    b"\x81\0\xef\xff",
    b"\x88\xa8\0\x09",
    b"\x81\0\0\0",
    b"\x88\xa8\0\x09\x81\0\0\x07",
    b"",
]


class Reader:
    """What a lane is given of what comes from the container."""

    def __init__(self, lan: Set, vnet: bool, n: int, source: bytes) -> None:
        words = (str(vnet), str(n), source.hex())
        self.process = lan.one.start(sys.executable, "-c", READ, *words)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", self.process.communicate()

    def frames(self) -> list[tuple[bytes, bytes]]:
        out, err = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, err
        return [(bytes.fromhex(frame), bytes.fromhex(header)) for frame, header in json.loads(out)]


@pytest.mark.parametrize("vnet", [True, False])
@pytest.mark.parametrize("mtu", [1450, 9000, 20_000])
def test_frames_come_as_they_were_sent_with_the_tags_that_the_kernel_strips(
    lan: Set, vnet: bool, mtu: int
) -> None:
    """Of a size for the ring's slots, or larger."""
    lan.one.ip("link", "delete", "vc")
    lan.wire(mtu)
    body = bytes(n % 251 for n in range(mtu))
    frames = [BROADCAST + MAC + tag + b"\x88\xb5" + body[:n] for tag in TAGS for n in (46, 1300, mtu - 8)]
    reader = Reader(lan, vnet, len(frames), MAC)
    for frame in frames:
        send(lan.container, "eth", [frame])
    assert [frame for frame, _ in reader.frames()] == frames


@pytest.mark.parametrize("proto", [offload.TCP, offload.UDP])
@pytest.mark.parametrize(("n_bytes", "n_pieces"), [(500, 1), (20_000, 20), (61_000, 61)])
@pytest.mark.parametrize("version", [4, 6])
def test_what_is_undone_of_a_tagged_frame_can_be_done(
    lan: Set, version: int, n_bytes: int, n_pieces: int, proto: int
) -> None:
    """Its partial checksum, or that it is a super-frame: behind the tag, everything lies further."""
    whole = offload.partial(Sender(version, proto).send(bytes(n % 251 for n in range(n_bytes))))
    of = offload.parts(whole)
    assert of is not None
    start = len(of.eth) + len(TAGS[0]) + len(of.ip)
    kind = {offload.TCP: offload.TCPV4 if version == 4 else offload.TCPV6, offload.UDP: offload.UDP_L4}[proto]
    undone = (1, kind, start + len(of.l4), 1000) if n_pieces > 1 else (1, 0, 0, 0)
    header = struct.pack("=BBHHHH", *undone, start, 16 if proto == offload.TCP else 6)
    tagged = whole[:12] + TAGS[0] + whole[12:]
    reader = Reader(lan, True, 1, whole[6:12])
    send(lan.container, "eth", [header + tagged], vnet=True)
    ((frame, said),) = reader.frames()
    assert (frame, said) == (tagged, header)
    pieces = finished(bytearray(frame), said)
    assert pieces is not None
    assert {piece[12:16] for piece in pieces} == {TAGS[0]}
    assert [piece[:12] + piece[16:] for piece in pieces] == offload.cut(whole, 1000)
    assert len(pieces) == n_pieces


@pytest.mark.parametrize("options", [(), WITHOUT_HEADERS])
def test_the_policy_for_tags_applies(lan: Set, options: tuple[str, ...]) -> None:
    vtep = lan.start(*options)
    send(lan.container, "eth", [BROADCAST + MAC + tag + b"\x88\xb5" + bytes(46) for tag in TAGS])
    wait_until(lambda: vtep.drops("inner_vlan"), "tagged frames are dropped")
    wait_until(lambda: vtep.drops("inner_vlan") == len(TAGS) - 1, "each of them")


LIES = """
import random, socket, sys
from support.guarded_offload import damaged, frames, header
dice, all_of, n_taken = random.Random(int(sys.argv[1])), frames(), 0
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
    sock.setsockopt(263, 15, 1)  # SOL_PACKET, PACKET_VNET_HDR
    sock.bind(("eth", 0))
    for _ in range(20000):
        frame = damaged(dice.choice(all_of), dice)
        try:
            n_taken += sock.send(header(frame, dice) + b"\\xff" * 6 + frame[6:]) > 0
        except OSError:
            pass  # the kernel, too, takes not everything
print(n_taken)
"""


@pytest.mark.parametrize("options", [(), WITHOUT_HEADERS, ("--underlay", "packet")])
def test_a_container_that_lies_about_its_frames_harms_nobody(lan: Set, options: tuple[str, ...]) -> None:
    vtep = lan.start(*options)
    wait_until(lambda: lan.container.pings("10.42.0.2"), "the peer is found")
    line = ("env", f"PYTHONPATH={Path(__file__).parents[1]}", sys.executable, "-c", LIES)
    for seed in range(2):
        assert int(lan.container.run(*line, str(seed)).stdout) > 1000
    assert vtep.counters()["segments"][0]["tx_packets"] > 1000
    for one, other in ((lan.container, lan.two), (lan.two, lan.container)):
        one.transfer(other, f"10.42.0.{other.number}", "tcp", 2_000_000)
    vtep.stop()


# -- what the kernel does not do -----------------------------------------------------------------


@pytest.fixture(scope="module")
def pair() -> Iterator[Sites]:
    require_tool("ethtool")
    with sites.build(Pair(Ports("packet-udp", overlay="packet"), "kernel", "offload", 4)) as built:
        yield built


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scripted.build(tmp_path_factory.mktemp("syscalls"))


RUNS = [*[1000] * 45, 300, *[10] * 49, *[1372] * 30, 7, 1, 2]


def everything_crosses(pair: Sites) -> None:
    containers = [site.agents[1] for site in pair.both]
    for family, (one, other) in ((4, containers), (6, containers[::-1])):
        send_stream(one, other, family, 500_000, 1 << 17)
        send_datagrams(one, other, family, RUNS, uso=True, gro=True)
        send_stream(other, one, family, 20_000, 99)
        send_datagrams(other, one, family, RUNS, uso=True, gro=False)
    assert not any(pair.drops())


@pytest.mark.parametrize("error", [errno.EIO, errno.EINVAL, errno.EMSGSIZE])
def test_super_frames_that_the_kernel_refuses_are_cut(pair: Sites, library: Path, error: int) -> None:
    refuse = ("env", f"LD_PRELOAD={library}", f"VX_REFUSE_SUPERFRAMES={error}")
    vtep = pair.replace_vtep(before=refuse)
    everything_crosses(pair)
    assert "refused by the kernel" in vtep.counters()["offloads"]["packet_vnet"]
    assert vtep.stop().count("offload packet_vnet: refused by the kernel") == 1
    pair.replace_vtep()


@pytest.mark.parametrize("more", [(), ("--no-offload", "udp_gso"), ("--no-offload", "join")])
def test_without_headers_everything_crosses(pair: Sites, more: tuple[str, ...]) -> None:
    vtep = pair.replace_vtep(*WITHOUT_HEADERS, *more)
    everything_crosses(pair)
    assert vtep.counters()["offloads"]["packet_vnet"] == "off"


# -- an interface that changes ------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--lanes", "2")])
def test_an_interface_that_goes_down_and_comes_back(lan: Set, options: tuple[str, ...]) -> None:
    vtep = lan.start(*options)
    lan.container.ping("10.42.0.2")
    lan.one.ip("link", "set", "vc", "down")
    assert not lan.two.pings("10.42.0.11")
    wait_until(lambda: lan.two.pings("10.42.0.11") or vtep.drops("overlay_down"), "it is counted")
    assert vtep.drops("overlay_down") > 0
    lan.one.ip("link", "set", "vc", "up")
    wait_until(lambda: lan.container.pings("10.42.0.2"), "frames flow again")
    transfers(lan)
    log = vtep.stop()
    assert (log.count("vc is down"), log.count("vc is up again")) == (1, 1)


def test_an_interface_that_is_deleted_and_made_anew(lan: Set) -> None:
    vtep = lan.start()
    lan.container.ping("10.42.0.2")
    lan.one.ip("link", "delete", "vc")
    assert not lan.two.pings("10.42.0.11")
    wait_until(lambda: vtep.drops("overlay_down") or lan.two.pings("10.42.0.11"), "it is counted")
    lan.wire()
    wait_until(lambda: lan.container.pings("10.42.0.2"), "frames flow again")
    assert promiscuity(lan.one) == 1
    transfers(lan)
    log = vtep.stop()
    assert (log.count("vc is gone"), log.count("vc is back")) == (1, 1)


def test_lanes_that_share_an_interface_say_when_it_is_lost_to_them(lan: Set) -> None:
    """The kernel binds no socket anew that shares flows with others."""
    vtep = lan.start("--lanes", "2")
    lan.one.ip("link", "delete", "vc")
    lan.wire()
    assert vtep.process.stderr is not None
    wait_until(lambda: "start vxcore anew" in str(vtep.process.stderr.readline()), "it says so")
    assert vtep.counters()["drops"] is not None


def test_the_sender_of_what_is_too_large_is_told(lan: Set) -> None:
    lan.one.ip("link", "delete", "vc")
    lan.wire(mtu=1500)
    vtep = lan.start()
    for target, answer, size in (("10.42.0.2", "mtu = 1450", 1472), ("fd42::2", "mtu=1450", 1452)):
        ping = ("ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", str(size), target)
        assert answer in lan.container.run(*ping, check=False).stdout
    assert vtep.drops("too_big") == 2
    for target in ("10.42.0.2", "fd42::2"):
        lan.container.transfer(lan.two, target, "tcp", 3_000_000)
    assert lan.one.mtu("vc") == 1500
    log = vtep.stop()
    assert "vc: its MTU is 1500 and the underlay carries 1450" in log
    assert "`ip link set vc mtu 1450`" in log


FLOOD = """
import socket
with socket.socket(type=socket.SOCK_DGRAM) as sock:
    for _ in range({n}):
        sock.sendto(bytes(1000), ("10.42.0.2", 9))
"""


def test_what_we_are_too_slow_for_is_counted(lan: Set) -> None:
    lan.container.run("sysctl", "-qw", "net.ipv6.conf.eth.disable_ipv6=1")
    lan.container.ip("neigh", "add", "10.42.0.2", "lladdr", lan.two.mac("vx42"), "dev", "eth")
    vtep = lan.start()
    vtep.process.send_signal(signal.SIGSTOP)
    lan.container.run(sys.executable, "-c", FLOOD.format(n=20000))
    vtep.process.send_signal(signal.SIGCONT)

    def all_are_counted() -> bool:
        counted = vtep.counters()
        sent, drops = counted["segments"][0]["tx_packets"], counted["drops"]
        return bool(drops.get("overlay_overrun", 0) + sent >= 20000)

    wait_until(all_are_counted, "each datagram is counted")
    assert vtep.drops("overlay_overrun") > 0


# -- mistakes -----------------------------------------------------------------------------------


def refused(host: Host, code: int, *arguments: str) -> str:
    done = host.run(*VXCORE, *arguments, check=False)
    lines = [line for line in done.stderr.splitlines() if "warning: " not in line]
    assert (done.returncode, done.stdout, len(lines)) == (code, "", 1), done.stderr
    return re.sub(r"^vxcore: error: ", "", lines[0])


def test_devices_that_cannot_be_a_port_are_named(lan: Set) -> None:
    for dev, why in [
        ("nosuch", 'nosuch: there is no such device; a port of kind "packet" needs one that exists'),
        ("lo", 'lo is no Ethernet device; a port of kind "packet" is a veth, a bridge port, a NIC'),
        (
            "eth",
            f"eth has the local address {lan.one.v4}: it leads to the underlay;"
            " give the device that leads to the segment's hosts",
        ),
    ]:
        assert refused(lan.one, 2, *lan.up(("--port", f"packet={dev}"))) == why
    six = ("up", "--vni", "42", "--local", lan.one.v6, "--remote", lan.two.v6, "--port", "packet=eth")
    assert f"eth has the local address {lan.one.v6}" in refused(lan.one, 2, *six)


def test_without_privilege(lan: Set) -> None:
    drop = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "--no-new-privs")
    done = lan.one.run(*drop, *VXCORE, *lan.up(), check=False)
    assert done.returncode == 1
    assert "no permission to open a packet socket; root or CAP_NET_RAW is needed" in done.stderr
    assert promiscuity(lan.one) == 0


def test_a_segment_of_a_file(lan: Set, tmp_path: Path) -> None:
    file = tmp_path / "vx.toml"
    file.write_text(
        f'[underlay]\nlocal = "{lan.one.v4}"\n[[segment]]\nvni = 42\nremotes = ["{lan.two.v4}"]\n'
        'port = { kind = "packet", dev = "vc" }\n[[segment]]\nvni = 43\ntap = "vx43"\nmtu = 1400\n'
    )
    vtep = VtepProcess(lan.one, "run", str(file), n_segments=2)
    lan.container.ping("10.42.0.2")
    assert [line.split()[3:5] for line in vtep.ready] == [["packet", "vc"], ["tap", "vx43"]]
