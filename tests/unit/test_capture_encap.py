"""``vxcore encap``: back to what decap took off, and as Scapy and tshark read it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from support import captures
from support.captures import START_S, frames_of, pcap, pcapng, read

ENDS = ["--vni", "42", "--local", "192.0.2.1", "--remote", "192.0.2.2"]
ENDS6 = ["--vni", "42", "--local", "2001:db8::1", "--remote", "2001:db8::2"]
MACS = ["--ethernet", "02:00:00:00:00:02", "02:00:00:00:00:01"]
INNER = Ether(dst="02:00:00:00:00:0b", src="02:00:00:00:00:0a")
FRAMES = [
    bytes(INNER / IP(src="10.0.0.1", dst="10.0.0.2", ttl=9, tos=0x20) / UDP(sport=n) / (b"x" * n))
    for n in range(1, 31)
]


@pytest.mark.parametrize("ends", [ENDS, ENDS6])
@pytest.mark.parametrize("macs", [[], MACS])
@pytest.mark.parametrize("make", [pcap, pcapng])
def test_decap_undoes_it(ends: list[str], macs: list[str], make: Callable[..., bytes], run: Any) -> None:
    Path("in").write_bytes(make(FRAMES))
    assert run("encap", "in", "out", *ends, *macs) == (0, "vxcore: 30 packets: 30 encapsulated\n")
    assert run("decap", "out", "back", "--checksum", "verify")[0] == 0
    assert read("back") == read("in")
    assert len(frames_of("out")[0]) - len(FRAMES[0]) == (50 if ends is ENDS else 70) - (0 if macs else 14)


def test_every_option_is_in_the_headers(run: Any) -> None:
    Path("in").write_bytes(pcap(FRAMES, nano=True))
    options = "--dstport 8472 --srcport 5000 5000 --ttl 7 --tos 0x40 --df set --udpcsum --outer-vlan 9"
    assert run("encap", "in", "out", *ENDS, *MACS, *options.split())[0] == 0
    for (data, time, _), frame in zip(read("out"), FRAMES, strict=True):
        packet = Ether(data)
        assert (packet.dst, packet.src, packet[Dot1Q].vlan) == (MACS[1], MACS[2], 9)
        ip, udp, vxlan = packet[IP], packet[UDP], packet[UDP].payload
        assert (ip.src, ip.dst, ip.ttl, ip.tos, ip.flags) == ("192.0.2.1", "192.0.2.2", 7, 0x40, "DF")
        assert (udp.sport, udp.dport) == (5000, 8472)
        assert udp.chksum
        assert VXLAN(bytes(vxlan)).vni == 42
        assert data.endswith(frame)
        assert time // 10**9 >= START_S


def test_inherited_fields(run: Any) -> None:
    Path("in").write_bytes(pcap(FRAMES))
    assert run("encap", "in", "out", *ENDS6, "--ttl", "inherit", "--tos", "inherit")[0] == 0
    packets = [IPv6(frame) for frame in frames_of("out")]
    assert {(packet.hlim, packet.tc) for packet in packets} == {(9, 0x20)}
    assert len({packet[UDP].sport for packet in packets}) > 25


@pytest.mark.parametrize("ends", [ENDS, ENDS6])
def test_tshark_finds_every_checksum_right(
    ends: list[str], run: Any, require_tool: Callable[[str], str]
) -> None:
    Path("in").write_bytes(pcapng(FRAMES))
    assert run("encap", "in", "out", *ends, "--udpcsum")[0] == 0
    check = ("-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE")
    rows = captures.by_tshark(
        require_tool("tshark"), "out", "vxlan.vni", "udp.checksum.status", options=check
    )
    assert rows == [["42", "1"]] * len(FRAMES)


def test_vlan_tags_pass_unless_told_otherwise(run: Any) -> None:
    tagged = FRAMES[0][:12] + b"\x81\0\0\x05" + FRAMES[0][12:]
    Path("in").write_bytes(pcap([tagged, FRAMES[1]]))
    for policy, inner in (([], [tagged, FRAMES[1]]), (["--inner-vlan", "strip"], FRAMES[:2])):
        assert run("encap", "in", "out", *ENDS, *policy)[0] == 0
        assert run("decap", "out", "back")[0] == 0
        assert frames_of("back") == inner
    code, said = run("encap", "in", "out", *ENDS, "--inner-vlan", "drop")
    assert (code, "error: 1 packets left out: INNER_VLAN: the inner frame carries a VLAN tag" in said) == (
        1,
        True,
    )


def test_what_cannot_be_carried_is_named_and_the_rest_written(run: Any) -> None:
    given = [b"short", FRAMES[0], bytes(65600), bytes(IP(src="1.2.3.4", dst="1.2.3.4")), FRAMES[1]]
    Path("in").write_bytes(pcapng(given, [1, 1, 1, 101, 1]))
    code, said = run("encap", "in", "out", *ENDS)
    assert code == 1
    assert "5 packets: 2 encapsulated" in said
    for verdict in ("INNER_TOO_SHORT", "TOO_BIG", "LINK_TYPE"):
        assert f"error: 1 packets left out: {verdict}: " in said
    assert [frame[36:] for frame in frames_of("out")] == FRAMES[:2]


def test_frames_that_a_snap_length_cut_come_back_as_they_were(run: Any) -> None:
    Path("in").write_bytes(pcap([frame[:40] for frame in FRAMES], cut=7))
    assert run("encap", "in", "out", *ENDS)[0] == 0
    assert [size for _, _, size in read("out")] == [40 + 7 + 36] * 30
    assert run("decap", "out", "back")[0] == 0
    assert read("back") == read("in")


def test_a_damaged_capture_gives_what_was_readable(run: Any) -> None:
    Path("in").write_bytes(pcap(FRAMES)[:-1])
    code, said = run("encap", "in", "out", *ENDS)
    assert code == 1
    assert "the file ends inside a record" in said
    assert len(frames_of("out")) == 29


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*ENDS[:2], "--local", "192.0.2.1"], "the following arguments are required: --remote"),
        (["--vni", "16777216", *ENDS[2:]], "vni 16777216 is not allowed; an integer from 0 to 16777215"),
        ([*ENDS[:4], "--remote", "2001:db8::2"], "is not of local 192.0.2.1's family"),
        ([*ENDS, "--ethernet", "x", "y"], "x is not a MAC address"),
        ([*ENDS, "--outer-vlan", "5"], "outer_vlan 5 without ethernet"),
        ([*ENDS, "--ttl", "often"], "ttl 'often' is not allowed"),
        ([*ENDS, "--srcport", "9", "8"], "src_port 9-8 is an empty range"),
        ([*ENDS, "--comment", "x"], "a pcap has no place for a comment"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(arguments: list[str], said: str, run: Any) -> None:
    Path("in").write_bytes(pcap(FRAMES))
    code, err = run("encap", "in", "out", *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert said in err
    assert not Path("out").exists()


def test_standard_output_as_a_pipe(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vxcore", "encap", "-", "-", *ENDS]
    done = subprocess.run(command, check=True, input=pcap(FRAMES), capture_output=True)
    (tmp_path / "out").write_bytes(done.stdout)
    assert [frame[36:] for frame in frames_of(tmp_path / "out")] == FRAMES
