"""What stands in the store is read strictly, and what others say is told apart from what is ours."""

from __future__ import annotations

import json
import subprocess
import sys
from ipaddress import ip_address
from typing import Any

import pytest
from msgspec import structs

from vxcore import config
from vxcore.addresses import MacAddress
from vxcore.errors import ConfigError
from vxcore.planes.etcd.book import Book
from vxcore.planes.etcd.records import Claim, RecordError, claim_key, key_of, read, value_of
from vxcore.planes.etcd.store import Change, Entry
from vxcore.told import Endpoint, Member

OURS, THEIRS = ip_address("192.0.2.1"), ip_address("2001:db8::2")
MAC = MacAddress("02:00:00:00:00:01")
MEMBER = Member(42, THEIRS)
ENDPOINT = Endpoint(
    vni=42, mac=MAC, vtep=THEIRS, addresses=(ip_address("10.0.0.1"),), sequence=7, sticky=True, router=True
)
KEY = f"endpoints/42/{MAC}"


@pytest.mark.parametrize("route", [MEMBER, ENDPOINT, Endpoint(vni=0, mac=MAC, vtep=OURS)])
def test_a_route_is_read_as_it_was_written(route: Member | Endpoint) -> None:
    assert read(key_of(route), value_of(route)) == route


def test_of_too_many_addresses_the_first_are_written() -> None:
    addresses = tuple(ip_address(f"10.0.{n >> 8}.{n & 255}") for n in range(1, 400))
    route = Endpoint(vni=42, mac=MAC, vtep=OURS, addresses=addresses)
    assert read(key_of(route), value_of(route)) == structs.replace(route, addresses=addresses[:256])


def test_a_claim_is_read_as_it_was_written() -> None:
    claim = Claim(owner="x", host="h", vxcore="1")
    assert read(claim_key(THEIRS), value_of(claim)) == claim


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("", b"{}", "there are no such keys"),
        ("vteps", b"{}", "there are no such keys"),
        ("segments/42", b"{}", "there are no such keys"),
        ("segments/x/192.0.2.9", b"{}", "its VNI is no number"),
        ("segments/-1/192.0.2.9", b"{}", "its VNI is no number"),
        ("segments/\u0662/192.0.2.9", b"{}", "its VNI is no number"),
        ("segments/16777216/192.0.2.9", b"{}", "its VNI is above 16777215"),
        ("segments/042/192.0.2.9", b"{}", "it is written 42"),
        ("segments/42/2001:DB8::9", b"{}", "it is written 2001:db8::9"),
        ("segments/42/239.1.1.1", b"{}", "239.1.1.1 is an IP multicast group"),
        ("vteps/192.0.2.9", b"{}", "Object missing required field `owner`"),
        ("endpoints/42/02-00-00-00-00-01", b'{"vtep":"192.0.2.9"}', "it is written 02:00:00:00:00:01"),
        ("endpoints/42/01:00:00:00:00:01", b'{"vtep":"192.0.2.9"}', "is a group address"),
        (KEY, b'{"vtep":"192.0.2.9","sequence":4294967296}', "sequence 4294967296"),
        (KEY, b'{"vtep":"192.0.2.9","addresses":"10.0.0.1"}', "Expected `array`, got `str`"),
        (KEY, b'{"vtep":"192.0.2.9","addresses":["0.0.0.0"]}', "0.0.0.0"),
        (KEY, b'{"vtep":7}', "7 is not a string"),
        (KEY, b"\xff\xfe", "JSON is malformed"),
        (KEY, b"[" * 100_000, "a value of 100000 bytes"),
        (KEY, b"[" * 60_000, ""),
        (KEY, b'{"vtep":"192.0.2.9","x":' + b"[" * 60_000, "nested too deep"),
        ("vteps/a\n\x1b[2J", b"{}", "a\\n\\x1b[2J is not an IP address"),
        (KEY, b'{"vtep":"' + b"9" * 60_000 + b'"}', "9" * 200 + "..."),
        (KEY, json.dumps({"vtep": "192.0.2.9", "addresses": ["10.0.0.1"] * 300}).encode(), "300 addresses"),
    ],
)
def test_what_is_none_of_these_is_refused_with_the_reason(key: str, value: bytes, why: str) -> None:
    with pytest.raises(RecordError) as raised:
        read(key, value)
    assert why in str(raised.value)


