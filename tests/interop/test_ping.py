"""`vxcore ping`: a host of a segment, and the VTEP that it is behind, beside the kernel's vxlan device."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from support.hosts import Host, Lan, VtepProcess

pytestmark = pytest.mark.usefixtures("root", "nothing_is_left")
VXCORE = (sys.executable, "-m", "vxcore")


@pytest.fixture
def pair() -> Iterator[tuple[Host, Host, VtepProcess]]:
    with Lan(2) as lan:
        one, two = lan.hosts
        two.kernel_vxlan([one])
        yield one, two, lan.vtep(one)


def ping(host: Host, *words: str, code: int = 0) -> dict[str, Any]:
    done = host.run(*VXCORE, "ping", *words, "--json", check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("target", ["10.42.0.2", "fd42::2"])
def test_a_host_answers_and_its_vtep_does(pair: tuple[Host, Host, VtepProcess], target: str) -> None:
    one, two, _ = pair
    found = ping(one, "42", target)
    assert found["mac"] == two.mac("vx42")
    assert found["remote"] == two.v4
    assert len(found["overlay_ms"]) == len(found["underlay_ms"]) == 3
    assert all(0 < each < 1000 for each in found["overlay_ms"] + found["underlay_ms"])
    assert found["full"] == {"bytes": 1464, "arrives": True}


def test_by_link_address_and_in_words(pair: tuple[Host, Host, VtepProcess]) -> None:
    one, two, _ = pair
    one.ping("10.42.0.2", count=1)
    shown = one.run(
        *VXCORE, "ping", "42", two.mac("vx42"), "-c", "2", "--from", "10.42.0.1"
    ).stdout.splitlines()
    assert shown[0].endswith(f" is at {two.mac('vx42')}, behind {two.v4}")
    assert shown[1].startswith("overlay: 2 of 2 answered; ")
    assert shown[2].startswith("underlay: 2 of 2 answered; ")
    assert shown[3] == "a frame of 1464 bytes, the device's MTU of 1450, arrives"


def test_what_does_not_arrive_is_told(pair: tuple[Host, Host, VtepProcess]) -> None:
    one, two, _ = pair
    nobody = ping(one, "42", "10.42.0.99", "-c", "1", "-i", "0", "-W", "0.1", code=1)
    assert (nobody["mac"], nobody["overlay_ms"], nobody["remote"]) == (None, [None], None)
    shown = one.run(*VXCORE, "ping", "42", "10.42.0.99", "-c", "1", check=False).stdout.splitlines()
    assert shown[1:] == [
        "overlay: 0 of 1 answered",
        "see `vxcore show drops`, here and at the other VTEP, and `vxcore trace --dropped`",
    ]
    one.ip("link", "set", "vx42", "mtu", "1500")  # more than the route takes, and hosts go by it
    found = ping(one, "42", "10.42.0.2", "-c", "1", code=1)
    assert found["full"] == {"bytes": 1514, "arrives": False}
    one.ip("link", "set", "vx42", "mtu", "1450")
    two.ip("link", "set", "eth", "mtu", "1400")
    narrow = ping(one, "42", "10.42.0.2", "-c", "1", code=1)
    assert narrow["overlay_ms"][0] is not None
    assert narrow["full"] == {"bytes": 1464, "arrives": False}


def test_a_vtep_on_the_underlay(pair: tuple[Host, Host, VtepProcess]) -> None:
    one, two, _ = pair
    for address in (two.v4, two.v6):
        found = ping(one, "--vtep", address, "-c", "2")
        assert found["is_remote"] == (address == two.v4)
        assert all(0 < each < 1000 for each in found["underlay_ms"])
        assert found["full"] == {"bytes": 1500, "arrives": True}
    two.ip("link", "set", "eth", "mtu", "1400")
    assert not ping(one, "--vtep", two.v4, code=1)["full"]["arrives"]


def test_mistakes_are_told_in_one_line(pair: tuple[Host, Host, VtepProcess]) -> None:
    one, _, _ = pair
    for words, said in (
        (("42",), "give a VNI and a host's address"),
        (("43", "10.42.0.2"), "VNI 43: there is no such segment"),
        (("10.42.0.2", "42"), "10.42.0.2: the number of a segment"),
        (("42", "02:00:00:00:00:99"), "neither the VTEP nor this host knows an IP address of it"),
        (("42", "nonsense"), "nonsense is not a MAC address"),
        (("--vtep", "198.51.100.1"), "no route to"),
        (("42", "10.42.0.2", "--interval", "-1"), "'-1' is not allowed; seconds from 0 to 30"),
        (("42", "10.42.0.2", "--interval", "nan"), "'nan' is not allowed"),
    ):
        done = one.run(*VXCORE, "ping", *words, check=False)
        assert done.returncode in (1, 2), done.stdout
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert said in done.stderr
