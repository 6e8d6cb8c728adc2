"""``vxcore decap`` on files as clouds and switches give them, and as they should not be."""

from __future__ import annotations

import gzip
import os
import signal
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scapy.contrib.geneve import GENEVE, GeneveOptions
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether
from support import captures
from support.captures import START_S, enhanced, frames_of, interface, pcap, pcapng, read, section

from vxcore import Tunnel, encap_frame, wire
from vxcore.capture import decap as command
from vxcore.capture import sink, source

MACS = ("02:00:00:00:00:02", "02:00:00:00:00:01")
V4 = {"local": "192.0.2.1", "remote": "192.0.2.2"}
V6 = {"local": "2001:db8::1", "remote": "2001:db8::2"}
FRAMES = [
    bytes.fromhex("02000000000b02000000000a0800") + bytes(IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=n))
    for n in range(1, 31)
]
ARP_FRAME = bytes(Ether(src=MACS[1], dst="ff:ff:ff:ff:ff:ff") / ARP(psrc="10.0.0.1", hwsrc=MACS[1]))


def outer(frame: bytes, vni: int = 42, end: dict[str, str] = V4, **options: Any) -> bytes:
    """A VXLAN packet with an Ethernet header."""
    return encap_frame(frame, Tunnel(**end, vni=vni, ethernet=MACS, inner_vlan="pass", **options))[1]


def outer_ip(frame: bytes, **options: Any) -> bytes:
    """The same from the IP header on."""
    return outer(frame, **options)[14:]


PACKETS = [outer(frame) for frame in FRAMES]
TIMES = [(START_S + n) * 10**9 + n for n in range(len(FRAMES))]


# Forms


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nano", [False, True])
def test_pcap_keeps_times_in_its_resolution(order: str, nano: bool, run: Any) -> None:
    Path("in").write_bytes(pcap(PACKETS, order, nano))
    assert run("decap", "in", "out") == (0, "vxcore: 30 packets: 30 decapsulated, 0 others dropped\n")
    unit = 1 if nano else 1000
    expected = [(frame, (START_S + n) * 10**9 + n * unit, len(frame)) for n, frame in enumerate(FRAMES)]
    assert read("out") == expected
    assert Path("out").read_bytes()[:4] == Path("in").read_bytes()[:4][:: 1 if order == "<" else -1]


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_keeps_nanoseconds_and_tells_the_vni(order: str, run: Any) -> None:
    Path("in").write_bytes(pcapng([outer(frame, vni=n % 3) for n, frame in enumerate(FRAMES)], order=order))
    assert run("decap", "in", "out.pcapng", "--comment", "of the test")[0] == 0
    assert captures.read_pcapng_by_scapy("out.pcapng") == [
        (frame, TIMES[n], len(frame), f"vxlan{n % 3}") for n, frame in enumerate(FRAMES)
    ]
    assert b"of the test" in Path("out.pcapng").read_bytes()


@pytest.mark.parametrize(
    ("name", "options", "given", "magic"),
    [
        ("out", [], pcap(PACKETS), "d4c3b2a1"),
        ("out", [], pcapng(PACKETS), "0a0d0d0a"),
        ("out.pcap", [], pcapng(PACKETS), "4d3cb2a1"),
        ("out.pcapng", [], pcap(PACKETS), "0a0d0d0a"),
        ("out.pcapng", ["--format", "pcap"], pcap(PACKETS), "d4c3b2a1"),
        ("out", ["--format", "pcapng"], pcap(PACKETS), "0a0d0d0a"),
    ],
)
def test_the_form_is_the_name_s_or_the_source_s(
    name: str, options: list[str], given: bytes, magic: str, run: Any
) -> None:
    Path("in").write_bytes(given)
    assert run("decap", "in", name, *options)[0] == 0
    assert Path(name).read_bytes()[:4].hex() == magic
    assert frames_of(name) == FRAMES


@pytest.mark.parametrize("data", [pcap([]), pcapng([]), section()])
def test_a_capture_without_packets_gives_one(data: bytes, run: Any, tmp_path: Path) -> None:
    Path("in").write_bytes(data)
    for name in ("out.pcap", "out.pcapng"):
        assert run("decap", "in", name) == (0, "vxcore: 0 packets: 0 decapsulated, 0 others dropped\n")
        assert frames_of(name) == []
    assert run("decap", "in", "--split-by-vni", "dir")[0] == 0
    assert list(Path("dir").iterdir()) == []


