"""The collector: what a traffic mirror sends ends in files or on a device, and nothing is ever sent."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw
from support import hosts
from support.hosts import Host, Lan, VtepProcess, wait_until
from support.peers import require_tool

pytestmark = pytest.mark.usefixtures("root")
MACS = {"dst": "02:00:00:00:00:02", "src": "02:00:00:00:00:01"}
CLONE_NEWNET = 0x40000000  # linux/sched.h
SENDER = """
import socket, sys
to, port = sys.argv[1], int(sys.argv[2])
sock = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM)
for line in sys.stdin:
    sock.sendto(bytes.fromhex(line), (to, port))
"""


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan(2) as lan:
        lan.wire_mode()
        yield lan
    assert not hosts.namespaces_of_this_process()


def collect(lan: Lan, *options: str, local: str = "") -> VtepProcess:
    return VtepProcess(lan.hosts[0], "collect", "--local", local or lan.hosts[0].v4, *options)


def frame(n: int = 0, size: int = 100) -> Ether:
    ends = IP(src="10.0.0.1", dst="10.0.0.2", id=n) / UDP(sport=1000, dport=2000 + n)
    return Ether(**MACS) / ends / Raw(bytes(n % 256 for n in range(size)))


def mirror(host: Host, to: str, frames: list[tuple[int, Ether]], port: int = 4789) -> None:
    """Send frames, each in its VNI, as a mirror's VTEP does."""
    packets = [bytes(VXLAN(vni=vni, flags=0x08) / inner) for vni, inner in frames]
    lines = "".join(packet.hex() + "\n" for packet in packets)
    command = ["ip", "netns", "exec", host.namespace, sys.executable, "-c", SENDER, to, str(port)]
    subprocess.run(command, check=True, input=lines, text=True, timeout=30)


def received(vtep: VtepProcess) -> int:
    return int(vtep.counters()["segments"][0]["rx_packets"])


def files(directory: Path, ending: str = "") -> list[Path]:
    return sorted(directory.glob(f"collect-*.pcapng{ending}"))


def records(paths: list[Path], *fields: str) -> list[list[str]]:
    """What tshark reads of each record."""
    rows = []
    for path in paths:
        words = [word for field in ("frame.comment", *fields) for word in ("-e", field)]
        tshark = (require_tool("tshark"), "-n", "-r", str(path), "-T", "fields", *words)
        done = hosts.run(*tshark)
        assert "damaged" not in done.stderr
        rows += [line.split("\t") for line in done.stdout.splitlines()]
    return rows


def test_records_say_where_frames_came_from_and_hold_them_whole(lan: Lan, tmp_path: Path) -> None:
    vtep = collect(lan, "-w", str(tmp_path))
    assert vtep.ready == [f"ready collect all pcapng {tmp_path}"]
    tagged = Ether(**MACS) / Dot1Q(vlan=7) / IP(src="10.0.0.1", dst="10.0.0.3") / TCP(sport=5, dport=6)
    six = Ether(**MACS) / IPv6(src="fd00::1", dst="fd00::2") / UDP(sport=1, dport=2) / Raw(b"six")
    sent = [(0, frame(1)), (42, tagged), (0xFFFFFF, six), (42, Ether(**MACS, type=0x88B5) / Raw(b"x"))]
    mirror(lan.hosts[1], lan.hosts[0].v4, sent)
    wait_until(lambda: received(vtep) == len(sent), "all came")
    vtep.stop()
    (path,) = files(tmp_path)
    rows = records([path], "frame.len", "frame.protocols", "vlan.id")
    assert [row[0] for row in rows] == [f"vni={vni} vtep={lan.hosts[1].v4}" for vni, _ in sent]
    assert [int(row[1]) for row in rows] == [len(inner) for _, inner in sent]
    assert rows[1][3] == "7"
    vxcore = hosts.run(require_tool("tshark"), "-r", str(path), "-T", "fields", "-e", "frame.time_epoch")
    assert all(re.fullmatch(r"\d+\.\d{9}", line) for line in vxcore.stdout.splitlines())


def test_the_bytes_are_those_that_were_sent(lan: Lan, tmp_path: Path) -> None:
    from scapy.utils import rdpcap

    vtep = collect(lan, "-w", str(tmp_path), "--snaplen", "80")
    sent = [(42 + n % 3, frame(n, size)) for n, size in enumerate([0, 1, 2, 3, 10, 500, 1400])]
    mirror(lan.hosts[1], lan.hosts[0].v4, sent)
    wait_until(lambda: received(vtep) == len(sent), "all came")
    vtep.stop()
    read = rdpcap(str(files(tmp_path)[0]))
    assert [bytes(each) for each in read] == [bytes(inner)[:80] for _, inner in sent]
    assert [each.wirelen for each in read] == [len(inner) for _, inner in sent]


