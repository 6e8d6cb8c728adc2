"""Counting by key: against a Counter, up to the limit and beyond it."""

from __future__ import annotations

import ipaddress
import sys
from collections import Counter

import numpy as np
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet

from vxcore import PacketBatch, Verdict
from vxcore._fast.tally import Tally, flow_keys, pair_keys


def keys_of(numbers: list[int]) -> np.ndarray:
    return np.array(numbers, "<u8").view(np.uint8).reshape(-1, 8)


def test_a_tally_counts_what_a_counter_does() -> None:
    generator = np.random.default_rng(7)
    tally, packets, n_bytes = Tally(8, 500), Counter[int](), Counter[int]()
    for _ in range(20):
        numbers = generator.zipf(1.3, 300) % 400
        batch = PacketBatch.from_frames([bytes(14 + n % 50) for n in range(300)])
        batch.verdict[::7] = Verdict.NOT_IP
        tally.add(keys_of(numbers.tolist()), batch)
        for n in range(300):
            if n % 7:
                packets[int(numbers[n])] += 1
                n_bytes[int(numbers[n])] += 14 + n % 50
    rows = {int.from_bytes(key, "little"): (n, size) for key, n, size in tally.rows()}
    assert rows == {number: (packets[number], n_bytes[number]) for number in packets}
    assert (tally.count, len(tally)) == (len(packets), len(packets))
    assert tally.other_packets == 0
    for limit in (0, 1, 5, 1000):
        assert tally.rows(limit) == tally.rows()[:limit]
    largest = tally.rows(5)
    assert [size for _, _, size in largest] == sorted(n_bytes.values(), reverse=True)[:5]


def test_what_finds_no_row_is_counted_as_other_and_memory_stays() -> None:
    tally = Tally(8, 10)
    batch = PacketBatch.from_frames([bytes(20)] * 1000)
    tally.add(keys_of(list(range(1000))), batch)
    tally.add(keys_of([3] * 1000), batch)
    assert tally.count == 10
    assert sum(n for _, n, _ in tally.rows()) + tally.other_packets == 2000
    assert tally.other_bytes == 20 * tally.other_packets
    assert max(tally.rows())[0][:2]


@pytest.mark.parametrize(("key_len", "limit"), [(0, 1), (9, 1), (8, 0), (8, 1 << 25)])
def test_sizes_that_cannot_be(key_len: int, limit: int) -> None:
    with pytest.raises(ValueError, match="must be a multiple of 8"):
        Tally(key_len, limit)


def test_keys_of_another_shape_are_refused() -> None:
    batch = PacketBatch.from_frames([bytes(20)] * 3)
    with pytest.raises(ValueError, match=r"\(3, 16\) is needed"):
        Tally(16, 4).add(np.zeros((3, 8), np.uint8), batch)
    with pytest.raises(ValueError, match="at has 2 elements"):
        pair_keys(batch, np.zeros(2, np.uint32))


def packed(address: str) -> bytes:
    ip = ipaddress.ip_address(address)
    return ip.packed if ip.version == 6 else bytes(10) + b"\xff\xff" + ip.packed


V4 = IP(src="10.0.0.1", dst="10.0.0.2")
FRAGMENT = IP(src="10.0.0.1", dst="10.0.0.2", frag=3, proto=17)
V6 = IPv6(src="fd00::1", dst="fd00::2")
MACS = Ether(src="02:00:00:00:00:0a", dst="02:00:00:00:00:0b")


@pytest.mark.parametrize(
    ("frame", "version", "protocol", "ports", "ends"),
    [
        (MACS / V4 / TCP(sport=1000, dport=80), 4, 6, (1000, 80), ("10.0.0.1", "10.0.0.2")),
        (MACS / Dot1Q() / V4 / UDP(sport=7, dport=9), 4, 17, (7, 9), ("10.0.0.1", "10.0.0.2")),
        (MACS / V6 / UDP(sport=7, dport=9), 6, 17, (7, 9), ("fd00::1", "fd00::2")),
        (MACS / V4 / ICMP(), 4, 1, (0, 0), ("10.0.0.1", "10.0.0.2")),
        (
            MACS / IP(src="10.0.0.1", dst="10.0.0.2", frag=3, proto=17),
            4,
            17,
            (0, 0),
            ("10.0.0.1", "10.0.0.2"),
        ),
    ],
)
def test_the_flow_of_ip(
    frame: Packet, version: int, protocol: int, ports: tuple[int, int], ends: tuple[str, str]
) -> None:
    batch = PacketBatch.from_frames([bytes(frame)])
    batch.vni[0] = 0xABCDEF
    expected = (0xABCDEF).to_bytes(4, sys.byteorder) + bytes([version, protocol, 0, 0])
    expected += b"".join(port.to_bytes(2, "big") for port in ports) + bytes(4)
    assert bytes(flow_keys(batch)[0]) == expected + packed(ends[0]) + packed(ends[1])


def test_the_flow_of_what_is_not_ip_and_of_bare_ip() -> None:
    batch = PacketBatch.from_frames(
        [bytes(MACS / ARP(hwsrc=MACS.src, psrc="10.0.0.1")), bytes(V4), bytes(V6), b"short", bytes(V4)[:10]]
    )
    batch.protocol[1:3] = 4, 6
    batch.protocol[4] = 4
    keys = flow_keys(batch)
    assert bytes(keys[0])[4:12] == bytes(4) + b"\x08\x06\0\0"
    assert bytes(keys[0])[16:22].hex(":") == "02:00:00:00:00:0a"
    assert bytes(keys[0])[32:38].hex(":") == "02:00:00:00:00:0b"
    assert bytes(keys[1])[16:] == packed("10.0.0.1") + packed("10.0.0.2")
    assert bytes(keys[2])[16:] == packed("fd00::1") + packed("fd00::2")
    assert not keys[3:].any()


def test_pairs_are_read_within_the_packet_only() -> None:
    batch = PacketBatch.from_frames([bytes(V4 / bytes(40)), bytes(V6), bytes(V6)])
    at = batch.offset.copy()
    at[2] = 0xFFFFFFFF
    keys = pair_keys(batch, at)
    assert bytes(keys[0]) == packed("10.0.0.1") + packed("10.0.0.2")
    assert bytes(keys[1]) == packed("fd00::1") + packed("fd00::2")
    assert not keys[2].any()
