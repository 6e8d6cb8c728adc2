"""The commands gen send and gen receive: mistakes in one line, and what people read."""

from __future__ import annotations

import pytest

from vxcore import cli
from vxcore.commands.gen import _received_lines, _sent_lines
from vxcore.gen import Checker, Plan, received
from vxcore.gen.report import Answers, Sent, sizes

LOOPBACK = ("send", "--to", "127.0.0.1", "--vnis", "1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("receive", "nosuch"), "device nosuch: there is no such device; see `ip link`"),
        (("receive", "lo"), "device lo: it is no Ethernet device, such as a TAP, a veth or a NIC"),
        (("receive", "lo", "--max-streams", "x"), "'x' is not allowed; an integer from 1 to 1048576"),
        (("receive", "lo", "--max-streams", "0"), "'0' is not allowed; an integer from 1 to 1048576"),
        (("receive", "lo", "--count", f"{1 << 64}"), "is not allowed; an integer from 1 to"),
        ((*LOOPBACK, "--count", f"{1 << 64}"), "is not allowed; an integer from 1 to"),
        (("receive", "lo", "--idle", "0"), "seconds above 0"),
        (("send",), "gen send: give --to and a VTEP, or --into and an interface"),
        (("send", "--to", "192.0.2.1", "--into", "x"), "gen send: give --to and a VTEP, or --into and an"),
        (("send", "--into", "nosuch"), "--into nosuch: there is no such device; see `ip link`"),
        (("send", "--to", "192.0.2.2"), "--vnis: missing; a VNI such as 42, or several such as 42,100-199"),
        (("send", "--to", "nobody", "--vnis", "1"), "--to nobody is not an IP address; an IPv4 or IPv6"),
        (("send", "--into", "eth", "--vnis", "1-2"), "--vnis 1-2: one VNI with --into"),
        (("send", "--into", "eth", "--dev", "eth"), "--dev: only with --to"),
        (("send", "--to", "127.0.0.1", "--vnis", "x"), "--vnis x is no VNI and no range of them"),
        ((*LOOPBACK, "--size", "9217"), "--size 9217: from 64 to 9216 bytes"),
        ((*LOOPBACK, "--rate", "x"), "--rate x: packets in a second such as 10k"),
        ((*LOOPBACK, "--macs", "x"), "--macs x: an integer"),
        ((*LOOPBACK, "--to-mac", "x"), "--to-mac x is not a MAC address"),
        ((*LOOPBACK, "--burst", "65"), "an integer from 1 to 64"),
        ((*LOOPBACK, "--dev", "nosuch"), "there is no such device"),
        ((*LOOPBACK, "--source-vteps", "10.0.0.0/8"), "--source-vteps 10.0.0.0/8: at most 65536 addresses"),
        ((*LOOPBACK, "--source-vteps", "2001:db8::/120"), ": 127.0.0.1 is of the other family"),
    ],
)
def test_a_mistake_is_one_line(words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["gen", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


def test_the_reports_in_words() -> None:
    checker = Checker(max_streams=1)
    generator = Plan(flows=2).generator()
    from vxcore import PacketBatch

    batch = PacketBatch(4)
    generator.fill(batch, time_ns=1000)
    frames = batch.to_frames()
    for frame, now in ((frames[0], 3000), (frames[1], 3000), (frames[2], 999), (b"\0" * 60, 0)):
        checker.take_frame(frame, time_ns=now)
    lines = list(_received_lines(received(checker, overruns=7)))
    assert lines[0].startswith("3 frames of 1 streams in ")
    assert lines[1] == "lost 0, duplicated 0, reordered 0, late 0, corrupted 0"
    assert "7 packets lost here: this receiver was too slow" in lines
    assert "1 frames of streams beyond --max-streams: not told apart" in lines
    assert "1 frames from the future: the clocks differ (--clock)" in lines
    assert "latency in us: least 2.0  median 2.0  p90 2.0  p99 2.0  p999 2.0  most 2.0" in lines


def test_what_was_sent_in_words() -> None:
    plan = Plan(size="imix")
    sent = Sent(
        seconds=2.0,
        packets=10,
        bytes=1000,
        packets_per_s=5.0,
        bits_per_s=4000.0,
        refused=3,
        run=7,
        streams=1,
        vteps=1022,
        sizes=sizes(plan.sizes),
        answers=Answers(asked=4, packets=5, stamped=5),
    )
    assert list(_sent_lines(sent)) == [
        "10 packets in 2.000 s from 1022 VTEPs: 5 packets/s, 0.0 Mbit/s",
        "1 streams of run 7; frames of 64 bytes, to 1514, mean 360.2",
        "3 packets refused by the device or the kernel",
        "came back: 4 requests for link addresses, answered; 5 VXLAN packets",
    ]
