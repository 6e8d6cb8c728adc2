"""The firewall: whether nftables lets our packets in, as far as its rules can be read.

Place in the house: part of doctor, above finding. A packet to our UDP port from a remote is taken through the
rules of each chain that would see it. What a match asks may be known of the packet (it is UDP, to our port)
or not (a mark, a rate, a set): then the rule may apply, and the chain goes on both ways.
"""

from __future__ import annotations

import ipaddress
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vxcore.doctor.finding import OK, WARNING, WRONG, Check, Finding, Subject
from vxcore.ports import IPAddress, device_of

_SEARCH = "/usr/sbin:/sbin:/usr/bin:/bin"
_HOOKS = ("ingress", "prerouting", "input")
_LEGACY = {4: "/proc/net/ip_tables_names", 6: "/proc/net/ip6_tables_names"}
_PAST_IT = {"packet", "xdp"}  # kinds of underlay whose packets do not come so far
_END, _GO_ON = "end", "go on"
_MOST_JUMPS = 16  # as in nftables itself
_MOST_REMOTES = 256

Node = dict[str, Any]


@dataclass(frozen=True)
class Packet:
    """What is known of a packet from a remote, by the names that nft has for it."""

    port: int
    local: IPAddress | None
    remote: IPAddress | None
    device: str | None

    @property
    def version(self) -> int:
        address = self.local or self.remote
        return address.version if address else 4

    def value(self, left: Node) -> Any:
        """What a match looks at; None: it is not known."""
        if "payload" in left:
            return self._payload(left["payload"].get("protocol"), left["payload"].get("field"))
        key = str((left.get("meta") or left.get("ct") or {}).get("key"))
        values: dict[str, Any] = {
            "l4proto": "udp",
            "protocol": "ip" if self.version == 4 else "ip6",
            "nfproto": "ipv4" if self.version == 4 else "ipv6",
            "iifname": self.device,
            "iif": self.device,
            "state": "new",
            "pkttype": "host",
        }
        return values.get(key)

    def _payload(self, protocol: str | None, name: str | None) -> Any:
        mine = "ip" if self.version == 4 else "ip6"
        values: dict[tuple[str, str], Any] = {
            ("udp", "dport"): self.port,
            ("th", "dport"): self.port,
            (mine, "saddr"): self.remote,
            (mine, "daddr"): self.local,
            (mine, "protocol"): "udp",
            (mine, "nexthdr"): "udp",
        }
        return values.get((protocol or "", name or ""))

    def is_other(self, left: Node) -> bool:
        """Whether a match is about a protocol that this packet is not of."""
        others = {
            "tcp",
            "icmp",
            "icmpv6",
            "sctp",
            "dccp",
            "esp",
            "ah",
            "arp",
            "ip6" if self.version == 4 else "ip",
        }
        return left.get("payload", {}).get("protocol") in others


