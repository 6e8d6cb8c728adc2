"""UDP ports and groups are listened to while a segment names them; their filters and addresses."""

from __future__ import annotations

import socket
from collections import Counter
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest

from vxcore import config, endpoints
from vxcore.config import Settings, Underlay
from vxcore.endpoints import Endpoint, Endpoints, share_of
from vxcore.errors import ConfigError, UnsupportedError
from vxcore.nexthops import group_mac
from vxcore.packet import our_packets
from vxcore.ports import UdpUnderlay, attach_filter

A, B, C = (IPv4Address(f"239.1.1.{n}") for n in (1, 2, 3))
LOCAL = IPv4Address("192.0.2.1")
BPF_MAXINSNS = 4096


# Settings


def settings(*segments: dict[str, Any], **underlay: Any) -> Settings:
    rows = [{"vni": n, "tap": f"vx{n}", **each} for n, each in enumerate(segments)]
    return config.from_mapping({"underlay": underlay, "segment": rows})


@pytest.mark.parametrize("group", ["239.1.1.1", "ff05::1:1", ip_address("224.0.0.251")])
def test_a_group_is_a_member_of_the_flood_set(group: Any) -> None:
    local = "192.0.2.1" if ip_address(group).version == 4 else "2001:db8::1"
    remote = "192.0.2.2" if ip_address(group).version == 4 else "2001:db8::2"
    segment = settings({"group": group, "remotes": [remote]}, local=local, dev="eth0").segments[0]
    assert segment.flood == (ip_address(remote), ip_address(group))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "peers"),
        ({"group": "239.1.1.1"}, "any"),
        ({"group": "239.1.1.1", "learning": False}, "peers"),
        ({"group": "239.1.1.1", "source": "peers"}, "peers"),
        ({"source": "any"}, "any"),
    ],
)
def test_a_segment_that_learns_from_a_group_is_open_unless_it_says_otherwise(
    options: dict[str, Any], expected: str
) -> None:
    assert settings(options, local="192.0.2.1", dev="eth0").segments[0].admits == expected