def test_editcap_s_chop_gives_the_same_file(run: Any, require_tool: Callable[[str], str]) -> None:
    Path("in.pcap").write_bytes(pcap(PACKETS))
    chop = [require_tool("editcap"), "-F", "pcap", "-L", "-C", "50", "in.pcap", "chopped.pcap"]
    subprocess.run(chop, check=True)
    assert run("decap", "in.pcap", "out.pcap")[0] == 0
    assert Path("out.pcap").read_bytes()[24:] == Path("chopped.pcap").read_bytes()[24:]


def test_tshark_sees_the_same_frames_inside(run: Any, require_tool: Callable[[str], str]) -> None:
    tshark = require_tool("tshark")
    packets = [outer(frame, end=V6 if n % 2 else V4) for n, frame in enumerate(FRAMES)]
    Path("in.pcapng").write_bytes(pcapng(packets))
    assert run("decap", "in.pcapng", "out.pcapng")[0] == 0
    inside = captures.by_tshark(tshark, "in.pcapng", "udp.srcport", options=("-E", "occurrence=l"))
    assert captures.by_tshark(tshark, "out.pcapng", "udp.srcport") == inside
    times = captures.by_tshark(tshark, "in.pcapng", "frame.time_epoch")
    assert captures.by_tshark(tshark, "out.pcapng", "frame.time_epoch") == times
    assert len(inside) == len(FRAMES)


# What packets start with


@pytest.mark.parametrize(
    ("link", "header"),
    [
        (1, bytes.fromhex("0200000000020200000000010800")),
        (113, bytes(14) + b"\x08\0"),
        (276, b"\x08\0" + bytes(18)),
        (101, b""),
        (228, b""),
        (0, struct.pack("<I", 2)),
        (108, struct.pack(">I", 2)),
    ],
)
def test_link_types(link: int, header: bytes, run: Any) -> None:
    Path("in").write_bytes(pcap([header + outer_ip(frame) for frame in FRAMES], link=link))
    assert run("decap", "in", "out")[0] == 0
    assert frames_of("out") == FRAMES


def test_interfaces_of_different_link_types_in_one_file(run: Any) -> None:
    given = [outer_ip(FRAMES[0]), outer(FRAMES[1]), b"??", bytes(14) + b"\x08\0" + outer_ip(FRAMES[2])]
    Path("in").write_bytes(pcapng(given, [101, 1, 147, 113]))
    code, said = run("decap", "in", "out")
    assert code == 0
    assert "4 packets: 3 decapsulated, 1 others dropped (1 LINK_TYPE)" in said
    assert "warning: in: link type 147 (1 packets) is not supported; these are: 0 BSD loopback, 1 Eth" in said
    assert frames_of("out") == FRAMES[:3]
    assert run("decap", "in", "out", "--keep-other")[0] == 0
    kept = captures.read_pcapng_by_scapy("out")
    assert [packet[0] for packet in kept] == [*FRAMES[:2], b"??", FRAMES[2]]
    assert [packet[3] for packet in kept] == ["vxlan42", "vxlan42", "other", "vxlan42"]


def test_a_file_of_an_unknown_link_type_is_refused_by_name(run: Any) -> None:
    Path("in").write_bytes(pcap(PACKETS, link=147))
    code, said = run("decap", "in", "out")
    assert code == 1
    assert "link type 147 (30 packets) is not supported" in said
    assert frames_of("out") == []


# What is taken off, and what is not


