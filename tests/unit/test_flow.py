"""The inner flow: its hash, and checksums that a sender left partial, against Scapy."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet

from vxcore._fast.flow import complete_checksum, flow_hash

ETHER = Ether(src="02:00:00:00:00:0a", dst="02:00:00:00:00:0b")
V4 = IP(src="10.0.0.1", dst="10.0.0.2")
V6 = IPv6(src="fd00::1", dst="fd00::2")


def folded_sum(data: bytes) -> int:
    total = sum(int.from_bytes(data[i : i + 2].ljust(2, b"\0"), "big") for i in range(0, len(data), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo_header(packet: Packet, l4: Packet) -> bytes:
    ip = packet[IP] if IP in packet else packet[IPv6]
    raw = bytes(ip)
    addresses = raw[12:20] if IP in packet else raw[8:40]
    proto = 6 if TCP in packet else 17
    return addresses + bytes([0, proto]) + len(bytes(l4)).to_bytes(2, "big")


@pytest.mark.parametrize("network", [V4, V6, V6 / IPv6ExtHdrDestOpt()], ids=["v4", "v6", "v6-options"])
@pytest.mark.parametrize("transport", [TCP, UDP])
@pytest.mark.parametrize("n_bytes", [0, 1, 2, 3, 63, 64, 1400, 1401])
def test_a_partial_checksum_is_finished(network: Packet, transport: type[Packet], n_bytes: int) -> None:
    payload = bytes(range(256)) * 6
    whole = Ether(bytes(ETHER / network / transport(sport=1, dport=2) / payload[:n_bytes]))
    partial = whole.copy()
    partial[transport].chksum = folded_sum(pseudo_header(whole, whole[transport]))
    assert complete_checksum(bytes(partial)) == bytes(whole)
    assert complete_checksum(bytes(whole)) == bytes(whole)


def test_a_wrong_checksum_stays_wrong() -> None:
    frame = bytes(ETHER / V4 / TCP(chksum=0x1234) / b"data")
    assert complete_checksum(frame) == frame


def test_a_flow_keeps_its_hash_and_flows_differ() -> None:
    frames = [bytes(ETHER / V4 / UDP(sport=port, dport=53) / b"x") for port in range(1, 1001)]
    hashes = {flow_hash(frame) for frame in frames}
    assert len(hashes) > 995
    assert flow_hash(bytes(ETHER / V4 / UDP(sport=7, dport=53) / b"other payload")) in hashes


def test_tags_do_not_change_the_flow() -> None:
    inner = V4 / UDP(sport=7, dport=53)
    plain = flow_hash(bytes(ETHER / inner))
    assert flow_hash(bytes(ETHER / Dot1Q(vlan=5) / inner)) == plain
    assert flow_hash(bytes(ETHER / Dot1Q(vlan=5) / Dot1Q(vlan=6) / inner)) == plain


def test_fragments_of_a_packet_share_a_hash() -> None:
    first = V4.copy()
    first.flags = "MF"
    later = V4.copy()
    later.frag = 100
    assert flow_hash(bytes(ETHER / first / UDP())) == flow_hash(bytes(ETHER / later / UDP(sport=9)))


@pytest.mark.parametrize("network", [V4, V6])
def test_every_truncation_has_a_hash(network: Packet) -> None:
    frame = bytes(ETHER / Dot1Q() / network / TCP() / b"x")
    for length in range(14, len(frame)):
        assert 0 <= flow_hash(frame[:length]) <= 0xFFFFFFFF
        assert complete_checksum(frame[:length]) == frame[:length]


def test_no_frame_has_no_hash() -> None:
    with pytest.raises(ValueError, match="13 bytes are no Ethernet frame: at least 14"):
        flow_hash(b"x" * 13)
    assert flow_hash(bytes(ETHER / V4 / ICMP())) > 0


def test_what_is_not_ip_hashes_on_its_addresses_and_ethertype() -> None:
    frame = bytes(ETHER)[:12] + b"\x88\x47" + bytes(50)
    assert flow_hash(frame) == flow_hash(frame[:14] + b"other payload")
    changed = [frame[:at] + bytes([frame[at] ^ 1]) + frame[at + 1 :] for at in range(14)]
    assert len({flow_hash(one) for one in [frame, *changed]}) == 15
    back = frame[6:12] + frame[:6] + frame[12:]
    assert flow_hash(frame, symmetric=True) == flow_hash(back, symmetric=True)