def test_kernel_devices_in_several_vnis_are_heard_and_never_answered(lan: Lan, tmp_path: Path) -> None:
    one, two = lan.hosts
    dump = one.start(require_tool("tcpdump"), "-n", "-Q", "out", "-i", "eth", "--immediate-mode", "-l", "udp")
    assert dump.stderr is not None
    assert any("listening" in line for line in dump.stderr)
    vtep = collect(lan, "-w", str(tmp_path))
    for vni in (10, 20, 30):
        words = ("type", "vxlan", "id", str(vni), "local", two.v4, "remote", one.v4, "dstport", "4789")
        two.ip("link", "add", f"vx{vni}", *words)
        two.ip("address", "add", f"10.{vni}.0.2/24", "dev", f"vx{vni}")
        two.ip("link", "set", f"vx{vni}", "up")
        two.ip("neigh", "add", f"10.{vni}.0.1", "lladdr", "02:00:00:00:00:01", "dev", f"vx{vni}")
        two.run("ping", "-c", "3", "-i", "0.01", "-W", "0.1", f"10.{vni}.0.1", check=False)

    def pings() -> Counter[str]:
        rows = records(files(tmp_path) + files(tmp_path, ".part"), "icmp.type")
        return Counter(comment for comment, kind in rows if kind == "8")

    expected = {f"vni={vni} vtep={two.v4}": 3 for vni in (10, 20, 30)}
    wait_until(lambda: pings() == expected, "the file shows them while it grows")
    vtep.stop()
    assert pings() == expected
    dump.send_signal(signal.SIGINT)
    assert dump.communicate()[0].strip() == ""
    assert not files(tmp_path, ".part")


def test_super_frames_of_a_peer_with_offloads_are_written_as_packets(tmp_path: Path) -> None:
    """The kernel's device hands 64 KiB over a veth; the record is what would be on a wire, sums finished."""
    with Lan(2) as lan:
        one, two = lan.hosts
        vtep = collect(lan, "-w", str(tmp_path))
        words = ("type", "vxlan", "id", "7", "local", two.v4, "remote", one.v4, "dstport", "4789")
        two.ip("link", "add", "vx7", *words)
        two.ip("address", "add", "10.7.0.2/24", "dev", "vx7")
        two.ip("link", "set", "vx7", "up")
        two.ip("neigh", "add", "10.7.0.1", "lladdr", "02:00:00:00:00:01", "dev", "vx7")
        two.run("bash", "-c", "exec 3<>/dev/udp/10.7.0.1/9; for i in 1 2 3; do echo $i >&3; done")
        script = (
            "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
            "s.setsockopt(17, 103, 1000); s.sendto(bytes(10000), ('10.7.0.1', 9))"
        )
        two.run(sys.executable, "-c", script)
        wait_until(lambda: received(vtep) >= 4, "they came")
        vtep.stop()
        rows = records(files(tmp_path), "udp.dstport", "frame.len")
        sizes = [int(size) for _, port, size in rows if port == "9"]
        assert sizes == [14 + 28 + 2] * 3 + [14 + 28 + 1000] * 10
        check = ("-o", "udp.check_checksum:TRUE", "-Y", "udp.checksum.status == 0")
        assert not hosts.run(require_tool("tshark"), "-r", str(files(tmp_path)[0]), *check).stdout


@pytest.mark.parametrize("lanes", ["1", "2"])
def test_files_rotate_by_size_and_the_oldest_of_ours_go(lan: Lan, tmp_path: Path, lanes: str) -> None:
    others = [tmp_path / "collect-notes.txt", tmp_path / "a.pcapng", tmp_path / "collect-1-2.pcapng"]
    for other in others:
        other.write_text("not ours")
    vtep = collect(lan, "-w", str(tmp_path), "--rotate", "64KiB", "--keep", "3", "--lanes", lanes)
    for n in range(4):
        mirror(lan.hosts[1], lan.hosts[0].v4, [(42, frame(i, 1300)) for i in range(100)])
        wait_until(lambda n=n: received(vtep) == 100 * (n + 1), "all came")
    vtep.stop()
    kept = [path for path in files(tmp_path) if path not in others]
    assert len(kept) == 3
    assert all(path.stat().st_size <= 65536 for path in kept)
    assert all(int(hosts.run("capinfos", "-Mcr", str(path)).stdout.split()[-1]) for path in kept)
    assert all(re.fullmatch(r"collect-\d{8}-\d{6}-\d{6}\.pcapng", path.name) for path in kept)
    assert len(records(kept)) < 400
    assert all(other.exists() for other in others)