@pytest.mark.parametrize("link", ["ip", "ethernet"])
@pytest.mark.parametrize("options", [[], [GeneveOptions(classid=0x0108, type=1, data=b"12345678")]])
def test_geneve_around_vxlan(link: str, options: list[Any], run: Any) -> None:
    tunnel = IP(src="198.51.100.1", dst="198.51.100.2") / UDP(sport=50000, dport=6081)
    ethernet = Ether(src=MACS[0], dst=MACS[1])
    geneve = GENEVE(proto=0x0800 if link == "ip" else 0x6558, options=options)
    make = outer_ip if link == "ip" else outer
    Path("in").write_bytes(pcap([bytes(ethernet / tunnel / geneve / make(frame)) for frame in FRAMES]))
    assert run("decap", "in", "out")[0] == 0
    assert frames_of("out") == FRAMES


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_nested_vxlan_is_taken_off_to_the_depth(depth: int, run: Any) -> None:
    one = outer(FRAMES[0], vni=1)
    two = outer(FRAMES[1], vni=1), outer(outer(FRAMES[1], vni=1), vni=2, end=V6)
    three = outer(FRAMES[2], vni=1), outer(outer(FRAMES[2], vni=1), vni=2)
    given = [one, two[1], outer(three[1], vni=3), ARP_FRAME]
    Path("in").write_bytes(pcapng(given))
    code, said = run("decap", "in", "out", "--depth", str(depth))
    assert (code, "3 decapsulated, 1 others dropped (1 NOT_IP)" in said) == (0, True)
    second = [two[0], FRAMES[1]][min(depth, 2) - 1]
    third = [three[1], three[0], FRAMES[2]][min(depth, 3) - 1]
    names = ["vxlan1", f"vxlan{max(1, 3 - depth)}", f"vxlan{max(1, 4 - depth)}"]
    found = captures.read_pcapng_by_scapy("out")
    assert [(packet[0], packet[3]) for packet in found] == list(
        zip([FRAMES[0], second, third], names, strict=True)
    )


def test_vnis_are_chosen_and_the_others_named(run: Any) -> None:
    Path("in").write_bytes(pcap([outer(frame, vni=n % 4) for n, frame in enumerate(FRAMES)] + [ARP_FRAME]))
    code, said = run("decap", "in", "out", "--vni", "1", "--vni", "0x3")
    assert code == 0
    assert "31 packets: 15 decapsulated, 16 others dropped (15 UNKNOWN_VNI, 1 NOT_IP)" in said
    assert frames_of("out") == FRAMES[1::2]
    assert run("decap", "in", "out", "--vni", "1", "--vni", "3", "--keep-other")[0] == 0
    assert frames_of("out") == [*FRAMES[1::2], ARP_FRAME]


def test_what_is_not_vxlan_is_kept_on_request_as_it_was_and_where_it_was(run: Any) -> None:
    other_port, noise = outer(FRAMES[1], dst_port=8472), b"noise"
    broken = bytearray(PACKETS[2])
    broken[42] = 0
    given = [ARP_FRAME, PACKETS[0], other_port, PACKETS[3], bytes(broken), noise]
    Path("in").write_bytes(pcap(given, nano=True, cut=3))
    code, said = run("decap", "in", "out", "--keep-other")
    assert (code, "2 decapsulated, 4 others kept as they were" in said) == (0, True)
    expected = [ARP_FRAME, FRAMES[0], other_port, FRAMES[3], bytes(broken), noise]
    assert read("out") == [(frame, TIMES[n], len(frame) + 3) for n, frame in enumerate(expected)]
    code, said = run("decap", "in", "out", "--port", "4789", "--port", "8472")
    assert "3 decapsulated, 3 others dropped (1 TRUNCATED, 1 NOT_IP, 1 NO_VNI_FLAG)" in said
    assert frames_of("out") == [FRAMES[0], FRAMES[1], FRAMES[3]]


def test_others_that_do_not_fit_a_pcap_are_counted_and_fail(run: Any) -> None:
    Path("in").write_bytes(pcap([outer_ip(FRAMES[0]), bytes(IP(src="1.2.3.4", dst="1.2.3.4"))], link=101))
    code, said = run("decap", "in", "out", "--keep-other")
    assert code == 1
    assert "error: 1 packets left out: a pcap holds one link type; write a pcapng (--format)" in said
    assert frames_of("out") == FRAMES[:1]
    assert run("decap", "in", "out.pcapng", "--keep-other")[0] == 0
    assert len(frames_of("out.pcapng")) == 2