@pytest.mark.parametrize(
    ("group", "underlay", "message"),
    [
        ("10.0.0.1", {"dev": "eth0"}, r'group: "10.0.0.1" is not an IP multicast group; .* such as 239'),
        ("nonsense", {"dev": "eth0"}, 'group: "nonsense" is not an IP address'),
        ("ff05::1%eth0", {"dev": "eth0"}, "has a zone; leave out %eth0 and set dev"),
        ("239.1.1.1", {}, 'group: "239.1.1.1" is a group and no device is named; set dev'),
        ("ff05::1", {"dev": "eth0"}, '"ff05::1" is IPv6 and no local address is'),
        ("239.1.1.1", {"dev": "eth0", "kind": "tap"}, 'cannot be joined by an underlay of kind "tap"'),
    ],
)
def test_what_cannot_be_a_group_is_told(group: str, underlay: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings({"group": group}, local="192.0.2.1", **underlay)


def test_on_the_command_line_a_group_is_ip_links() -> None:
    options = {"vni": 42, "tap": "vx42", "group": "239.1.1.1"}
    assert config.from_arguments({**options, "dev": "eth0"}).segments[0].group == A
    with pytest.raises(ConfigError, match=r"--group 239\.1\.1\.1: is a group and no device is named; set"):
        config.from_arguments(options)


# Joining


class Kernel:
    """What was asked of the kernel; a group in `refused` cannot be joined."""

    def __init__(self) -> None:
        self.members: Counter[Any] = Counter()
        self.refused: set[Any] = set()

    def member(self, _: Underlay, group: Any) -> Socket:
        if group in self.refused:
            raise OSError(19, f"group {group} cannot be joined")
        self.members[group] += 1
        return Socket(self, group)


class Socket:
    def __init__(self, kernel: Kernel | None = None, group: Any = None) -> None:
        self.kernel, self.group, self.closed = kernel, group, False

    def fileno(self) -> int:
        return id(self)

    def getsockopt(self, *_: int) -> bytes:
        return bytes(64)

    def close(self) -> None:
        assert not self.closed
        self.closed = True
        if self.kernel:
            self.kernel.members[self.group] -= 1


class Lane:
    def __init__(self) -> None:
        self.reads: dict[int, int] = {}

    def listen(self, fd: int, dstport: int) -> None:
        self.reads[fd] = dstport

    def ignore(self, fd: int) -> None:
        del self.reads[fd]


class Udp(UdpUnderlay):
    def __init__(self, n_lanes: int = 1, taken: int = 0) -> None:
        self.local, self.gro, self._n_lanes, self.taken = LOCAL, False, n_lanes, taken
        self.open: list[Any] = []

    def _receiver(self, port: int) -> Any:
        if port == self.taken:
            raise OSError(98, f"UDP port {port} is taken")
        self.open.append(Socket())
        return self.open[-1]


def at(*groups: Any) -> set[Endpoint]:
    return {Endpoint(4789, group) for group in groups}


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(endpoints, "member", made.member)
    monkeypatch.setattr(endpoints, "group_receiver", lambda *_: Socket())
    return made


def joined(kernel: Kernel) -> set[Any]:
    assert set(kernel.members.values()) <= {0, 1}
    return {group for group, n in kernel.members.items() if n}


def test_a_group_is_joined_once_and_left_when_nobody_wants_it(kernel: Kernel) -> None:
    made, lanes = Endpoints(Underlay(dev="eth0"), [Udp()], 2), [Lane(), Lane()]
    made.open(at(A))
    made.serve(lanes, lambda: None)
    made.open(at(A, B))
    assert joined(kernel) == {A, B}
    assert [len(lane.reads) for lane in lanes] == [2, 2]
    made.keep(at(B))
    assert joined(kernel) == {B}
    assert [len(lane.reads) for lane in lanes] == [1, 1]
    made.close()
    assert joined(kernel) == set()


def test_one_that_cannot_be_joined_leaves_none_of_its_call(kernel: Kernel) -> None:
    made = Endpoints(Underlay(dev="eth0"), [Udp()], 1)
    made.open(at(A))
    kernel.refused.add(C)
    with pytest.raises(OSError, match=r"239\.1\.1\.3 cannot be joined"):
        made.open(at(A, B, C))
    assert joined(kernel) == {A}


def test_lanes_have_let_go_of_a_socket_before_it_is_closed(kernel: Kernel) -> None:
    made, lane = Endpoints(Underlay(dev="eth0"), [Udp()], 1), Lane()
    made.open(at(A))
    seen = []
    made.serve([lane], lambda: seen.append((set(lane.reads), joined(kernel))))
    made.keep(())
    assert seen == [(set(), {A})]


def test_a_port_is_listened_to_once_by_each_lane_while_somebody_wants_it() -> None:
    udp = Udp(n_lanes=2)
    made, lanes = Endpoints(Underlay(), [udp], 2), [Lane(), Lane()]
    made.open({Endpoint(10800)})
    made.serve(lanes, lambda: None)
    made.open({Endpoint(10800), Endpoint(10801)})
    assert [sorted(lane.reads.values()) for lane in lanes] == [[10800, 10801]] * 2
    made.keep({Endpoint(10801)})
    assert [[*lane.reads.values()] for lane in lanes] == [[10801]] * 2
    assert [sock.closed for sock in udp.open] == [True, True, False, False]
    made.close()
    assert all(sock.closed for sock in udp.open)


def test_a_port_that_is_taken_opens_none_of_its_call() -> None:
    udp = Udp(taken=10802)
    made, lane = Endpoints(Underlay(), [udp], 1), Lane()
    made.serve([lane], lambda: None)
    with pytest.raises(OSError, match="UDP port 10802 is taken"):
        made.open({Endpoint(10800), Endpoint(10801), Endpoint(10802)})
    assert lane.reads == {}
    assert all(sock.closed for sock in udp.open)


def test_an_underlay_that_says_once_what_it_takes_refuses_a_new_port_by_name() -> None:
    made = Endpoints(Underlay(kind="xdp"), [], 1)
    with pytest.raises(UnsupportedError, match='UDP port 10800: an underlay of kind "xdp" takes no new port'):
        made.open({Endpoint(10800)})


# Filters and addresses


@pytest.mark.parametrize("local", [LOCAL, IPv6Address("2001:db8::1")])
def test_filters_fit_the_kernel(local: Any) -> None:
    packed = [bytes(len(local.packed) - 2) + n.to_bytes(2, "big") for n in range(256)]
    assert len(our_packets(local, range(64), packed)) <= BPF_MAXINSNS
    assert len(share_of(local, 63, 64)) <= BPF_MAXINSNS


@pytest.mark.parametrize(
    ("group", "mac"),
    [
        ("239.129.2.3", "01:00:5e:01:02:03"),
        ("224.0.0.251", "01:00:5e:00:00:fb"),
        ("ff02::1:ff00:1234", "33:33:ff:00:12:34"),
    ],
)
def test_the_ethernet_address_of_a_group(group: str, mac: str) -> None:
    assert group_mac(ip_address(group)).hex(":") == mac


def test_each_flow_goes_to_one_lane() -> None:
    """The kernel runs the filters here: a loopback socket for each lane, unicast instead of a group."""
    n_lanes = 3
    local = IPv4Address("127.0.0.2")
    for port in range(3):
        taken = [_takes(share_of(local, lane, n_lanes), "127.0.0.1", port) for lane in range(n_lanes)]
        assert sum(taken) == 1
        assert not _takes(share_of(local, 0, 1), str(local), port)


def _takes(program: Any, source: str, nth: int) -> bool:
    """Whether a socket with this filter gets a datagram from a source port that is `nth` modulo 3."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        attach_filter(receiver, program)
        sender.bind((source, _free_port(source, nth)))
        sender.sendto(b"12345678", receiver.getsockname())
        try:
            return receiver.recv(100, socket.MSG_DONTWAIT) == b"12345678"
        except BlockingIOError:
            return False


def _free_port(source: str, nth: int) -> int:
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((source, 0))
            port = int(probe.getsockname()[1])
        if port % 3 == nth:
            return port
