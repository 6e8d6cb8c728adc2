"""What lanes show of packets, and what is said of them, beside the Linux kernel's vxlan device."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from support.controlled import Controlled
from support.hosts import Host, Lan, wait_until

from vxcore.errors import ConfigError

pytestmark = pytest.mark.usefixtures("root", "nothing_is_left")


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan(2) as made:
        made.hosts[1].kernel_vxlan([made.hosts[0]])
        yield made


def started(one: Host, two: Host, n_lanes: int = 1, **segment: Any) -> Controlled:
    segment = {"vni": 42, "tap": "vx42", "remotes": [two.v4], **segment}
    vtep = Controlled(one, segment=[segment], lanes={"count": n_lanes})
    one.overlay("vx42")
    one.ping("10.42.0.2")
    return vtep


def seen(vtep: Controlled, **wanted: Any) -> dict[str, Any]:
    """Wait for a packet that has these values."""

    def packet() -> Any:
        return next((each for each in vtep("seen") if wanted.items() <= each.items()), None)

    return dict(wait_until(packet, f"a packet with {wanted}"))


@pytest.mark.parametrize("n_lanes", [1, 2])
def test_a_ping_is_seen_both_ways(lan: Lan, n_lanes: int) -> None:
    one, two = lan.hosts
    vtep = started(one, two, n_lanes)
    vtep("watch", vni=42, mac=two.mac("vx42"))
    one.run("ping", "-c", "1", "-W", "5", "-s", "100", "10.42.0.2")
    rows = {}

    def both() -> bool:
        rows.update({row["way"]: row for row in vtep("seen") if "ICMP 10.42" in row["headline"]})
        return len(rows) == 2

    wait_until(both, "request and reply")
    out, back = rows["out"], rows["in"]
    assert out["length"] == 14 + 28 + 100
    assert back["length"] == 8 + out["length"]
    assert (out["device"], out["remote"], back["remote"], back["source"]) == ("vx42", two.v4, two.v4, two.v4)
    assert bytes.fromhex(out["data"])[34:] != bytes.fromhex(back["data"])[42:]
    assert out["steps"] == [
        "a frame of 142 bytes from vx42",
        f"{two.mac('vx42')} is known: at {two.v4}",
        f"encapsulated with VNI 42, and sent to {two.v4}",
    ]
    assert back["steps"][1:] == [
        "VXLAN header: flags 0x08, VNI 42",
        f"{two.v4} is a remote, and may speak in VNI 42",
        "its source address is known to be there, or nothing is learned here",
        "decapsulated, and given to vx42",
    ]
    assert vtep("unwatch") == 0
    one.ping("10.42.0.2")


def send(host: Host, target: str, payload: bytes) -> None:
    code = "import socket, sys; socket.socket(type=2).sendto(bytes.fromhex(sys.argv[1]), (sys.argv[2], 4789))"
    host.run(sys.executable, "-c", code, payload.hex(), target)


MACS = b"\x02" * 6 + b"\x02\0\0\0\0\x01"


@pytest.mark.parametrize(
    ("payload", "verdict", "n_steps", "last"),
    [
        (b"\x08\x00\x00", "TRUNCATED", 2, "dropped: truncated: "),
        (bytes(8) + MACS + bytes(48), "NO_VNI_FLAG", 2, "dropped: no_vni_flag: "),
        (b"\x08\0\0\0\0\0\x2b\0" + MACS + bytes(48), "UNKNOWN_VNI", 3, "dropped: unknown_vni: "),
        (
            b"\x08\0\0\0\0\0\x2a\0" + MACS + b"\x81\0\0\7" + bytes(48),
            "INNER_VLAN",
            4,
            "dropped: inner_vlan: ",
        ),
        (b"\x08\0\0\0\0\0\x2a\0" + MACS + b"\x88\xb5" + bytes(48), "DELIVERED", 5, "decapsulated, and given"),
    ],
)
def test_a_bad_packet_is_shown_with_the_step_that_ended_it(
    lan: Lan, payload: bytes, verdict: str, n_steps: int, last: str
) -> None:
    one, two = lan.hosts
    vtep = started(one, two)
    vtep("watch", ways=["in"])
    send(two, one.v4, payload)
    row = seen(vtep, data=payload.hex())
    assert row["verdict"] == getattr(__import__("vxcore").Verdict, verdict)
    assert len(row["steps"]) == n_steps
    assert row["steps"][-1].startswith(last)


def test_a_source_that_is_refused_and_one_that_is_new(lan: Lan) -> None:
    one, two = lan.hosts
    vtep = started(one, two)
    two.ip("address", "add", "192.0.2.99/24", "dev", "eth")
    vtep("watch", dropped_only=True)
    payload = b"\x08\0\0\0\0\0\x2a\0" + MACS + b"\x88\xb5" + bytes(48)
    two.run(sys.executable, "-c", SEND_FROM, payload.hex(), one.v4, "192.0.2.99")
    row = seen(vtep, source="192.0.2.99")
    assert row["remote"] is None
    assert row["steps"][-1].startswith("dropped: source_refused: ")
    vtep("unwatch")
    vtep("watch", mac="02:00:00:00:00:01")
    send(two, one.v4, payload)
    assert "its source address is new: learned" in seen(vtep, source=two.v4)["steps"]


def test_frames_of_the_overlay_that_go_nowhere(lan: Lan) -> None:
    one, two = lan.hosts
    vtep = started(one, two, unknown_unicast="drop")
    vtep("watch", ways=["out"])
    one.ip("neigh", "replace", "10.42.0.9", "lladdr", "02:00:00:00:00:99", "dev", "vx42")
    one.run("ping", "-c", "1", "-W", "0.1", "10.42.0.9", check=False)
    row = seen(vtep, verdict=38)
    assert row["steps"][1:2] == ["02:00:00:00:00:99 is not known: unknown unicast, for the flood set"]
    assert row["steps"][-1].startswith("dropped: flood_refused: ")
    vtep("unwatch")
    vtep("watch", vni=43)
    one.ping("10.42.0.2")
    assert vtep("seen") == []


def test_a_port_that_is_down_is_told_of(lan: Lan) -> None:
    one, two = lan.hosts
    vtep = started(one, two)
    vtep("watch", ways=["in"])
    one.ip("link", "set", "vx42", "down")
    send(two, one.v4, b"\x08\0\0\0\0\0\x2a\0" + MACS + b"\x88\xb5" + bytes(48))
    row = seen(vtep, verdict=29)
    assert row["steps"][-1].startswith("dropped: overlay_down: ")


def test_bulk_goes_through_beside_a_watch_and_what_is_lost_is_counted(lan: Lan) -> None:
    one, two = lan.hosts
    vtep = started(one, two)
    vtep("watch")
    one.transfer(two, "10.42.0.2", "tcp", 32 << 20)
    two.transfer(one, "10.42.0.1", "tcp", 8 << 20)
    n = len(vtep("seen"))
    assert n > 10
    assert vtep("unwatch") > 0


def test_there_are_four_watches_at_most(lan: Lan) -> None:
    one, two = lan.hosts
    vtep = started(one, two)
    for _ in range(4):
        vtep("watch")
    with pytest.raises(ConfigError, match="4 watches are there; end one first"):
        vtep("watch")
    with pytest.raises(ConfigError, match="way 'up': out and in are known"):
        vtep("watch", ways=["up"])
    one.ping("10.42.0.2")


# What would become of a packet


FRAMES = {
    "known": lambda two: bytes.fromhex(two.mac("vx42").replace(":", "")) + MACS[6:] + b"\x88\xb5" + bytes(46),
    "unknown": lambda two: b"\x02\x09" + bytes(4) + MACS[6:] + b"\x88\xb5" + bytes(46),
    "broadcast": lambda two: b"\xff" * 6 + MACS[6:] + b"\x88\xb5" + bytes(46),
    "tagged": lambda two: b"\xff" * 6 + MACS[6:] + b"\x81\0\0\7\x88\xb5" + bytes(46),
    "too large": lambda two: b"\xff" * 6 + MACS[6:] + b"\x88\xb5" + bytes(1460),
}
SEND_FRAME = (
    "import socket, sys; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('vx42', 0));"
    "s.send(bytes.fromhex(sys.argv[1]))"
)


POLICIES: list[dict[str, Any]] = [{}, {"unknown_unicast": "drop"}, {"remotes": []}]


def test_what_is_foretold_of_a_frame_is_what_happens(lan: Lan) -> None:
    one, two = lan.hosts
    vtep = started(one, two)
    one.ip("link", "set", "vx42", "mtu", "1500")
    for policy in POLICIES:
        vtep("change_segment", 42, mtu=1500, **policy)
        for make in FRAMES.values():
            frame = make(two)
            before = vtep("counters")
            told = vtep("foretell", "out", frame.hex(), 42)
            after = vtep("counters")
            assert after["fdb"] == before["fdb"]
            vtep("watch", ways=["out"])
            one.run(sys.executable, "-c", SEND_FRAME, frame.hex())
            row = seen(vtep, data=frame.hex())
            vtep("unwatch")
            assert told["steps"] == row["steps"]
            assert all(told[name] == row[name] for name in ("verdict", "remote", "device"))


SEND_FROM = (
    "import socket, sys; s = socket.socket(type=2); s.bind((sys.argv[3], 0));"
    "s.sendto(bytes.fromhex(sys.argv[1]), (sys.argv[2], 4789))"
)


def test_what_is_foretold_of_a_packet_is_what_happens(lan: Lan) -> None:
    one, two = lan.hosts
    two.ip("address", "add", "192.0.2.99/24", "dev", "eth")
    vtep = started(one, two)
    inners = [b"\x88\xb5" + bytes(46), b"\x81\0\0\7" + bytes(46), b"", b"\x88\xb5"]
    for address, vni, inner in itertools.product((two.v4, "192.0.2.99"), (42, 43), inners):
        packet = b"\x08\0\0\0" + vni.to_bytes(3, "big") + b"\0" + MACS + inner
        told = [vtep("foretell", "in", packet.hex(), address) for _ in range(2)]
        assert told[0]["steps"][1:] == told[1]["steps"][1:], "it learns nothing"
        vtep("watch", ways=["in"])
        two.run(sys.executable, "-c", SEND_FROM, packet.hex(), one.v4, address)
        row = seen(vtep, data=packet.hex())
        vtep("unwatch")
        ours, theirs = (
            [step for step in each["steps"][1:] if not step.startswith("its source address")]
            for each in (told[0], row)
        )
        assert ours == theirs
        assert told[0]["verdict"] == row["verdict"]


def test_what_cannot_be_foretold_is_refused(lan: Lan) -> None:
    one, two = lan.hosts
    vtep = started(one, two)
    with pytest.raises(ConfigError, match="VNI 43: there is no such segment"):
        vtep("foretell", "out", bytes(60).hex(), 43)
    with pytest.raises(ConfigError, match="a frame of 3 bytes"):
        vtep("foretell", "out", bytes(3).hex(), 42)
    one.ping("10.42.0.2")