@pytest.mark.parametrize(
    ("checksum", "delivered", "refused"),
    [
        ("ignore", 4, ""),
        ("verify", 2, "(1 IP_CHECKSUM, 1 UDP_CHECKSUM)"),
        ("require", 1, "(1 IP_CHECKSUM, 1 UDP_CHECKSUM, 1 ZERO_CHECKSUM)"),
    ],
)
def test_unfinished_checksums_of_a_sender_do_not_matter_unless_asked(
    checksum: str, delivered: int, refused: str, run: Any
) -> None:
    bad_ip, bad_udp = bytearray(PACKETS[0]), bytearray(PACKETS[1])
    bad_ip[24:26] = b"\0\0"
    bad_udp[40:42] = b"\x12\x34"
    given = [bytes(bad_ip), bytes(bad_udp), PACKETS[2], outer(FRAMES[3], udp_checksum=True)]
    Path("in").write_bytes(pcap(given))
    code, said = run("decap", "in", "out", "--checksum", checksum)
    assert code == 0
    assert f"4 packets: {delivered} decapsulated" in said
    assert refused in said


def test_the_inner_frame_is_not_touched_by_ecn_or_tags(run: Any) -> None:
    tagged = FRAMES[0][:12] + b"\x81\0\0\x05" + FRAMES[0][12:]
    marked = bytearray(outer(FRAMES[1]))
    marked[15] |= 3
    Path("in").write_bytes(pcap([outer(tagged), bytes(marked)]))
    assert run("decap", "in", "out")[0] == 0
    assert frames_of("out") == [tagged, FRAMES[1]]


def test_bare_ip_in_vxlan_gpe(run: Any) -> None:
    ip = bytes(IP(src="10.0.0.1", dst="10.0.0.2") / UDP())
    bare = outer(ip, dst_port=4790)
    bare = bare[:42] + b"\x0c\0\0\x01" + bare[46:]
    Path("in.pcapng").write_bytes(pcapng([bare, outer(FRAMES[0], dst_port=4790)]))
    gpe = ["--gpe", "--port", "4790"]
    assert run("decap", "in.pcapng", "out.pcapng", *gpe)[0] == 0
    assert frames_of("out.pcapng") == [ip, FRAMES[0]]
    code, said = run("decap", "in.pcapng", "out.pcap", *gpe)
    assert (code, "1 packets left out" in said) == (1, True)
    assert run("decap", "in.pcapng", "--split-by-vni", "dir", *gpe)[0] == 0
    assert frames_of("dir/vni-42.pcapng") == [ip, FRAMES[0]]


# Cut short


def test_a_snap_length_costs_what_it_cut_and_no_more(run: Any) -> None:
    for snap in (63, 64, 70, 80):
        given = [packet[:snap] for packet in PACKETS]
        Path("in").write_bytes(pcap(given, cut=len(PACKETS[0]) - snap))
        code, said = run("decap", "in", "out")
        assert code == 0
        if snap < 64:
            assert "0 decapsulated, 30 others dropped (30 INNER_TOO_SHORT)" in said
            continue
        assert "30 decapsulated, 0 others dropped; 30 frames cut short by the snap length" in said
        assert [(frame, size) for frame, _, size in read("out")] == [
            (frame[: snap - 50], len(frame)) for frame in FRAMES
        ]


def test_a_cut_that_no_snap_length_explains_is_truncated(run: Any) -> None:
    Path("in").write_bytes(pcap([packet[:80] for packet in PACKETS]))
    assert "0 decapsulated, 30 others dropped (30 TRUNCATED)" in run("decap", "in", "out")[1]


def test_nested_frames_that_a_snap_length_cut(run: Any) -> None:
    nested = outer(outer(FRAMES[0], vni=1), vni=2)
    Path("in").write_bytes(pcapng([nested[:130], nested], cut=len(nested) - 130))
    assert run("decap", "in", "out", "--depth", "2")[0] == 0
    cut, whole = read("out")
    assert (cut[0], cut[2]) == (FRAMES[0][:30], len(FRAMES[0]))
    assert whole[0] == FRAMES[0]


def small(form: str) -> bytes:
    return pcap(PACKETS[:3]) if form == "pcap" else pcapng(PACKETS[:3])


@pytest.mark.parametrize("form", ["pcap", "pcapng"])
def test_every_truncation_of_a_file(form: str, run: Any) -> None:
    """What was readable is written, the place is named, the exit code is 1."""
    data = small(form)
    ends = []
    for length in range(len(data) + 1):
        Path("in").write_bytes(data[:length])
        Path("out").unlink(missing_ok=True)
        code, said = run("decap", "in", "out")
        if not Path("out").exists():
            assert (code, "error: in: " in said) == (1, True)
            assert length < 28
            continue
        found = frames_of("out")
        assert found == FRAMES[: len(found)]
        if code == 0:
            ends.append((length, len(found)))
        else:
            assert code == 1
            assert "error: in: at byte " in said
            assert "the file ends inside a record, of which " in said
            assert said.endswith("bytes are there; all before that was written\n")
    assert [count for _, count in ends][-4:] == [0, 1, 2, 3]
    assert ends[-1][0] == len(data)