@dataclass
class Walk:
    """A packet's way through one base chain: what becomes of it, and by which rules it may be dropped."""

    chains: dict[str, list[Node]]
    packet: Packet
    may_drop: list[Node] = field(default_factory=list)
    surely: bool = True  # no rule so far may have ended it otherwise
    depth: int = 0

    def run(self, chain: str) -> str:
        """`_END` when the packet surely goes no further in this chain."""
        if self.depth > _MOST_JUMPS:
            return _GO_ON
        self.depth += 1
        for rule in self.chains.get(chain, []):
            outcome = self._rule(rule)
            if outcome in (_END, "return"):
                break
        else:
            outcome = _GO_ON
        self.depth -= 1
        return _GO_ON if outcome == "return" else outcome

    def _rule(self, rule: Node) -> str:
        applies: bool | None = True
        for expression in rule.get("expr", []):
            kind, value = next(iter(expression.items()))
            if kind == "match":
                applies = _both(applies, matches(self.packet, value))
            elif kind in ("limit", "xt", "quota", "ct count"):
                applies = _both(applies, None)
            elif kind == "vmap":
                return self._map(rule, value, applies)
            else:
                outcome = self._verdict(rule, kind, value, applies)
                if outcome != "":
                    return outcome
            if applies is False:
                return _GO_ON
        return _GO_ON

    def _verdict(self, rule: Node, kind: str, value: Any, applies: bool | None) -> str:
        """What a statement does; empty when it is none of those that decide."""
        if kind in ("drop", "reject"):
            self.may_drop.append(rule)
            return self._decided(applies)
        if kind == "accept":
            return self._decided(applies)
        if kind == "return":
            return "return" if applies else _GO_ON
        if kind in ("jump", "goto"):
            return self._into(value["target"], kind, applies)
        return ""

    def _decided(self, applies: bool | None) -> str:
        if applies is None:
            self.surely = False
            return _GO_ON
        return _END

    def _into(self, chain: str, kind: str, applies: bool | None) -> str:
        outcome = self.run(chain)
        if applies is None:
            self.surely = False
            return _GO_ON
        return _END if outcome == _END else ("return" if kind == "goto" else _GO_ON)

    def _map(self, rule: Node, value: Node, applies: bool | None) -> str:
        """What a map of verdicts does: that of the one that is known to apply, or perhaps those of others."""
        known, data = self.packet.value(value["key"]), value["data"]
        for key, verdict in data.get("set", []) if isinstance(data, dict) else []:
            here = _both(applies, None if known is None else _is(known, key))
            if here is False:
                continue
            kind, target = next(iter(verdict.items()))
            outcome = self._verdict(rule, kind, target, here)
            if here and outcome:
                return outcome
        return _GO_ON


def matches(packet: Packet, match: Node) -> bool | None:
    """Whether a match is true of the packet; None if that cannot be known."""
    left = match.get("left")
    if not isinstance(left, dict):
        return None
    if packet.is_other(left):
        return False
    known = packet.value(left)
    if known is None:
        return _without_device(left, match)
    answer = _is(known, match.get("right"))
    if answer is None or match.get("op") not in ("==", "in", "!="):
        return None
    return not answer if match["op"] == "!=" else answer


def _without_device(left: Node, match: Node) -> bool | None:
    """By whichever device it comes, it is not the loopback."""
    of_device = left.get("meta", {}).get("key") in ("iif", "iifname")
    return match.get("op") == "!=" if of_device and match.get("right") == "lo" else None


def _is(known: Any, right: Any) -> bool | None:
    """Whether a value is what nft writes on the right: one, a list, a set, a range, a prefix."""
    if isinstance(right, str) and right.startswith("@"):
        return None
    choices = right.get("set") if isinstance(right, dict) and "set" in right else right
    if isinstance(choices, list):
        answers = [_is(known, each) for each in choices]
        return True if True in answers else (None if None in answers else False)
    if isinstance(right, dict):
        return _in(known, right)
    if isinstance(known, str) and isinstance(right, str) and right.endswith("*"):
        return known.startswith(right[:-1])
    return str(known) == str(right)


def _in(known: Any, right: Node) -> bool | None:
    if "range" in right and isinstance(known, int):
        low, high = right["range"]
        return bool(low <= known <= high)
    if "prefix" in right and not isinstance(known, (int, str)):
        prefix = right["prefix"]
        return known in ipaddress.ip_network(f"{prefix['addr']}/{prefix['len']}", strict=False)
    return None


def _both(one: bool | None, other: bool | None) -> bool | None:
    if one is False or other is False:
        return False
    return None if one is None or other is None else True


# The ruleset


def judge(ruleset: list[Node], packet: Packet) -> Iterator[tuple[bool, str]]:
    """For each base chain that drops the packet: whether that is sure, and by what."""
    base = [each["chain"] for each in ruleset if each.get("chain", {}).get("hook") in _HOOKS]
    for chain in sorted(base, key=lambda chain: _HOOKS.index(chain["hook"])):
        if chain["family"] not in ("inet", "netdev", "ip" if packet.version == 4 else "ip6"):
            continue
        if chain["family"] == "netdev" and packet.device not in (None, chain.get("dev")):
            continue
        yield from _judge_chain(ruleset, chain, packet)


