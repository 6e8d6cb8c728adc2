"""Settings: what is accepted, and the exact words for what is not."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from vxcore import config
from vxcore.errors import ConfigError

GOOD = """\
[underlay]
local = "192.0.2.1"

[[segment]]
vni = 42
tap = "vx42"
remotes = ["192.0.2.2"]
"""
INTEGER_VNI = "an integer from 0 to 16777215"
DEVICE = "a device name of 1 to 15 ASCII characters without / : % and white space"
LISTEN = 'an IP address and a TCP port such as "127.0.0.1:9464" or "[::1]:9464"'
MAC = "a unicast MAC address such as 02:00:00:00:00:01"


def message(tmp_path: Path, text: str | bytes) -> str:
    """What is said of a file, from its line number on."""
    file = tmp_path / "vx.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as caught:
        config.load(file)
    said = str(caught.value)
    assert said.startswith(f"{file}:")
    assert "\n" not in said
    return said.removeprefix(f"{file}:").strip()


def test_a_good_file(tmp_path: Path) -> None:
    file = tmp_path / "vx.toml"
    file.write_text(GOOD + 'fdb = [{ mac = "02-AA-00-00-00-01", remote = "192.0.2.3" }]\nageing = 0\n')
    settings = config.load(file)
    assert settings.underlay.local == (ip_address("192.0.2.1"),)
    (segment,) = settings.segments
    assert (segment.vni, segment.tap, segment.ageing, segment.learning) == (42, "vx42", 0, True)
    assert segment.remotes == (ip_address("192.0.2.2"),)
    assert segment.fdb[0].mac == "02:aa:00:00:00:01"
    assert segment.fdb[0].mac.packed == b"\x02\xaa\0\0\0\x01"
    assert (settings.underlay.dstport, settings.underlay.srcport) == (4789, (49152, 65535))


CHANGED = [
    (
        "[underlay]",
        '[control]\nsocket = "x"\n[underlay]',
        '2: control.socket: "x" is not allowed; a path with a /, such as "/run/vxcore/blue.sock", or "none"',
    ),
    (
        "vni = 42",
        'vni = 42\nfdb = [{ mac = "02:00:00:00:00:01", remote = "192.0.2.2", kind = "odd" }]',
        '6: segment[0].fdb[0].kind: "odd" is not allowed; "control" or "static" or "sticky"',
    ),
    (
        "vni = 42",
        'vni = 42\nfdb = [{ mac = "02:00:00:00:00:01", remote = "192.0.2.2", sequence = 3 }]',
        "6: segment[0].fdb[0].sequence: 3 is the sequence number of a static entry;"
        ' kind "control" or "sticky" has one',
    ),
    ("42\n", "16777216\n", f"5: segment[0].vni: 16777216 is not allowed; {INTEGER_VNI}"),
    ("vni = 42", 'vni = "42"', f'5: segment[0].vni: "42" is not allowed; {INTEGER_VNI}'),
    ("vni = 42\n", "", f"4: segment[0].vni: missing; {INTEGER_VNI}"),
    ("vni", "vnii", "5: segment[0].vnii: unknown key; did you mean vni?"),
    ("[underlay]", '[underlay]\nreservd = "x"', "2: underlay.reservd: unknown key; did you mean reserved?"),
    (
        "0.2.2",
        "0.2.1",
        '7: segment[0].remotes[0]: "192.0.2.1" is a local address; a VTEP cannot be its own remote',
    ),
    (
        "192.0.2.2",
        "2001:db8::1",
        '7: segment[0].remotes[0]: "2001:db8::1" is IPv6 and no local address is; IPv4 remotes only,'
        " or add a local address",
    ),
    (
        "192.0.2.2",
        "239.1.1.1",
        '7: segment[0].remotes[0]: "239.1.1.1" is an IP multicast group; the address of one host;'
        " a segment's group is its key `group`",
    ),
    (
        "192.0.2.2",
        "0.0.0.0",
        '7: segment[0].remotes[0]: "0.0.0.0" is the unspecified address; the address of one host',
    ),
    ("192.0.2.2", "x", '7: segment[0].remotes[0]: "x" is not an IP address; an IPv4 or IPv6 address'),
    ('2"]', '2", "192.0.2.2"]', '7: segment[0].remotes[1]: "192.0.2.2" is there twice; each remote once'),
    ("vx42", "a/b", f'6: segment[0].tap: "a/b" is not allowed; {DEVICE}'),
    ("vx42", "abcdefghijklmnop", f'6: segment[0].tap: "abcdefghijklmnop" is not allowed; {DEVICE}'),
    (
        "local =",
        "srcport = [5, 4]\nlocal =",
        "2: underlay.srcport: [5, 4] is an empty range; the first must not be above the last",
    ),
    (
        "local =",
        'df = "inherit"\nlocal =',
        '2: underlay.df: "inherit" is not allowed; "unset" or "set"'
        ' ("inherit" is not possible on a UDP socket)',
    ),
    (
        "local =",
        "ttl = 256\nlocal =",
        '2: underlay.ttl: 256 is not allowed; an integer from 0 to 255 or "inherit"',
    ),
    (
        "local =",
        "source_ports = 9\nsrcport = [1, 8]\nlocal =",
        "2: underlay.source_ports: 9 is more than the range srcport holds; an integer from 1 to 8",
    ),
    (
        '"192.0.2.1"',
        '["192.0.2.1", "192.0.2.3"]',
        '2: underlay.local[1]: "192.0.2.3" is a second IPv4 address; at most one of each family',
    ),
    (
        "192.0.2.1",
        "fe80::1",
        '2: underlay.local: "fe80::1" is link-local and no device is named; set dev, or use a global address',
    ),
]


def test_a_port_may_be_written_short_or_long(tmp_path: Path) -> None:
    file = tmp_path / "vx.toml"
    for text, kind, dev in [
        ('tap = "vx42"', "tap", "vx42"),
        ('port = { kind = "tap", dev = "vx7" }', "tap", "vx7"),
        ('port = { kind = "packet", dev = "veth0" }', "packet", "veth0"),
    ]:
        file.write_text(GOOD.replace('tap = "vx42"', text))
        (segment,) = config.load(file).segments
        assert [(port.kind, port.dev) for port in segment.overlays] == [(kind, dev)]


def port(text: str) -> tuple[str, str]:
    return 'tap = "vx42"\n', f"port = {text}\n"


KINDS = '"packet" or "tap" or "xdp"'
CHANGED += [
    ('tap = "vx42"\n', "", "4: segment[0].tap: missing; a segment needs it, or a port of another kind"),
    (
        "remotes",
        'port = { kind = "packet", dev = "veth0" }\nremotes',
        "7: segment[0].port: there is tap as well; one of the two",
    ),
    (*port("3"), '6: segment[0].port: 3 is not allowed; a table such as { kind = "packet", dev = "veth0" }'),
    (*port('{ dev = "a" }'), f"6: segment[0].port.kind: missing; {KINDS}"),
    (*port('{ kind = "tab", dev = "a" }'), f'6: segment[0].port.kind: "tab" is not allowed; {KINDS}'),
    (*port('{ kind = "tap" }'), f"6: segment[0].port.dev: missing; {DEVICE}"),
    (*port('{ kind = "tap", dev = "a/b" }'), f'6: segment[0].port.dev: "a/b" is not allowed; {DEVICE}'),
    (
        *port('{ kind = "tap", device = "a" }'),
        "6: segment[0].port.device: unknown key; did you mean dev?",
    ),
    (
        *port('{ kind = "packet", dev = "veth0" }\nmtu = 1400'),
        "7: segment[0].mtu: 1400 is for veth0, which exists and has an MTU; leave it out, and see"
        " `ip link set veth0 mtu N`",
    ),
    (
        "[underlay]",
        '[underlay]\ndev = "vx42"',
        '7: segment[0].tap: "vx42" is the device of the underlay; the device that leads to the segment\'s'
        " hosts",
    ),
]


@pytest.mark.parametrize(("old", "new", "expected"), CHANGED)
def test_one_thing_wrong_is_named_with_its_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    assert message(tmp_path, GOOD.replace(old, new, 1)) == expected


ADDED = [
    (
        '[[segment]]\nvni=42\ntap="b"\n',
        "9: segment[1].vni: 42 is the VNI of segment[0]; each segment has its own",
    ),
    (
        '[[segment]]\nvni=43\nport={kind="packet", dev="vx42"}\n',
        '10: segment[1].port.dev: "vx42" is the device of segment[0]; each segment has its own,'
        " or a vlan of it",
    ),
    (
        '[[segment]]\nvni=43\ntap="vx42"\n',
        '10: segment[1].tap: "vx42" is the device of segment[0]; each segment has its own, or a vlan of it',
    ),
    (
        'fdb=[{mac="01:00:5e:00:00:01", remote="192.0.2.2"}]\n',
        f'8: segment[0].fdb[0].mac: "01:00:5e:00:00:01" is a group address; {MAC}',
    ),
    ('fdb=[{mac="zz", remote="192.0.2.2"}]\n', f'8: segment[0].fdb[0].mac: "zz" is not a MAC address; {MAC}'),
    (
        'fdb=[{mac="02:00:00:00:00:01"}]\n',
        "8: segment[0].fdb[0].remote: missing; an IPv4 or IPv6 address",
    ),
    (
        'fdb=[{mac="02:00:00:00:00:01", remote="192.0.2.2"},\n'
        '{mac="02-00-00-00-00-01", remote="192.0.2.2"}]\n',
        '9: segment[0].fdb[1].mac: "02-00-00-00-00-01" is there twice; one remote for each MAC address',
    ),
    ("mtu = 67\n", "8: segment[0].mtu: 67 is not allowed; an integer from 68 to 65485"),
    (
        '[metrics]\nlisten = "localhost:9464"\n',
        f'9: metrics.listen: "localhost:9464" is no address with a port; {LISTEN}',
    ),
    (
        '[metrics]\nlisten = "::1:9464"\n',
        f'9: metrics.listen: "::1:9464" is no address with a port; {LISTEN}',
    ),
    ("[metrics]\nlisten = 9464\n", f"9: metrics.listen: 9464 is not a string; {LISTEN}"),
    ('[log]\nformat = "xml"\n', '9: log.format: "xml" is not allowed; "json" or "text"'),
    ('[process]\nuser = "a b"\n', '9: process.user: "a b" is not allowed; a user\'s name'),
    ("[metrics]\nport = 9464\n", "9: metrics.port: unknown key; known are listen, segments, remotes"),
    ("learning = 1\n", "8: segment[0].learning: 1 is not allowed; true or false"),
]


@pytest.mark.parametrize(("added", "expected"), ADDED)
def test_one_thing_too_many_is_named_with_its_line(tmp_path: Path, added: str, expected: str) -> None:
    assert message(tmp_path, GOOD + added) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "segment: missing; one [[segment]] table or more"),
        ("segment = 3\n", "1: segment: 3 is not allowed; one [[segment]] table or more"),
        ("[segment]\nvni = 1\n", "1: segment: a table is not allowed; one [[segment]] table or more"),
        ("a = 1\nx = \n", "2:5: not TOML: Invalid value"),
        (b"a = 1\nb = '\xff'\n", "2: not TOML: byte 11 is not UTF-8 text"),
    ],
)
def test_what_is_no_settings_file(tmp_path: Path, text: str | bytes, expected: str) -> None:
    assert message(tmp_path, text) == expected


@pytest.mark.parametrize(("make", "why"), [(False, "No such file or directory"), (True, "Is a directory")])
def test_what_cannot_be_read(tmp_path: Path, make: bool, why: str) -> None:
    path = tmp_path / "there"
    if make:
        path.mkdir()
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert str(caught.value) == f"{path}: cannot be read: {why}"


OPTIONS: dict[str, Any] = {"vni": 42, "tap": "vx42", "local": ["192.0.2.1"], "remotes": ["192.0.2.2"]}


def test_every_option_reaches_the_settings() -> None:
    given: dict[str, Any] = {
        **OPTIONS,
        "fdb": ["02:00:00:00:00:01=192.0.2.3"],
        "learning": False,
        "ageing": 7,
        "maxaddress": 8,
        "mtu": 1400,
        "dstport": 8472,
        "srcport": [50000, 50010],
        "source_ports": 5,
        "ttl": "inherit",
        "tos": 32,
        "df": "set",
        "udpcsum": True,
        "udp6zerocsumtx": True,
        "udp6zerocsumrx": True,
        "dev": "eth0",
    }
    settings = config.from_arguments({**given, "verbose": True, "file": None})
    (segment,) = settings.segments
    for name, value in given.items():
        holder = segment if hasattr(segment, name) else settings.underlay
        got = getattr(holder, name)
        if name in ("local", "remotes"):
            assert got == tuple(map(ip_address, value))
        elif name == "fdb":
            assert (got[0].mac, got[0].remote) == ("02:00:00:00:00:01", ip_address("192.0.2.3"))
        else:
            assert got == (tuple(value) if isinstance(value, list) else value), name


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("vni", 99999999, f"--vni 99999999: {INTEGER_VNI}"),
        ("vni", "x", f"--vni x: {INTEGER_VNI}"),
        ("tap", "", f'--tap "": {DEVICE}'),
        ("tap", None, "--tap: missing; a segment needs it, or a port of another kind"),
        ("port", "packet=veth0", "--port: there is tap as well; one of the two"),
        ("port", "veth0", "--port veth0: KIND=DEV such as packet=veth0"),
        ("port", "pocket=veth0", f"--port pocket=veth0: {KINDS}"),
        ("port", "packet=", f"--port packet=: {DEVICE}"),
        ("local", ["nonsense"], "--local nonsense: is not an IP address; an IPv4 or IPv6 address"),
        ("srcport", [5, 4], "--srcport 5 4: is an empty range; the first must not be above the last"),
        ("srcport", ["a", "b"], "--srcport a: an integer from 1 to 65535"),
        ("ttl", "x", '--ttl x: an integer from 0 to 255 or "inherit"'),
        ("tos", -1, '--tos -1: an integer from 0 to 255 or "inherit"'),
        ("df", "inherit", '--df inherit: "unset" or "set" ("inherit" is not possible on a UDP socket)'),
        ("fdb", ["x"], "--fdb x: MAC=REMOTE such as 02:00:00:00:00:01=192.0.2.2"),
        (
            "fdb",
            ["02:00:00:00:00:01=y"],
            "--fdb 02:00:00:00:00:01=y: is not an IP address; an IPv4 or IPv6 address",
        ),
        ("mtu", 10, "--mtu 10: an integer from 68 to 65485"),
        ("ageing", -1, "--ageing -1: an integer from 0 to 524287"),
        ("source_ports", 0, "--source-ports 0: an integer from 1 to 1024"),
        ("log_format", "xml", '--log-format xml: "json" or "text"'),
        ("metrics", "127.0.0.1", f"--metrics 127.0.0.1: is no address with a port; {LISTEN}"),
        ("metrics", "127.0.0.1:70000", f"--metrics 127.0.0.1:70000: is no address with a port; {LISTEN}"),
        ("dstport", 70000, "--dstport 70000: an integer from 1 to 65535"),
    ],
)
def test_a_wrong_option_is_named_as_it_was_typed(name: str, value: object, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.from_arguments({**OPTIONS, name: value})
    assert str(caught.value) == expected


def test_a_port_of_another_kind_than_tap() -> None:
    (segment,) = config.from_arguments({**OPTIONS, "tap": None, "port": "packet=veth0"}).segments
    assert (segment.tap, segment.overlays) == (None, (config.Port(kind="packet", dev="veth0"),))


def test_metrics_are_off_unless_asked_for_and_listen_on_loopback_unless_told_where() -> None:
    assert config.from_arguments(OPTIONS).metrics is None
    for given, listen in ((True, "127.0.0.1:9464"), ("[2001:0DB8::1]:80", "[2001:db8::1]:80")):
        metrics = config.from_arguments({**OPTIONS, "metrics": given}).metrics
        assert metrics is not None
        assert metrics.listen == listen
    assert metrics.listen.ends == (ip_address("2001:db8::1"), 80)


def test_a_small_range_of_source_ports_needs_no_second_option() -> None:
    assert config.from_arguments({**OPTIONS, "srcport": [50000, 50003]}).underlay.source_ports == 4


# Ports that are shared, and several of one segment

SECOND = """
[[segment]]
vni = 43
tap = "vx42"
"""


def test_segments_may_share_a_tap_by_vlan(tmp_path: Path) -> None:
    file = tmp_path / "vx.toml"
    file.write_text(GOOD + "vlan = 10" + SECOND + "vlan = 20" + SECOND.replace("43", "44"))
    ports = [segment.overlays for segment in config.load(file).segments]
    assert ports == [(config.Port(kind="tap", dev="vx42", vlan=vlan),) for vlan in (10, 20, None)]


def test_a_segment_may_have_several_ports(tmp_path: Path) -> None:
    file = tmp_path / "vx.toml"
    two = 'ports = [{ kind = "tap", dev = "a" }, { kind = "packet", dev = "b", vlan = 7 }]'
    file.write_text(GOOD.replace('tap = "vx42"', two))
    (segment,) = config.load(file).segments
    assert [(port.kind, port.dev, port.vlan) for port in segment.overlays] == [
        ("tap", "a", None),
        ("packet", "b", 7),
    ]


SHARED = [
    ("vlan = 10" + SECOND + "vlan = 10", "12: segment[1].vlan: 10 is the VLAN of segment[0] on vx42; each"),
    ("vlan = 0", "8: segment[0].vlan: 0 is not allowed; an integer from 1 to 4094"),
    ("vlan = 4095", "8: segment[0].vlan: 4095 is not allowed; an integer from 1 to 4094"),
    (
        "vlan = 10\nmtu = 1400" + SECOND + "vlan = 11\nmtu = 1300",
        "14: segment[1].mtu: 1300 is not the 1400 of segment[0], which has the same TAP; one MTU",
    ),
    (
        '[[segment]]\nvni = 43\nport = { kind = "packet", dev = "vx42", vlan = 3 }',
        '10: segment[1].port.dev: "vx42" is a port of kind "tap" in segment[0]; one kind',
    ),
    (
        '[[segment]]\nvni = 43\nport = { kind = "xdp", dev = "v", vlan = 3 }',
        '10: segment[1].port.vlan: 3 and a port of kind "xdp", to which tags do not come; a port of kind',
    ),
    (
        '[[segment]]\nvni = 43\nvlan = 3\nport = { kind = "packet", dev = "v" }',
        "10: segment[1].vlan: 3 goes with tap; a key vlan of the port",
    ),
    (
        '[[segment]]\nvni = 43\nports = [{ kind = "packet", dev = "v" }]',
        "10: segment[1].ports: 1 of them; 2 to 8, or port for one",
    ),
    (
        '[[segment]]\nvni = 43\nports = [{ kind = "tap", dev = "v" }, { kind = "tap", dev = "vx42" }]',
        '10: segment[1].ports[1].dev: "vx42" is the device of segment[0]; each segment has its own',
    ),
    ('ports = [{ kind = "tap", dev = "v" }, { kind = "tap", dev = "w" }]', "segment[0].ports: there is tap"),
]


@pytest.mark.parametrize(("added", "said"), SHARED)
def test_ports_that_contradict_each_other(tmp_path: Path, added: str, said: str) -> None:
    assert said in message(tmp_path, GOOD + added + "\n")


# UDP ports


def test_a_segment_has_the_underlays_port_or_its_own() -> None:
    rows = [{"vni": 1, "tap": "a"}, {"vni": 800, "tap": "b", "dstport": 10800}]
    collect = {"vnis": [2], "write": "x", "dstports": [10801, 8472]}
    settings = config.from_mapping(
        {"underlay": {"local": "192.0.2.1", "dstport": 8472}, "segment": rows, "collect": [collect]}
    )
    assert [settings.dstport_of(segment) for segment in settings.segments] == [8472, 10800]
    assert settings.dstports_of(settings.collects[0]) == (10801, 8472)
    assert settings.dstports == [8472, 10800, 10801]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"segment": [{"vni": 1, "tap": "a", "dstport": 0}]},
            r"dstport: 0 is not allowed; an integer from 1",
        ),
        (
            {"collect": [{"write": "x", "dstports": [*range(1, 10)]}]},
            r"collect\[0\]\.dstports: .* is not allowed; a list of 1 to 8 ports, each from 1 to 65535",
        ),
        ({"collect": [{"write": "x", "dstports": []}]}, "a list of 1 to 8 ports"),
        (
            {"segment": [{"vni": n, "tap": f"t{n}", "dstport": 5000 + n} for n in range(70)]},
            r"segment\[63\]\.dstport: with 5063 there are more than 64 UDP ports; one that others have",
        ),
        (
            {
                "collect": [
                    {"vnis": [n], "write": str(n), "dstports": [*range(8 * n + 1, 8 * n + 9)]}
                    for n in range(9)
                ]
            },
            r"collect\[7\]\.dstports: with .* there are more than 64 UDP ports",
        ),
    ],
)
def test_ports_that_cannot_be_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.from_mapping({"underlay": {"local": "192.0.2.1"}, **options})


def test_a_collector_on_the_command_line_listens_to_its_ports_alone() -> None:
    settings = config.collector_from_arguments(
        {"local": ["192.0.2.1"], "write": "x", "dstports": [10800, 10801]}
    )
    assert settings.dstports == [10800, 10801]
    with pytest.raises(ConfigError, match="--dstport 70000: an integer from 1 to 65535"):
        config.collector_from_arguments({"local": ["192.0.2.1"], "write": "x", "dstports": [70000]})


# Asking for unknown addresses


def test_unknown_addresses_are_asked_for_and_frames_may_wait() -> None:
    rows = [
        {"vni": 1, "tap": "a", "unknown_unicast": "ask"},
        {"vni": 2, "tap": "b", "unknown_unicast": "ask", "hold": 50},
    ]
    segments = config.from_mapping({"underlay": {"local": "192.0.2.1"}, "segment": rows}).segments
    assert [(each.unknown_unicast, each.hold) for each in segments] == [("ask", None), ("ask", 50)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hold": 5}, r"hold: 5 waits for an answer and nobody is asked; add unknown_unicast = .ask."),
        ({"unknown_unicast": "ask", "hold": 0}, "hold: 0 is not allowed; an integer from 1 to 10000"),
        ({"broadcast": "ask"}, 'broadcast: "ask" is not allowed; "flood", "drop", or a table'),
        ({"unknown_unicast": "aks"}, 'is not allowed; "flood", "drop", "ask", or a table with the keys rate'),
    ],
)
def test_asking_that_cannot_be_is_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.from_mapping(
            {"underlay": {"local": "192.0.2.1"}, "segment": [{"vni": 1, "tap": "a", **options}]}
        )


# Asking, on the command line


def test_up_asks_and_holds() -> None:
    options = {"vni": 42, "tap": "vx42", "remotes": ["192.0.2.2"], "unknown_unicast": "ask"}
    assert config.from_arguments(options).segments[0].unknown_unicast == "ask"
    assert config.from_arguments({**options, "hold": 50}).segments[0].hold == 50
    with pytest.raises(ConfigError, match="--hold 0: an integer from 1 to 10000"):
        config.from_arguments({**options, "hold": 0})
    with pytest.raises(ConfigError, match="--broadcast ask: "):
        config.from_arguments({**options, "broadcast": "ask"})