def test_nothing_is_lost_where_files_change(lan: Lan, tmp_path: Path) -> None:
    vtep = collect(lan, "-w", str(tmp_path), "--rotate", "64KiB", "--rotate-seconds", "1")
    mirror(lan.hosts[1], lan.hosts[0].v4, [(42, frame(i, 1000)) for i in range(200)])
    wait_until(lambda: received(vtep) == 200, "all came")
    wait_until(lambda: not files(tmp_path, ".part"), "the last is complete after a second")
    ports = [row[1] for row in records(files(tmp_path), "udp.dstport")]
    assert ports == [str(2000 + i) for i in range(200)]
    mirror(lan.hosts[1], lan.hosts[0].v4, [(43, frame(1))])
    wait_until(lambda: records(files(tmp_path)[-1:])[-1][0].startswith("vni=43 "), "a new file is begun")
    assert vtep.counters()["drops"] == {}


def test_only_listed_vnis_and_sources_are_taken(lan: Lan, tmp_path: Path) -> None:
    options = (
        "--vni",
        "1-100,4096",
        "--vni",
        "200",
        "--source",
        f"{lan.hosts[1].v4}/32",
        "--source",
        "2001:db8::/32",
    )
    vtep = collect(lan, "-w", str(tmp_path), *options, "--local", lan.hosts[0].v6)
    assert vtep.ready == [f"ready collect 1-100,4096,200 pcapng {tmp_path}"]
    vnis = [0, 1, 100, 101, 200, 201, 4095, 4096, 4097]
    lan.hosts[1].ip("address", "add", "192.0.2.77/24", "dev", "eth")
    mirror(lan.hosts[1], lan.hosts[0].v4, [(vni, frame()) for vni in vnis])
    mirror(lan.hosts[1], lan.hosts[0].v6, [(200, frame())])
    lan.hosts[1].ip("address", "del", f"{lan.hosts[1].v4}/24", "dev", "eth")
    lan.hosts[1].ip("address", "replace", "192.0.2.77/24", "dev", "eth")
    mirror(lan.hosts[1], lan.hosts[0].v4, [(1, frame())])  # a stranger
    counted = {"unknown_vni": 5, "source_refused": 1}
    wait_until(lambda: vtep.counters()["drops"] == counted, "they are counted")
    vtep.stop()
    v4, v6 = lan.hosts[1].v4, lan.hosts[1].v6
    expected = [f"vni={vni} vtep={v4}" for vni in (1, 100, 200, 4096)] + [f"vni=200 vtep={v6}"]
    assert [row[0] for row in records(files(tmp_path))] == expected


def test_a_full_disk_is_counted_and_said_once_and_when_there_is_room_it_goes_on(lan: Lan) -> None:
    host = lan.hosts[0]
    script = "mount -t tmpfs -o size=300k none /mnt && exec "
    command = f"{script}{sys.executable} -m vxcore collect --local {host.v4} -w /mnt"
    process = host.start("unshare", "-m", "bash", "-c", command)
    vtep = VtepProcess.__new__(VtepProcess)
    vtep.process, vtep.ready = process, []
    assert process.stdout is not None
    assert process.stdout.readline().startswith("ready ")
    inside = Path(f"/proc/{process.pid}/root/mnt")
    for n in range(1, 5):
        mirror(lan.hosts[1], host.v4, [(42, frame(i, 1300)) for i in range(100)])
        wait_until(lambda n=n: received(vtep) == 100 * n, "all came")
    wait_until(lambda: vtep.drops("not_written"), "it is counted")
    lost = vtep.drops("not_written")
    (path,) = files(inside)
    assert 400 - lost == len(records([path])) > 100
    assert hosts.run("capinfos", "-M", str(path)).returncode == 0
    path.unlink()

    def written() -> bool:
        mirror(lan.hosts[1], host.v4, [(43, frame())])
        return bool([row for row in records(files(inside, ".part")) if row[0].startswith("vni=43 ")])

    wait_until(written, "it is written again")
    log = vtep.stop()
    assert log.count("nothing can be written: No space left on device") == 1
    assert log.count("written to again") == 1