def entry(record: Any, revision: int, lease: int = 9) -> Entry:
    key = claim_key(OURS) if isinstance(record, Claim) else key_of(record)
    return Entry(key, value_of(record), lease, revision)


def test_news_is_what_has_changed_of_others() -> None:
    book = Book([OURS])
    ours = Endpoint(vni=42, mac=MacAddress("02:00:00:00:00:02"), vtep=OURS)
    assert book.replace([entry(MEMBER, 3), entry(ours, 4)]) == [MEMBER]
    assert book.update([entry(ENDPOINT, 5), entry(MEMBER, 5)]) == ([ENDPOINT], [])
    moved = Endpoint(vni=42, mac=MAC, vtep=ip_address("192.0.2.3"))
    assert book.update([entry(moved, 6)]) == ([moved], [ENDPOINT])
    assert book.update([entry(ENDPOINT, 5)]) == ([], [])  # was before
    assert book.update([Entry(KEY, b"junk", 9, 7)]) == ([], [moved])
    assert [trouble.what for trouble in book.ignored] == [KEY]
    assert book.update([Entry(key_of(MEMBER), None, 0, 8), Entry(KEY, None, 0, 8)]) == ([], [MEMBER])
    assert book.ignored == []


def test_changes_are_of_our_keys_alone() -> None:
    book = Book([OURS])
    wanted = Endpoint(vni=42, mac=MAC, vtep=OURS)
    left = Member(43, OURS)
    old = entry(Member(42, OURS), 3, lease=8)
    book.replace([entry(left, 2), old, entry(MEMBER, 4), Entry(KEY, b"junk", 0, 5)])
    values = {each.key: each.value or b"" for each in (entry(wanted, 0), old)}
    assert book.changes(values, OURS, 9) == [
        Change(KEY, value_of(wanted), 5),  # in the place of what means nothing
        Change(old.key, old.value, 3),  # under the lease of now
        Change(key_of(left), None, 2),
    ]
    book.update([entry(ENDPOINT, 6)])
    assert book.conflicts(values, OURS) == {KEY: str(THEIRS)}
    assert KEY not in {change.key for change in book.changes(values, OURS, 9)}


@pytest.mark.parametrize(
    ("etcd", "why"),
    [
        ({}, "etcd.urls: missing; a list of URLs"),
        ({"urls": []}, "etcd.urls: [] is not allowed; a list of URLs"),
        ({"urls": ["192.0.2.1:2379"]}, 'etcd.urls[0]: "192.0.2.1:2379" is not allowed; a URL such as'),
        ({"urls": ["http://a:0"]}, 'etcd.urls[0]: "http://a:0" has no such port; a port from 1 to 65535'),
        ({"urls": ["http://a"], "lease": 1}, "etcd.lease: 1 is not allowed; an integer from 2 to 86400"),
        ({"urls": ["http://a"], "prefix": "/x/"}, 'etcd.prefix: "/x/" is not allowed; a path without'),
        ({"urls": ["https://a"], "key": "k"}, 'etcd.key: "k" and no cert; both, or neither of them'),
        ({"urls": ["http://a"], "user": "u"}, 'etcd.user: "u" and no password_file; both, or neither'),
        (
            {"urls": ["https://a", "http://b"], "ca": "c"},
            'etcd.urls[1]: "http://b" is in the clear, and there is ca',
        ),
    ],
)
def test_settings_that_cannot_be_are_named(etcd: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config.from_mapping({"underlay": {"local": "192.0.2.1"}, "etcd": etcd})
    assert str(raised.value).startswith(why)


def test_without_the_client_the_message_says_what_brings_it() -> None:
    program = "import sys; sys.modules['etcd3gw'] = None; import vxcore.planes.etcd.store"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "[etcd] needs etcd3gw: `pip install 'vxcore[etcd]'` brings it" in done.stderr


def test_who_has_no_table_etcd_does_not_load_the_client() -> None:
    program = "import sys; import vxcore.daemon, vxcore.planes.serving; assert 'requests' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