def _judge_chain(ruleset: list[Node], chain: Node, packet: Packet) -> Iterator[tuple[bool, str]]:
    table = chain["family"], chain["table"]
    chains: dict[str, list[Node]] = {}
    for each in ruleset:
        rule = each.get("rule")
        if rule is not None and (rule["family"], rule["table"]) == table:
            chains.setdefault(rule["chain"], []).append(rule)
    walk = Walk(chains, packet)
    ended = walk.run(chain["name"]) == _END
    where = f"table {' '.join(table)}, chain {chain['name']} ({chain['hook']})"
    last = walk.may_drop[-1] if walk.may_drop else None
    if not ended and chain.get("policy") == "drop":
        yield walk.surely, f"the policy of {where}"
    elif last is not None:
        yield walk.surely and ended, f"rule {last['handle']} of {where}"


def firewall(subject: Subject) -> Iterator[Finding]:
    """Rules that would drop what remotes send to our port."""
    if subject.underlay.kind in _PAST_IT:
        text = f'an underlay of kind "{subject.underlay.kind}" receives past the rules for input'
        yield Finding("firewall", OK, text)
        return
    yield from _legacy(subject)
    ruleset = _ruleset()
    if isinstance(ruleset, str):
        yield Finding("firewall", WARNING, ruleset, "look yourself: does it let UDP to our port in?")
        return
    port = subject.underlay.dstport
    found = {each for packet in _packets(subject) for each in judge(ruleset, packet)}
    for sure, where in sorted(found, reverse=True):
        text = f"nftables {'drops' if sure else 'may drop'} UDP to port {port}: {where}"
        rule = f"`nft insert rule FAMILY TABLE CHAIN udp dport {port} accept`"
        yield Finding(
            "firewall", WRONG if sure else WARNING, text, f"see `nft -a list ruleset`; {rule} lets it in"
        )
    if not found:
        yield Finding("firewall", OK, f"nftables lets UDP to port {port} in, as far as its rules can be read")


def _packets(subject: Subject) -> list[Packet]:
    """One from each remote, or at least to each of our addresses; only so many, for they are alike."""
    local = {each.version: each for each in subject.locals}
    ends: list[tuple[IPAddress | None, IPAddress | None]]
    ends = [(local.get(each.version), each) for each in subject.remotes[:_MOST_REMOTES]]
    ends = ends or [(each, None) for each in subject.locals] or [(None, None)]
    devices = {each: subject.underlay.dev or device_of(each) for each in subject.locals}
    port = subject.underlay.dstport
    return [Packet(port, ours, remote, devices.get(ours) if ours else None) for ours, remote in ends]


def _ruleset() -> list[Node] | str:
    """What nft lists; or why that cannot be had."""
    nft = shutil.which("nft", path=_SEARCH)
    if nft is None:
        return "nft is not installed, so rules of nftables, if there are any, cannot be read"
    run = subprocess.run(
        [nft, "-j", "list", "ruleset"], check=False, capture_output=True, text=True, timeout=30
    )
    if run.returncode != 0:
        words = (run.stderr.splitlines() or ["it failed"])[0]
        return f"rules of nftables cannot be read: {words}"
    return list(json.loads(run.stdout or '{"nftables": []}')["nftables"])


def _legacy(subject: Subject) -> Iterator[Finding]:
    for version in {each.version for each in subject.locals} or {4}:
        path = Path(_LEGACY[version])
        if path.exists() and path.read_text().split():
            name = "iptables" if version == 4 else "ip6tables"
            text = f"there are rules of the old {name}, which are not looked at"
            yield Finding("firewall", WARNING, text, f"`{name}-legacy -nvL INPUT` shows them and counts")


CHECKS: tuple[Check, ...] = (firewall,)