def test_damage_in_the_middle_is_named(run: Any) -> None:
    data = section() + interface() + enhanced(PACKETS[0], 1) + struct.pack("<II", 6, 13) + bytes(40)
    Path("in").write_bytes(data)
    code, said = run("decap", "in", "out")
    assert code == 1
    at = len(section() + interface() + enhanced(PACKETS[0], 1))
    assert f"error: in: at byte {at}: a block of 13 bytes" in said
    assert frames_of("out") == FRAMES[:1]


# Compressed


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_compressed_input_whole_and_cut_anywhere(kind: str, run: Any) -> None:
    packets = [outer(os.urandom(200)) for _ in range(3000)]
    data = pcap(packets)
    squeezed = gzip.compress(data) if kind == "gzip" else source._zstd("x").compress(data)
    Path("in").write_bytes(squeezed)
    assert run("decap", "in", "out")[0] == 0
    whole = frames_of("out")
    assert len(whole) == 3000
    counts = set()
    for length in range(40, len(squeezed), 30001):
        Path("in").write_bytes(squeezed[:length])
        Path("out").unlink(missing_ok=True)
        code, said = run("decap", "in", "out")
        assert code == 1
        assert "the compressed data is damaged behind byte " in said
        if Path("out").exists():
            counts.add(len(frames_of("out")))
            assert frames_of("out") == whole[: len(frames_of("out"))]
    assert len(counts) > 4
    assert max(counts) > 1500


def test_damaged_gzip_gives_what_is_before_the_damage(run: Any) -> None:
    squeezed = bytearray(gzip.compress(pcap([outer(os.urandom(200)) for _ in range(4000)])))
    squeezed[-6] ^= 0xFF  # of the checksum, behind all data
    Path("in").write_bytes(squeezed)
    code, said = run("decap", "in", "out")
    assert (code, "CRC check failed" in said) == (1, True)
    assert len(frames_of("out")) == 4000


def test_zstd_without_what_undoes_it_names_the_extra(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("in").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(30))
    for module in ("compression.zstd", "compression", "backports.zstd"):
        monkeypatch.setitem(sys.modules, module, None)
    code, said = run("decap", "in", "out")
    assert code == 1
    assert said == (
        "vxcore: error: in: zstd needs Python 3.14, or the package that `pip install 'vxcore[zstd]'` brings\n"
    )


# One file for each VNI

SPLIT = [outer(FRAMES[n % 30], vni=n * 7 % 1000) for n in range(3000)]


