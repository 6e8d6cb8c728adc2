"""The rings of an AF_XDP socket, and the code of XDP programs."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from support.offload import TCP, UDP, parts, total
from support.senders import Sender

from vxcore import Rules, Verdict, wire
from vxcore._fast.xdp_underlay import opened
from vxcore._fast.xsk import passed_through
from vxcore.xdp import ALL_PACKETS, assemble, our_packets


@pytest.mark.parametrize("start", [0, 5, 2**32 - 1, 2**32 - 3])
@pytest.mark.parametrize("n", [0, 1, 8, 9, 1000])
def test_a_ring_hands_on_all_in_order_also_where_its_indexes_begin_anew(start: int, n: int) -> None:
    assert passed_through(range(n), 8, start) == list(range(n))


def instructions(code: bytes) -> list[tuple[int, int, int, int]]:
    return list(struct.iter_unpack("=BBhi", code))


@pytest.mark.parametrize("ports", [{4789}, {10800, 10801}])
@pytest.mark.parametrize("addresses", [["192.0.2.1"], ["2001:db8::1"], ["192.0.2.1", "2001:db8::1"]])
def test_jumps_stay_within_the_program_and_go_forward(addresses: list[str], ports: set[int]) -> None:
    code = instructions(assemble(our_packets(tuple(map(ip_address, addresses)), ports), 7))
    for here, (operation, _, offset, _) in enumerate(code):
        if operation & 7 == 5 and operation not in (0x85, 0x95):
            assert 0 <= offset < len(code) - here - 1
    assert code[-1][0] == 0x95


def test_the_map_is_named_by_its_descriptor() -> None:
    code = instructions(assemble(ALL_PACKETS, 7))
    at = next(n for n, (operation, *_) in enumerate(code) if operation == 0x18)
    assert code[at] == (0x18, 0x11, 0, 7)
    assert code[at + 1] == (0, 0, 0, 0)


# Checksums that a sender on this machine left to its device

ENDS = {4: ("192.0.2.2", "192.0.2.1"), 6: ("2001:db8::2", "2001:db8::1")}
INNER = {"tcp": Sender(4, TCP), "udp": Sender(4, UDP), "tcp6": Sender(6, TCP), "udp6": Sender(6, UDP)}


def packet_of(frame: bytes, version: int) -> bytearray:
    local, remote = map(ip_address, ENDS[version])
    macs = (bytes.fromhex("020000000001"), bytes.fromhex("020000000002"))
    spec = wire.TunnelSpec(local=local, remote=remote, vni=42, udp_checksum=True, ethernet=macs)
    return bytearray(wire.encapsulate(frame, spec)[1])


def udp_at(version: int) -> int:
    return 14 + (20 if version == 4 else 40)


def unfinished(frame: bytes) -> bytes:
    """With the sum of the pseudo-header for a checksum."""
    whole = parts(frame)
    assert whole is not None
    at = len(frame) - len(whole.l4) - len(whole.payload) + (16 if whole.proto == TCP else 6)
    return frame[:at] + total(whole.pseudo()).to_bytes(2, "big") + frame[at + 2 :]


def verdict_and_frame(packet: bytearray) -> tuple[Verdict, bytes]:
    verdict, handed_on = opened(packet, Rules())
    return Verdict(verdict), handed_on[8:]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", INNER)
def test_a_right_checksum_is_accepted_and_a_wrong_one_is_not(version: int, kind: str) -> None:
    frame = INNER[kind].send(b"x" * 101)
    packet = packet_of(frame, version)
    assert verdict_and_frame(packet) == (Verdict.DELIVERED, frame)
    packet[-1] ^= 1
    assert verdict_and_frame(packet) == (Verdict.UDP_CHECKSUM, b"")


@pytest.mark.parametrize("version", [4, 6])
def test_an_outer_checksum_that_was_left_to_the_device_is_accepted(version: int) -> None:
    frame = INNER["udp"].send(b"y" * 50)
    packet, at = packet_of(frame, version), udp_at(version)
    addresses = packet[at - (8 if version == 4 else 32) : at]
    packet[at + 6 : at + 8] = total(bytes(addresses) + b"\0\x11" + packet[at + 4 : at + 6]).to_bytes(2, "big")
    assert verdict_and_frame(packet) == (Verdict.DELIVERED, frame)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", INNER)
def test_an_outer_checksum_made_for_the_finished_inner_one_is_accepted(version: int, kind: str) -> None:
    """Linux's local checksum offload; the inner checksum then is finished."""
    frame = INNER[kind].send(b"z" * 333)
    packet = packet_of(frame, version)
    packet[-len(frame) :] = unfinished(frame)
    assert verdict_and_frame(packet) == (Verdict.DELIVERED, frame)
    packet = packet_of(frame, version)
    packet[-len(frame) :] = unfinished(frame)
    packet[-len(frame)] ^= 1  # outside of what the inner one covers
    assert verdict_and_frame(packet)[0] == Verdict.UDP_CHECKSUM