def test_what_a_dead_process_left_is_taken_up(lan: Lan, tmp_path: Path) -> None:
    first = collect(lan, "-w", str(tmp_path))
    mirror(lan.hosts[1], lan.hosts[0].v4, [(42, frame())])
    wait_until(lambda: any(records(files(tmp_path, ".part"))), "it is written")
    first.process.kill()
    first.process.wait()
    vtep = collect(lan, "-w", str(tmp_path))
    assert len(records(files(tmp_path))) == 1
    vtep.stop()
    assert len(files(tmp_path)) == 1, "the second file had no record"
    assert not files(tmp_path, ".part")


def listen(host: Host, device: str) -> socket.socket:
    """A packet socket in the host's namespace."""
    setns = ctypes.CDLL(None).setns
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{host.namespace}", os.O_RDONLY)
    try:
        assert setns(there, CLONE_NEWNET) == 0
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        sock.bind((device, 0))
    finally:
        assert setns(here, CLONE_NEWNET) == 0
        os.close(here)
        os.close(there)
    sock.settimeout(hosts.DEADLINE_S)
    return sock


def until(sock: socket.socket, is_it: Callable[[bytes], bool]) -> bytes:
    while not is_it(data := sock.recv(65536)):
        pass
    return data


def is_udp(packet: bytes) -> bool:
    return packet[12:14] == b"\x08\x00" and packet[23] == socket.IPPROTO_UDP


@pytest.mark.parametrize("kind", ["tap", "packet"])
def test_frames_reach_a_device_and_nothing_from_it_is_sent(lan: Lan, kind: str) -> None:
    one, two = lan.hosts
    options: tuple[str, ...] = ("--tap", "col")
    if kind == "packet":
        one.ip("link", "add", "col", "type", "veth", "peer", "name", "behind")
        one.ip("link", "set", "behind", "up")
        one.ip("link", "set", "col", "up")
        options = ("--port", "packet=behind")
    vtep = collect(lan, *options, "--vni", "5-9")
    with listen(one, "col") as sock, listen(two, "eth") as wire:
        mirror(two, one.v4, [(7, frame(3)), (9, Ether(**MACS) / Dot1Q(vlan=9) / Raw(bytes(60)))])
        assert until(sock, lambda data: data == bytes(frame(3)))
        before = vtep.drops("receive_only")
        for _ in range(5):
            sock.send(bytes(frame(4)))
        wait_until(lambda: vtep.drops("receive_only") >= before + 5, "they are counted")
        assert vtep.counters()["segments"][0]["tx_packets"] == 0
        mirror(two, one.v4, [(7, frame(5))])
        wire.setblocking(False)
        sent = []
        try:
            while True:
                sent.append(wire.recvfrom(65536))
        except BlockingIOError:
            pass
        assert not [data for data, place in sent if place[2] != 4 and is_udp(data)]
    vtep.stop()


def test_a_file_has_segments_and_a_collector_for_the_rest(lan: Lan, tmp_path: Path) -> None:
    one, two = lan.hosts
    text = f"""\
        [underlay]
        local = "{one.v4}"
        [[segment]]
        vni = 42
        tap = "vx42"
        remotes = ["{two.v4}"]
        [[collect]]
        write = "{tmp_path}/captures"
        rotate = "1GiB"
        """
    (tmp_path / "vx.toml").write_text(text)
    vtep = VtepProcess(one, "run", str(tmp_path / "vx.toml"), n_segments=2)
    one.overlay("vx42")
    two.kernel_vxlan([one])
    two.ping("10.42.0.1")
    mirror(two, one.v4, [(43, frame())])
    segments = wait_until(lambda: vtep.counters()["segments"][1]["rx_packets"] and vtep.counters(), "it came")
    assert [each["vni"] for each in segments["segments"]] == [42, "all"]
    vtep.process.send_signal(signal.SIGHUP)
    assert vtep.process.stdout is not None
    assert vtep.process.stdout.readline() == "reloaded\n"
    (tmp_path / "vx.toml").write_text(text.replace("1GiB", "2GiB"))
    vtep.process.send_signal(signal.SIGHUP)
    assert vtep.process.stdout.readline() == "not reloaded\n"
    vtep.stop()
    assert [row[0] for row in records(files(tmp_path / "captures"))] == [f"vni=43 vtep={two.v4}"]
