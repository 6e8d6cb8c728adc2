"""What a host has to tell is found whatever else there is on it."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any, Self

import pytest
from support.dry_vtep import DryVtep

from vxcore.addresses import MacAddress
from vxcore.planes import local as local_module
from vxcore.planes.local import Local
from vxcore.told import Endpoint, Member

VTEP = ip_address("192.0.2.1")
MAC = "02:00:00:00:00:01"


class Message(dict[str, Any]):
    """One of rtnetlink's."""

    def get_attr(self, name: str) -> Any:
        return self.get(name)


class Kernel:
    """Devices and addresses, as rtnetlink would tell of them."""

    def __init__(self) -> None:
        self.links = [link(1, "lo", "00:00:00:00:00:00"), link(2, "vx42", MAC)]
        self.addresses: list[tuple[int, str]] = [(2, "10.0.0.1")]

    def __call__(self) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def get_links(self) -> list[Message]:
        return self.links

    def get_addr(self) -> list[Message]:
        return [Message(index=index, IFA_ADDRESS=text) for index, text in self.addresses]

    def get_neighbours(self, family: int = 0) -> list[Message]:
        return []


def link(number: int, name: str, mac: str) -> Message:
    return Message(index=number, flags=1, IFLA_IFNAME=name, IFLA_ADDRESS=mac)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(local_module, "IPRoute", kernel)
    return kernel


@pytest.fixture
def local(kernel: Kernel) -> Iterator[Local]:
    with DryVtep({"segment": [{"vni": 42, "tap": "vx42", "remotes": []}]}) as vtep:
        yield Local(vtep, lambda: None)


def own(*addresses: str, mac: str = MAC) -> Endpoint:
    return Endpoint(vni=42, mac=MacAddress(mac), vtep=VTEP, addresses=tuple(map(ip_address, addresses)))


@pytest.mark.parametrize("text", ["224.1.1.1", "::ffff:10.0.0.9", "0.0.0.0", None])
def test_an_address_that_is_no_hosts_is_passed_over(kernel: Kernel, local: Local, text: str) -> None:
    kernel.addresses += [(1, "127.0.0.1"), (1, text), (2, text)]
    local.look()
    assert local.now() == {Member(42, VTEP), own("10.0.0.1")}


def test_a_device_without_a_hosts_mac_address_is_passed_over(kernel: Kernel, local: Local) -> None:
    kernel.links[1] = link(2, "vx42", "00:00:00:00:00:00")
    local.look()
    assert local.now() == {Member(42, VTEP)}


def test_what_was_known_stays_when_a_source_fails(local: Local, caplog: pytest.LogCaptureFixture) -> None:
    local.look()
    before = local.now()
    local._sources.append(lambda: [own(mac="ff:ff:ff:ff:ff:ff")])
    local.look()
    assert local.now() == before
    assert "who is behind the overlay ports is not known: ff:ff:ff:ff:ff:ff is a group" in caplog.text
