"""A plan's frames: the same from the same settings, right on the wire, of the sizes and in the order said."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.utils import PcapWriter

from vxcore import PacketBatch, Tunnel, decap, wire
from vxcore.errors import CaptureError, ConfigError
from vxcore.gen import Generator, Plan, Rate, stamp_of
from vxcore.gen.plan import IMIX, parse_sizes, parse_vnis, parse_vteps

MACS = ("02:00:00:00:00:02", "02:00:00:00:00:01")


def tunnels(n: int, family: int = 4) -> list[Tunnel]:
    prefix, remote = ("192.0.2.", "192.0.2.99") if family == 4 else ("2001:db8::", "2001:db8::99")
    return [Tunnel(local=f"{prefix}{i + 1}", remote=remote, vni=0, ethernet=MACS) for i in range(n)]


def frames(plan: Plan, count: int) -> list[bytes]:
    batch = PacketBatch(count, frame_size=9216)
    assert plan.generator().fill(batch, time_ns=5) == count
    return batch.to_frames()


def stamp(frame: bytes) -> dict[str, int]:
    found = stamp_of(frame[42:])
    assert found is not None
    return found


def test_the_same_settings_give_the_same_frames() -> None:
    options = {"vnis": "42,7", "macs": 3, "flows": 2, "size": "imix", "run": 1}
    first = frames(Plan(**options, seed=9), 100)  # type: ignore[arg-type]
    assert first == frames(Plan(**options, seed=9), 100)  # type: ignore[arg-type]
    assert first != frames(Plan(**options, seed=8), 100)  # type: ignore[arg-type]


def test_a_frame_is_whole_in_the_eyes_of_others() -> None:
    for size in (64, 65, 333, 1514, 9216):
        (frame,) = frames(Plan(size=size), 1)
        packet = Ether(frame)
        checks = packet[IP].chksum, packet[UDP].chksum
        del packet[IP].chksum, packet[UDP].chksum
        again = Ether(bytes(packet))
        assert (again[IP].chksum, again[UDP].chksum) == checks
        assert (packet[IP].len, packet[UDP].len, len(frame)) == (size - 14, size - 34, size)
        assert (packet[UDP].sport, packet[UDP].dport) == (1024, 9)


def test_a_checksum_of_zero_goes_out_as_ffff() -> None:
    """RFC 768: a zero says that there is none. One frame in 65,536 has it."""
    batch, generator = PacketBatch(65536), Plan(run=0).generator()
    generator.fill(batch, time_ns=0)
    udp = batch.data[batch.offset[:, None] + np.arange(40, 42)]
    checks = udp[:, 0].astype(int) << 8 | udp[:, 1]
    assert (checks != 0).all()
    assert (checks == 0xFFFF).any()


def test_streams_take_turns_and_a_round_is_a_number() -> None:
    plan = Plan(vnis="42,43", macs=2, flows=3, run=77)
    said = [stamp(frame) for frame in frames(plan, 36)]
    assert [one["stream"] for one in said] == [*range(12)] * 3
    assert [one["sequence"] for one in said] == [0] * 12 + [1] * 12 + [2] * 12
    assert {(one["run"], one["time"]) for one in said} == {(77, 5)}


def test_a_stream_has_addresses_of_its_own_and_a_flow_a_port() -> None:
    plan = Plan(vnis="42,43", macs=5, flows=3)
    packets = [Ether(frame) for frame in frames(plan, 30)]
    by_host = Counter((packet.src, packet[IP].src) for packet in packets[:15])
    assert len(by_host) == 5
    assert set(by_host.values()) == {3}
    assert [packet.src for packet in packets[:15:3]] == [mac.hex(":") for mac in plan.hosts(42)]
    assert {packet.dst for packet in packets[:15]} == {plan.sink_of(42).hex(":")}
    assert {packet[UDP].sport for packet in packets} == {1024, 1025, 1026}
    assert all(int(packet.src[:2], 16) & 3 == 2 for packet in packets), "local, and of one host"


def test_the_other_side_knows_the_hosts() -> None:
    there, back = (
        Plan(vnis="7,42", macs=9, seed=3),
        Plan(vnis="42", macs=9, seed=3, reverse=True),
    )
    sent = {frame[6:12] + frame[:6] for frame in frames(there, 18)[9:]}
    assert {frame[:12] for frame in frames(back, 9)} == sent
    assert {frame[6:12] for frame in frames(Plan(to_mac="02:00:00:00:00:aa", reverse=True), 1)} == {
        b"\2\0\0\0\0\xaa"
    }


def test_no_two_hosts_of_a_vni_have_one_address() -> None:
    for seed, vni in itertools.product((0, 1, 2**64), (0, 0xFFFFFF)):
        plan = Plan(vnis=vni, macs=10_000, seed=seed)
        assert len({*plan.hosts(vni), plan.sink_of(vni)}) == 10_001


def test_a_host_is_behind_one_vtep_in_each_vni() -> None:
    plan = Plan(vnis="42,255", macs=6)
    generator = plan.generator(tunnels(4))
    batch = PacketBatch(24)
    generator.fill(batch, encap=True)
    packets = batch.to_frames()
    assert decap(batch) == 24
    assert batch.to_frames() == [wire.decapsulate(packet).frame for packet in packets]
    behind: dict[tuple[int, bytes], set[int]] = {}
    for frame, vni, source in zip(batch.to_frames(), batch.vni, batch.source, strict=True):
        behind.setdefault((int(vni), frame[6:12]), set()).add(bytes(source)[-1])
    assert len(behind) == 12
    assert all(len(vteps) == 1 for vteps in behind.values())
    expected = [n % 4 + 1 for n in range(6)]
    assert [behind[42, mac] for mac in plan.hosts(42)] == [{n} for n in expected]
    assert [behind[255, mac] for mac in plan.hosts(255)] == [{n} for n in expected]


@pytest.mark.parametrize("family", [4, 6])
def test_packets_are_what_the_reference_would_send(family: int) -> None:
    plan, ends = Plan(vnis="42,100", macs=4, size="imix"), tunnels(4, family)
    batch = PacketBatch(100)
    plan.generator(ends).fill(batch, encap=True)
    for packet, vni in zip(batch.to_frames(), batch.vni, strict=True):
        got = wire.decapsulate(packet)
        spec = ends[got.source.packed[-1] - 1].spec  # type: ignore[union-attr]
        ip_id = int.from_bytes(packet[18:20]) if family == 4 else 0
        named = wire.TunnelSpec(local=spec.local, remote=spec.remote, vni=int(vni), ethernet=MACS)
        assert wire.encapsulate(got.frame, named, ip_id=ip_id) == (0, packet)


def test_frames_without_encap_know_their_vni() -> None:
    batch = PacketBatch(8)
    Plan(vnis="42,43").generator(tunnels(1)).fill(batch)
    assert batch.vni.tolist() == [42, 43] * 4


def test_the_mix_is_seven_four_one_in_every_stream() -> None:
    assert Counter(IMIX) == {64: 7, 590: 4, 1514: 1}
    for macs in (1, 4, 12):  # 12: as many as sizes
        batch, generator = PacketBatch(12 * macs), Plan(size="imix", macs=macs).generator()
        generator.fill(batch)
        by_stream: dict[int, list[int]] = {}
        for frame in batch.to_frames():
            by_stream.setdefault(stamp(frame)["stream"], []).append(len(frame))
        assert all(len(set(lengths)) > 1 for lengths in by_stream.values())
        assert Counter(batch.length.tolist()).keys() == {64, 590, 1514}
    assert set(parse_sizes("imix", 1464).tolist()) == {64, 590, 1464}


def test_sizes_from_a_capture_are_those_on_the_wire(tmp_path: Path) -> None:
    file = tmp_path / "some.pcap"
    with PcapWriter(str(file)) as writer:
        for length in (60, 100, 1514):
            writer.write(Ether(bytes(length)))
    assert parse_sizes(str(file)).tolist() == [64, 100, 1514]
    assert parse_sizes(str(file), 1000).tolist() == [64, 100, 1000]
    file.write_bytes(b"no capture")
    with pytest.raises(CaptureError):
        parse_sizes(str(file))


@pytest.mark.parametrize(
    ("text", "value", "bits"),
    [
        *(("10000", 1e4, False), ("10k", 1e4, False), ("1.5M", 1.5e6, False), ("max", 0.0, False)),
        *(("100Mbit", 1e8, True), ("1Gbit", 1e9, True), ("64kbit", 64e3, True)),
    ],
)
def test_a_rate_is_of_packets_or_of_bits(text: str, value: float, bits: bool) -> None:
    rate = Rate(text)
    assert (rate.value, rate.bits) == (value, bits)


@pytest.mark.parametrize("text", ["", "0", "-1", "k", "10 k", "10K", "10Mbyte", "nan", "0bit"])
def test_other_rates_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="packets in a second such as 10k, bits such as 100Mbit"):
        Rate(text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"vnis": "42,42"}, "vnis 42,42: a VNI comes twice"),
        ({"vnis": "1-16777216"}, "vnis 1-16777216 is no VNI and no range of them"),
        ({"vnis": "0-16777215"}, "vnis 0-16777215: at most 1048576"),
        ({"macs": 0}, "macs 0: an integer from 1 to 1048576"),
        ({"flows": 40000}, "flows 40000: an integer from 1 to 32768"),
        ({"macs": 1000, "flows": 2000}, "flows 2000: with 1 VNIs and 1000 hosts in each that is 2000000"),
        ({"size": 63}, "size 63: from 64 to 9216 bytes"),
        ({"size": 1465, "most": 1464}, "size 1465: from 64 to 1464 bytes"),
        ({"size": "imax"}, 'size imax: a number of bytes from 64 to 9216, "imix", or a capture file'),
        ({"to_mac": "02:00"}, "to-mac 02:00 is not a MAC address"),
        ({"size": "imix", "most": 40}, "size imix: the way takes frames of up to 40 bytes; 64 are needed"),
        ({"run": 65536}, "run 65536: an integer from 0 to 65535"),
    ],
)
def test_wrong_settings_are_named(options: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Plan(**options)  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_too_many_pairs_of_vtep_and_vni_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="vnis: 131073 of them with 2 VTEPs are 262146 pairs; at most 262144"
    ):
        Plan(vnis="0-131072").generator(tunnels(2))


def test_prefixes_and_lists_as_people_write_them() -> None:
    assert parse_vnis("42, 100-102") == [42, 100, 101, 102]
    assert len(parse_vteps("10.0.0.0/22")) == 1022
    assert [str(one) for one in parse_vteps("192.0.2.7/32")] == ["192.0.2.7"]
    assert len(parse_vteps("2001:db8::/120")) == 255
    for text in ("10.0.0.0/8", "10.0.0.1/22", "no", "224.0.0.0/24"):
        with pytest.raises(ConfigError, match=f"source-vteps {text}"):
            parse_vteps(text)


def test_arrays_that_do_not_fit_are_refused() -> None:
    heads, sizes = Plan().heads(), np.array([64], np.uint32)
    for wrong in (heads[:, :49].copy(), heads[:0]):
        with pytest.raises(ValueError, match="heads has shape"):
            Generator(wrong, sizes)
    for wrong in (np.array([63]), np.array([9217]), np.array([], int)):
        with pytest.raises(ValueError, match="sizes are from 64 to 9216"):
            Generator(heads, wrong)
    with pytest.raises(ValueError, match="ways are 1 numbers below 1"):
        Generator(heads, sizes, tunnels=tunnels(1), vnis=[0], ways=np.array([1]))
    generator = Generator(heads, np.array([2000]))
    with pytest.raises(ValueError, match="no room for a frame of 2000 bytes"):
        generator.fill(PacketBatch(1, frame_size=1900))
    with pytest.raises(ValueError, match="no tunnels"):
        generator.fill(PacketBatch(1), encap=True)
    with pytest.raises(ValueError, match="2 frames; the batch has a capacity of 1"):
        generator.fill(PacketBatch(1), 2)
