"""A missing peer is named: a reason to skip at one's desk, a failure in CI."""

from __future__ import annotations

import os

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet
from support import peers

ABSENT = "no-such-program-for-vxcore"


def test_a_missing_tool_skips_by_name_locally(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=ABSENT):
        peers.require_tool(ABSENT)


def test_a_missing_tool_fails_by_name_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=ABSENT):
        peers.require_tool(ABSENT)


def test_a_tool_that_is_there_is_found_by_its_path() -> None:
    assert os.access(peers.require_tool("sh"), os.X_OK)


def test_root_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(pytest.fail.Exception, match="root is needed"):
        peers.require_root()


@pytest.mark.parametrize(
    ("packet", "said"),
    [
        (Ether(src="02:00:00:00:00:01") / IP(dst="192.0.2.1"), "no destination MAC"),
        (Ether(src="02:00:00:00:00:01") / IPv6(dst="2001:db8::1"), "no destination MAC"),
        (Ether(dst="02:00:00:00:00:01") / IP(dst="192.0.2.1"), "no source MAC"),
        (ARP(pdst="192.0.2.1"), "no source MAC"),
    ],
)
def test_a_packet_that_leaves_an_address_to_scapy_asks_nobody(packet: Packet, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        bytes(packet)