@pytest.mark.parametrize("form", ["pcap", "pcapng"])
def test_a_thousand_vnis_into_a_thousand_files_with_few_open(form: str, tmp_path: Path) -> None:
    times = [(START_S + n) * 10**9 for n in range(3000)]
    data = pcap(SPLIT, nano=True) if form == "pcap" else pcapng(SPLIT)
    half = data[: len(data) // 2]
    program = "import resource, vxcore.cli as c; resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160));"
    program += "raise SystemExit(c.main(['decap', '-', '--split-by-vni', 'dir']))"
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    for piece in (half, data[len(half) :]):  # two batches at least, so that files are opened again
        process.stdin.write(piece)
        process.stdin.flush()
    said = process.communicate()[1].decode()
    assert (process.returncode, said) == (0, "vxcore: 3000 packets: 3000 decapsulated, 0 others dropped\n")
    names = {path.name for path in (tmp_path / "dir").iterdir()}
    assert names == {f"vni-{vni}.{form}" for vni in range(1000)}
    for vni in range(0, 1000, 37):
        numbers = [n for n in range(3000) if n * 7 % 1000 == vni]
        found = read(tmp_path / "dir" / f"vni-{vni}.{form}")
        assert [frame for frame, _, _ in found] == [FRAMES[n % 30] for n in numbers]
        assert [time // 10**9 * 10**9 for _, time, _ in found] == [times[n] for n in numbers]
    assert stat.S_IMODE((tmp_path / "dir").stat().st_mode) == 0o777 & ~umask()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_the_rest_of_a_split_is_a_file_of_its_own(run: Any) -> None:
    Path("in").write_bytes(pcap([PACKETS[0], ARP_FRAME, outer(FRAMES[1], vni=7), b"noise"]))
    assert run("decap", "in", "--split-by-vni", "dir", "--keep-other")[0] == 0
    assert frames_of("dir/vni-42.pcap") == FRAMES[:1]
    assert frames_of("dir/vni-7.pcap") == FRAMES[1:2]
    assert frames_of("dir/other.pcap") == [ARP_FRAME, b"noise"]


def test_a_split_never_mixes_with_what_was_there(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("in").write_bytes(pcap(PACKETS))
    Path("dir").mkdir()
    assert run("decap", "in", "--split-by-vni", "dir")[0] == 0
    code, said = run("decap", "in", "--split-by-vni", "dir")
    assert (code, "dir: exists and is no empty directory; name a new one" in said) == (2, True)
    assert frames_of("dir/vni-42.pcap") == FRAMES
    monkeypatch.setattr(sink.SplitSink, "write", interrupted)
    assert run("decap", "in", "--split-by-vni", "new")[0] == 130
    assert listing() == ["dir", "in"]


# Files, pipes and failures


def listing() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_failure_leaves_what_was_there_and_nothing_else(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("in").write_bytes(pcap(PACKETS))
    Path("out").write_bytes(b"precious")
    monkeypatch.setattr(command.Decap, "records", interrupted)
    assert run("decap", "in", "out")[0] == 130
    assert Path("out").read_bytes() == b"precious"
    assert listing() == ["in", "out"]


def test_a_file_may_be_replaced_by_itself_and_keeps_its_mode_and_link(run: Any) -> None:
    Path("real").write_bytes(pcap(PACKETS))
    Path("real").chmod(0o640)
    Path("link").symlink_to("real")
    assert run("decap", "link", "link")[0] == 0
    assert Path("link").is_symlink()
    assert frames_of("real") == FRAMES
    assert stat.S_IMODE(Path("real").stat().st_mode) == 0o640
    Path("new").unlink(missing_ok=True)
    assert run("decap", "real", "new")[0] == 0
    assert stat.S_IMODE(Path("new").stat().st_mode) == 0o666 & ~umask()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["in"], 2, "give OUT, or --split-by-vni DIR, and not both"),
        (["in", "out", "--split-by-vni", "dir"], 2, "give OUT, or --split-by-vni DIR, and not both"),
        (["in", "out.pcap.gz"], 2, "out.pcap.gz: compressed captures are read, not written"),
        (["in", "out", "--vni", "16777216"], 2, "an integer from 0 to 16777215"),
        (["in", "out", "--port", "0"], 2, "an integer from 1 to 65535"),
        (["in", "out", "--depth", "0"], 2, "an integer from 1 to 16"),
        (["in", "out.pcap", "--comment", "x"], 2, "a pcap has no place for a comment"),
        (["nosuch", "out"], 1, "nosuch: No such file or directory"),
        (["in", "no/such/out"], 1, "no/such/out: No such file or directory"),
        (["in", "--split-by-vni", "no/such/dir"], 1, "no/such/dir: No such file or directory"),
        (["in", "/dev/full"], 1, "/dev/full: No space left on device"),
        (["/", "out"], 1, "/: Is a directory"),
        (["in", "/"], 1, "/: Is a directory"),
        (["/proc/self/mem", "out"], 1, "/proc/self/mem: Input/output error"),
    ],
)
def test_mistakes_and_failures_are_one_line(arguments: list[str], code: int, said: str, run: Any) -> None:
    Path("in").write_bytes(pcap(PACKETS))
    found = run("decap", *arguments)
    assert found[0] == code
    assert found[1].startswith("vxcore: error: ")
    assert said in found[1]
    assert found[1].count("\n") == 1
    assert listing() == ["in"]


def vxcore(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "vxcore", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        **options,
    )


def test_from_a_pipe_to_a_pipe(tmp_path: Path) -> None:
    for data in (pcap(PACKETS), gzip.compress(pcap(PACKETS))):
        out, err = vxcore("decap", "-", "-", stdin=subprocess.PIPE).communicate(data)
        assert err == b"vxcore: 30 packets: 30 decapsulated, 0 others dropped\n"
        (tmp_path / "out").write_bytes(out)
        assert frames_of(tmp_path / "out") == FRAMES


def record(packet: bytes) -> bytes:
    return struct.pack("<IIII", 0, 0, len(packet), len(packet)) + packet


def live() -> subprocess.Popen[bytes]:
    """A process that has read the first packet from a pipe and written it."""
    process = vxcore("decap", "-", "-", stdin=subprocess.PIPE)
    give(process, pcap([])[:24] + record(PACKETS[0]))
    assert process.stdout is not None
    assert len(process.stdout.read(24)) == 24
    assert take(process) == FRAMES[0]
    return process


def give(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(data)
    process.stdin.flush()


def take(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.read(16 + len(FRAMES[0]))[16:]


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """Interrupt it, and wait until it says that it knows."""
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    said = process.stderr.readline()
    assert said == b"vxcore: standard input is read to its end; interrupt again to end it now\n"


def test_a_live_capture_comes_out_as_it_comes_in() -> None:
    """Nothing waits for a block to be full."""
    process = live()
    for packet, frame in zip(PACKETS[1:5], FRAMES[1:5], strict=True):
        give(process, record(packet))
        assert take(process) == frame
    out, err = process.communicate()
    assert (process.returncode, out) == (0, b"")
    assert err == b"vxcore: 5 packets: 5 decapsulated, 0 others dropped\n"


def test_an_interrupt_of_a_pipeline_loses_nothing() -> None:
    """Ctrl-C reaches both ends of a pipe: what tcpdump still writes is still taken."""
    process = live()
    interrupt(process)
    out, err = process.communicate(record(PACKETS[1]))
    assert (process.returncode, out[16:]) == (0, FRAMES[1])
    assert err == b"vxcore: 2 packets: 2 decapsulated, 0 others dropped\n"


def test_a_second_interrupt_ends_what_has_no_end() -> None:
    process = live()
    interrupt(process)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert process.stderr.readline() == b"vxcore: 1 packets: 1 decapsulated, 0 others dropped\n"
    assert process.wait() == 0
    process.communicate()


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peaks = []
    data = pcap([outer(bytes(60), vni=n % 100) for n in range(3000)])
    for repeats in (10, 400):
        with (tmp_path / "in").open("wb") as file:
            file.write(data[:24])
            for _ in range(repeats):
                file.write(data[24:])
        peaks.append(
            [peak_kb("decap", str(tmp_path / "in"), "/dev/null"), peak_kb("inspect", str(tmp_path / "in"))]
        )
    assert (tmp_path / "in").stat().st_size > 140_000_000
    for small_kb, large_kb in zip(*peaks, strict=True):
        assert large_kb < small_kb + 8_000, peaks


def peak_kb(*arguments: str) -> int:
    process = vxcore(*arguments)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.communicate()
    assert process.returncode == 0
    return usage.ru_maxrss


# More interfaces than a pcapng can have


def test_vnis_beyond_the_interfaces_share_one(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink, "_MAX_NAMED", 5)
    monkeypatch.setattr(sink, "_MAX_INTERFACES", 7)
    given = [outer(FRAMES[n], vni=n) for n in range(10)] + [b"a", b"b", b"c"]
    Path("in").write_bytes(pcapng(given, [1] * 10 + [147, 148, 149]))
    code, said = run("decap", "in", "out", "--keep-other")
    assert (code, "2 packets left out" in said) == (1, True)
    found = captures.read_pcapng_by_scapy("out")
    assert [packet[0] for packet in found] == [*FRAMES[:10], b"a"]
    assert [packet[3] for packet in found] == [*[f"vxlan{n}" for n in range(5)], *["other"] * 6]


def test_wire_agrees(run: Any) -> None:
    """The readable codec, on what the command makes of every kind of damage in the outer headers."""
    given = []
    for at in range(64):
        damaged = bytearray(PACKETS[0])
        damaged[at] ^= 0x15
        given.append(bytes(damaged))
    Path("in").write_bytes(pcap(given))
    rules = wire.DecapRules(udp_checksum="ignore", zero_checksum6="accept", ecn="ignore", inner_vlan="pass")
    expected = [wire.decapsulate(packet, rules).frame for packet in given]
    assert run("decap", "in", "out")[0] == 0
    assert frames_of("out") == [frame for frame in expected if frame]
