"""The doctor's reading of nftables' rules: dropped for sure, perhaps, or not; and how findings are shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any, NamedTuple

import pytest

from vxcore import config, doctor
from vxcore.doctor import host
from vxcore.doctor.finding import OK, WARNING, WRONG, Finding, Subject
from vxcore.doctor.firewall import Packet, judge

PACKET = Packet(4789, ip_address("192.0.2.1"), ip_address("192.0.2.2"), "eth0")
SIX = Packet(4789, ip_address("2001:db8::1"), ip_address("2001:db8::2"), None)


def match(left: Any, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def field(protocol: str, name: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": name}}


def meta(key: str) -> dict[str, Any]:
    return {"meta": {"key": key}}


ACCEPT, DROP, REJECT = {"accept": None}, {"drop": None}, {"reject": {"type": "icmp"}}
TO_PORT = match(field("udp", "dport"), 4789)
ESTABLISHED = match({"ct": {"key": "state"}}, ["established", "related"], "in")
LIMIT = {"limit": {"rate": 5, "per": "second"}}
MARKED = match(meta("mark"), 7)


def ruleset(*rules: list[Any], policy: str = "accept", family: str = "inet", **chains: Any) -> list[Any]:
    """A table with one base chain for input, and others by name."""
    base = {"family": family, "table": "filter", "name": "input", "hook": "input", "policy": policy}
    nodes: list[Any] = [{"metainfo": {}}, {"chain": base}]
    for chain, each in {"input": rules, **chains}.items():
        nodes += [
            {"rule": {"family": family, "table": "filter", "chain": chain, "handle": n, "expr": expressions}}
            for n, expressions in enumerate(each, 1)
        ]
    return nodes


def said(nodes: list[Any], packet: Packet = PACKET) -> list[tuple[bool, str]]:
    return list(judge(nodes, packet))


RULE = "rule {} of table inet filter, chain {} (input)"


@pytest.mark.parametrize(
    ("nodes", "sure", "where"),
    [
        (ruleset([TO_PORT, {"counter": {}}, DROP]), True, "rule 1 of"),
        (ruleset([TO_PORT, REJECT]), True, "rule 1 of"),
        (ruleset([match(field("udp", "dport"), {"set": [53, 4789]}), DROP]), True, "rule 1 of"),
        (
            ruleset([match(field("udp", "dport"), {"set": [{"range": [4000, 5000]}]}), DROP]),
            True,
            "rule 1 of",
        ),
        (ruleset([match(field("udp", "dport"), 53, "!="), DROP]), True, "rule 1 of"),
        (ruleset([match(meta("l4proto"), "udp"), DROP]), True, "rule 1 of"),
        (
            ruleset([match(field("ip", "saddr"), {"prefix": {"addr": "192.0.2.0", "len": 24}}), DROP]),
            True,
            "1 of",
        ),
        (ruleset([match(meta("iifname"), "eth*"), DROP]), True, "rule 1 of"),
        (ruleset(policy="drop"), True, "the policy of"),
        (ruleset([ESTABLISHED, ACCEPT], policy="drop"), True, "the policy of"),
        (ruleset([match(meta("iifname"), "lo"), ACCEPT], policy="drop"), True, "the policy of"),
        (ruleset([match(field("tcp", "dport"), 4789), ACCEPT], policy="drop"), True, "the policy of"),
        (ruleset([{"jump": {"target": "more"}}], more=[[TO_PORT, DROP]]), True, "rule 1 of"),
        (ruleset([TO_PORT, {"goto": {"target": "more"}}], [ACCEPT], more=[[DROP]]), True, "rule 1 of"),
        (
            ruleset(
                [{"vmap": {"key": field("udp", "dport"), "data": {"set": [[53, ACCEPT], [4789, DROP]]}}}]
            ),
            True,
            "rule 1 of",
        ),
        (ruleset([TO_PORT, LIMIT, ACCEPT], policy="drop"), False, "the policy of"),
        (ruleset([MARKED, ACCEPT], policy="drop"), False, "the policy of"),
        (ruleset([match(field("ip", "saddr"), "@friends"), ACCEPT], [TO_PORT, DROP]), False, "rule 2 of"),
        (ruleset([TO_PORT, MARKED, DROP]), False, "rule 1 of"),
        (ruleset([MARKED, {"jump": {"target": "more"}}], more=[[DROP]]), False, "rule 1 of"),
        (ruleset([{"xt": None}, DROP]), False, "rule 1 of"),
    ],
)
def test_what_drops_is_named_and_whether_that_is_sure(nodes: list[Any], sure: bool, where: str) -> None:
    ((is_sure, text),) = said(nodes)
    assert is_sure == sure
    assert where in text
    assert "table inet filter, chain input (input)" in text


@pytest.mark.parametrize(
    "nodes",
    [
        [],
        ruleset([match(field("udp", "dport"), 53), DROP]),
        ruleset([TO_PORT, ACCEPT], [DROP]),
        ruleset([match(field("ip", "saddr"), "192.0.2.9"), DROP]),
        ruleset([match(field("ip6", "saddr"), "2001:db8::9"), DROP]),
        ruleset([match(meta("iifname"), "eth0"), ACCEPT], policy="drop"),
        ruleset([TO_PORT, {"return": None}], [DROP]),
        ruleset([{"jump": {"target": "more"}}, DROP], more=[[TO_PORT, ACCEPT]]),
        ruleset(
            [{"jump": {"target": "more"}}],
            [TO_PORT, ACCEPT],
            policy="drop",
            more=[[{"return": None}], [DROP]],
        ),
        ruleset([{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["invalid", DROP]]}}}]),
        ruleset([DROP], family="ip6"),
        ruleset([DROP], family="bridge"),
        ruleset([{"jump": {"target": "input"}}]),  # a circle, which nft itself refuses
    ],
)
def test_what_lets_it_in_is_no_finding(nodes: list[Any]) -> None:
    assert said(nodes) == []


def test_families_see_their_own_packets() -> None:
    assert said(ruleset([DROP], family="ip6"), SIX)[0][0]
    assert said(ruleset([DROP], family="ip"), SIX) == []
    assert said(ruleset([match(field("ip6", "nexthdr"), "udp"), DROP]), SIX)[0][0]
    netdev = ruleset([DROP], family="netdev")
    netdev[1]["chain"] |= {"hook": "ingress", "dev": "eth1"}
    assert said(netdev) == []
    assert said(netdev, SIX)


FINDINGS = [Finding("kernel", OK, "Linux 6.18"), Finding("time", WARNING, "is off", "run chrony")]


def test_findings_are_shown_with_what_to_do_and_decide_the_exit_code() -> None:
    lines = doctor.as_text(FINDINGS).splitlines()
    assert lines[0] == "ok       kernel       Linux 6.18"
    assert lines[1:] == ["warning  time         is off", "                      -> run chrony"]
    assert json.loads(doctor.as_json(FINDINGS))[1] == {
        "check": "time",
        "state": "warning",
        "what": "is off",
        "todo": "run chrony",
    }
    assert doctor.exit_code(FINDINGS) == 0
    assert doctor.exit_code([*FINDINGS, Finding("tun", WRONG, "is not there", "modprobe tun")]) == 1


class Release(NamedTuple):
    release: str


@pytest.mark.parametrize(
    ("release", "state", "what"),
    [
        ("6.18.4-1-amd64", OK, "Linux 6.18.4-1-amd64"),
        ("6.1.0-18-amd64", WARNING, "no UDP super-frames"),
        ("4.19.0", WARNING, "no UDP_GRO"),
        ("4.14.0", WRONG, "the settings need 4.18"),
    ],
)
def test_kernels(release: str, state: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.os, "uname", lambda: Release(release))
    (finding,) = host.kernel(Subject())
    assert finding.state == state
    assert what in finding.what


def test_a_kind_of_underlay_needs_its_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.os, "uname", lambda: Release("6.1.0"))
    settings = config.from_mapping({"underlay": {"local": "192.0.2.1", "kind": "tap"}})
    assert "the settings need 6.17" in next(host.kernel(Subject(settings))).what


def test_buffers_that_are_smaller_than_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.ports, "set_buffer", lambda sock, force, ask: sock.setsockopt(1, ask, 100 << 10))
    (finding,) = host.buffers(Subject())
    assert finding.what == "receive buffers are of 100 KiB in the place of 4096"
    assert "net.core.rmem_max=4194304" in finding.todo


@pytest.mark.parametrize(("right", "state"), [(True, OK), (None, OK), (False, WARNING)])
def test_a_clock_that_nobody_keeps_right(
    right: bool | None, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "_is_synchronised", lambda: right)
    assert [each.state for each in host.clock(Subject()) if each.check == "time"] == [state]


def test_a_check_that_cannot_look_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(subject: Subject) -> Iterator[Finding]:
        raise PermissionError(1, "no")
        yield

    monkeypatch.setattr(doctor, "CHECKS", (blind, host.kernel))
    assert [each.check for each in doctor.examine(None)] == ["blind", "kernel"]
