"""Hosts with vxcore and GoBGP each, whose routes a third one reflects: what goes wrong, what is imported."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from support.evpn import HERE, MOVED, THERE, Triangle
from support.hosts import namespaces_of_this_process, wait_until

pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture(scope="module")
def made(root: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triangle]:
    with ExitStack() as stack:
        yield Triangle(stack, tmp_path_factory.mktemp("triangle"))
    assert namespaces_of_this_process() == []


@pytest.fixture
def both(made: Triangle) -> Triangle:
    """The guests are who they are, and have been heard of."""
    for guest, mac in zip(made.guests, (HERE, THERE), strict=True):
        guest.has(mac)
        guest.speaks()
    made.meet()
    return made


def test_when_the_speaker_is_gone_traffic_goes_on_and_then_it_is_asked_for_all(both: Triangle) -> None:
    (one, two), (_, there) = both.sites, both.guests
    for site, speaker in zip(both.sites, both.speakers, strict=True):
        speaker.kill()
        site.becomes("stale")
    both.ping()
    assert one.route(THERE)["state"] == "used"
    there.has(MOVED)
    there.speaks()
    two.host.run("bridge", "fdb", "del", THERE, "dev", "c12", "master")  # as when its time is over
    for speaker in both.speakers:
        speaker.start("-r")  # to the reflector it says that it has been there before
    one.hears(MOVED)
    for site in both.sites:
        site.becomes("connected")
    one.hears_nothing_of(THERE)
    two.hears(HERE, state="used")
    both.ping()
    assert one.plane["counts"]["restarts"] >= 1


def test_a_speaker_that_is_silent_is_as_one_that_is_gone(both: Triangle) -> None:
    one, speaker = both.sites[0], both.speakers[0].process
    assert speaker is not None
    speaker.send_signal(signal.SIGSTOP)
    one.becomes("stale")
    assert one.plane["reason"] == "it does not answer"
    both.ping()
    speaker.send_signal(signal.SIGCONT)
    one.becomes("connected")


def test_what_a_killed_process_left_with_the_speaker_is_taken_on_or_back(both: Triangle) -> None:
    one, two = both.sites
    two.vtep.process.kill()
    two.vtep.process.wait()
    both.guests[1].has(MOVED)
    two.host.run("bridge", "fdb", "del", THERE, "dev", "c12", "master")
    assert one.route(THERE)["state"] == "used"  # nobody has taken it back
    two.start()
    both.guests[1].speaks()
    one.hears(MOVED, state="used", sequence=0)
    one.hears_nothing_of(THERE)


def test_routes_are_imported_by_their_targets(both: Triangle) -> None:
    one, two = both.sites
    two.restart(
        '[[evpn.segment]]\nvni = 42\nexports = ["65000:4242"]\nimports = ["65000:4242", "192.0.2.9:7"]\n'
    )
    two.becomes("connected")
    one.hears_nothing_of(THERE)
    assert two.show("route") == []
    assert two.plane["counts"]["not_imported"] >= 2
    one.restart('asn = 64999\n[[evpn.segment]]\nvni = 42\nimports = ["65000:42", "65000:4242"]\nrd = "7:1"\n')
    one.hears(THERE, state="used")
    wait_until(lambda: any("[rd:7:1]" in line for line in both.speakers[1].routes()), "all routes are there")
    assert [line for line in both.speakers[1].routes() if "[rd:7:1]" in line and "64999:42" in line]
    assert two.show("route") == []
    for site in both.sites:
        site.restart("")


def test_what_cannot_be_used_is_named_and_counted(both: Triangle) -> None:
    one, _ = both.sites
    reflector = both.reflector
    mac, rd = "02:00:00:00:77:01", "rd 192.0.2.3:9 rt 65000:42 encap"
    add = ("global", "rib", "-a", "evpn", "add")
    lines = {
        f"macadv {mac} 224.0.0.9 etag 0 label 42 {rd} vxlan": "address",
        f"macadv 03:00:00:00:77:02 10.42.0.7 etag 0 label 42 {rd} vxlan": "mac",
        f"macadv {mac} 10.42.0.8 etag 9 label 42 {rd} vxlan": "ethernet_tag",
        f"macadv {mac} 10.42.0.9 etag 0 label 42 {rd} mpls": "encapsulation",
        f"macadv {mac} 10.42.0.10 etag 0 label 0 {rd} vxlan": "vni",
        f"macadv {mac} 10.42.0.11 esi LACP aa:bb:cc:dd:ee:ff 1 etag 0 label 42 {rd} vxlan": "multihoming",
        f"multicast 192.0.2.3 etag 0 {rd} vxlan": "tunnel",
        f"prefix 10.0.0.0/8 etag 0 label 42 {rd} vxlan": "other_type",
        f"a-d esi LACP aa:bb:cc:dd:ee:ff 1 etag 0 label 42 {rd} vxlan": "other_type",
    }
    for line in lines:
        reflector(*add, *line.split(), "nexthop", "192.0.2.3")
    wanted = {f"ignored_{name}" for name in lines.values()}
    wait_until(lambda: wanted <= set(one.plane["counts"]), f"{wanted} are counted")
    assert len(one.troubles()) >= len(wanted)
    assert one.route(mac) == {}
    both.ping()


def test_an_upgrade_takes_nothing_back(both: Triangle) -> None:
    """The last of these tests: the process that it ends with is nobody's child."""
    _, two = both.sites
    announced = two.plane["announced"]
    with both.speakers[0].following() as lines:
        two.command("upgrade")
        two.becomes("connected")
        wait_until(lambda: two.plane["announced"] == announced, "the new process announces the same")
        both.ping()
    assert not [line for line in lines if line.startswith("[DELROUTE]")], lines
