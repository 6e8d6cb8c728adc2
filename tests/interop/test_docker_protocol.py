"""The protocol of Docker's network drivers without Docker: requests as Docker 20.10 sent them, and others."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.hosts import Host, Lan, VtepProcess, run, wait_until
from support.tree import ROOT

from vxcore import config
from vxcore.addresses import VniRange

pytestmark = pytest.mark.usefixtures("root")
RECORDED = json.loads((ROOT / "tests" / "vectors" / "docker_requests.json").read_text())
BODIES = {each["method"]: each["body"] for each in RECORDED}
NETWORK = BODIES["NetworkDriver.CreateNetwork"]["NetworkID"]
ENDPOINT = BODIES["NetworkDriver.CreateEndpoint"]["EndpointID"]
DEVICE = f"vxe{ENDPOINT[:11]}"


class Connection(http.client.HTTPConnection):
    """HTTP on a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Plugin:
    """`vxcore docker` on a host, and what is said to it as Docker would."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host, self.folder = host, folder
        self.folder.mkdir(exist_ok=True)
        self.socket, self.state = folder / "vxcore.sock", folder / "networks.json"

    @property
    def options(self) -> list[str]:
        control = str(self.folder / "control.sock")
        return ["--plugin", str(self.socket), "--state", str(self.state), "--control", control]

    def start(self, *command: str, n_segments: int = 0) -> None:
        words = command or ("docker", "--local", self.host.v4, "--peer", "192.0.2.2", *self.options)
        self.vtep = VtepProcess(self.host, *words, n_segments=n_segments)
        wait_until(self._listens, "the plugin listens", 60)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as sock:
            return sock.connect_ex(str(self.socket)) == 0

    def post(self, method: str, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
        """Status and reply of a request."""
        with closing(Connection(self.socket)) as connection:
            connection.request("POST", f"/{method}", body, headers)
            response = connection.getresponse()
            assert response.headers["Content-Type"] == "application/vnd.docker.plugins.v1.2+json"
            return response.status, json.loads(response.read())

    def __call__(self, method: str, **changed: Any) -> dict[str, Any]:
        """A recorded request with other values in it."""
        name = method if "." in method else f"NetworkDriver.{method}"
        body = {**(BODIES.get(name) or {}), **changed}
        status, reply = self.post(name, json.dumps(body).encode())
        assert status == 200
        return reply

    def create(self, network: str = NETWORK, **options: str) -> dict[str, Any]:
        """CreateNetwork with such options, given by ``-o vxcore.NAME=VALUE``."""
        generic = {f"vxcore.{name}": value for name, value in options.items()}
        return self("CreateNetwork", NetworkID=network, Options={"com.docker.network.generic": generic})

    def devices(self) -> set[str]:
        links = json.loads(self.host.ip("-j", "link", "show").stdout)
        return {link["ifname"] for link in links if link["ifname"].startswith(("vxd", "vxe"))}

    def file(self) -> list[dict[str, Any]]:
        """The networks that the state file has."""
        return list(json.loads(self.state.read_text())["networks"])


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan(2) as made:
        yield made


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plugin]:
    """One for all tests that leave it as it was."""
    with Lan(1) as made:
        plugin = Plugin(made.hosts[0], tmp_path_factory.mktemp("plugin"))
        plugin.start()
        yield plugin


@pytest.fixture
def shared(running: Plugin) -> Iterator[Plugin]:
    """It, with no network before and after."""
    yield running
    for network in running.file() if running.state.exists() else []:
        assert running("DeleteNetwork", NetworkID=network["id"]) == {}
    assert running.devices() - {DEVICE} == set()


@pytest.fixture
def plugin(lan: Lan, tmp_path: Path) -> Plugin:
    made = Plugin(lan.hosts[0], tmp_path / "one")
    made.start()
    return made


def test_the_requests_that_docker_sent_are_answered_as_it_wants(shared: Plugin) -> None:
    replies = []
    for each in RECORDED:
        if each["method"].endswith("Leave"):
            info = shared("EndpointOperInfo", NetworkID=NETWORK, EndpointID=ENDPOINT)["Value"]
            assert (info["vxcore.vni"], info["vxcore.tap"]) == (42, "vxd42")
            assert shared.devices() == {"vxd42", DEVICE}
        replies.append(shared(each["method"]))
    activated, capabilities, created, endpoint, joined, left, gone, deleted = replies
    assert activated == {"Implements": ["NetworkDriver"]}
    assert capabilities == {"Scope": "local", "ConnectivityScope": "global"}
    assert endpoint == {"Interface": {"MacAddress": "02:42:0a:09:00:0b"}}
    names = {"SrcName": DEVICE, "DstPrefix": "eth"}
    assert joined == {"InterfaceName": names, "DisableGatewayService": False}
    assert created == left == gone == deleted == {}
    assert shared.devices() == set()
    assert shared.file() == []


@pytest.mark.parametrize(
    "method", ["DiscoverNew", "DiscoverDelete", "ProgramExternalConnectivity", "RevokeExternalConnectivity"]
)
def test_where_there_is_nothing_to_do(shared: Plugin, method: str) -> None:
    assert shared(method, DiscoveryType=1, DiscoveryData={"Address": "192.0.2.9"}) == {}
    assert shared("AllocateNetwork", NetworkID=NETWORK) == {"Options": {}}
    assert shared("FreeNetwork", NetworkID=NETWORK) == {}


def test_what_is_asked_again_is_done_once(shared: Plugin) -> None:
    """Docker repeats a request to which it got no answer."""
    for method in ("CreateNetwork", "CreateEndpoint", "Join", "Join", "CreateNetwork"):
        assert "Err" not in shared(method)
    assert shared.devices() == {"vxd42", DEVICE}
    assert "it is there, with other options" in shared.create(vni="43")["Err"]
    for method in ("Leave", "Leave", "DeleteEndpoint", "DeleteEndpoint", "DeleteNetwork", "DeleteNetwork"):
        assert shared(method) == {}
    assert shared.devices() == set()


def test_what_is_not_there_is_said(shared: Plugin) -> None:
    assert shared("Join")["Err"] == f"vxcore: there is no network {NETWORK[:12]} of vxcore's"
    shared("CreateNetwork")
    assert f"there is no endpoint {ENDPOINT[:12]}" in shared("Join")["Err"]
    assert shared("Leave") == {}


@pytest.mark.parametrize(
    ("method", "body", "status"),
    [
        ("NetworkDriver.Fly", b"{}", 404),
        ("", b"", 404),
        ("NetworkDriver.CreateNetwork", b"{", 400),
        ("NetworkDriver.CreateNetwork", b"", 400),
        ("NetworkDriver.CreateNetwork", b'{"NetworkID": 7}', 400),
        ("NetworkDriver.CreateNetwork", b'{"NetworkID": "\xff"}', 400),
    ],
)
def test_what_is_no_request_changes_nothing(shared: Plugin, method: str, body: bytes, status: int) -> None:
    found, reply = shared.post(method, body)
    assert (found, list(reply)) == (status, ["Err"])
    assert "Err" not in shared("CreateNetwork")


@pytest.mark.parametrize("length", [str(1 << 20 | 1), "-1", "x"])
def test_a_request_that_is_too_long_is_not_read(shared: Plugin, length: str) -> None:
    assert shared.post("NetworkDriver.Join", b"", **{"Content-Length": length})[0] == 413
    assert "Err" not in shared("CreateNetwork")


@pytest.mark.parametrize(
    ("mac", "said"), [("01:00:5e:00:00:01", "is a group address"), ("x", "is not a MAC address")]
)
def test_a_mac_address_that_no_container_can_have(shared: Plugin, mac: str, said: str) -> None:
    shared("CreateNetwork")
    assert said in shared("CreateEndpoint", Interface={"MacAddress": mac})["Err"]


def test_two_containers_cannot_have_one_mac_address(plugin: Plugin, containers: list[Host]) -> None:
    """But one that has ended is not in the way, though Docker could not say so."""
    one, _ = containers
    chosen = {"MacAddress": one.mac("eth0")}
    told = plugin("CreateEndpoint", EndpointID="f" * 64, Interface=chosen)
    assert told["Err"] == f"vxcore: {chosen['MacAddress']} is the MAC address of endpoint {ENDPOINT[:12]}"
    run("umount", f"/run/netns/{one.namespace}")  # the file stays for a while
    assert plugin("CreateEndpoint", EndpointID="f" * 64, Interface=chosen) == {"Interface": {}}
    assert list(plugin.file()[0]["endpoints"]) == ["f" * 64]


def test_a_mac_address_is_made_where_there_is_no_ipv4_address(shared: Plugin) -> None:
    shared("CreateNetwork")
    without = shared("CreateEndpoint", EndpointID="e" * 64, Interface={"AddressIPv6": "fd09::5/64"})
    assert without["Interface"]["MacAddress"].startswith("02:42:")


def test_a_network_that_cannot_be_kept_is_not_made(plugin: Plugin) -> None:
    plugin.state.mkdir()
    assert "Is a directory" in plugin.create(vni="42")["Err"]
    assert plugin.devices() == set()
    plugin.state.rmdir()
    assert plugin.create(vni="42") == {}


def test_a_network_whose_tap_cannot_be_made_whole_leaves_none(shared: Plugin) -> None:
    assert "Err" in shared("CreateNetwork", NetworkID="a" * 300)  # no alias is so long
    assert shared.devices() == set()
    assert shared("CreateNetwork") == {}


def test_an_endpoint_whose_end_cannot_be_kept_is_deleted_when_that_is_asked_again(plugin: Plugin) -> None:
    plugin("CreateNetwork")
    plugin("CreateEndpoint")
    known = plugin.state.read_bytes()
    plugin.state.unlink()
    plugin.state.mkdir()
    assert "Is a directory" in plugin("DeleteEndpoint")["Err"]
    plugin.state.rmdir()
    plugin.state.write_bytes(known)
    assert plugin("DeleteEndpoint") == {}
    assert plugin.file()[0]["endpoints"] == {}


def test_vnis_run_out(lan: Lan, tmp_path: Path) -> None:
    plugin = Plugin(lan.hosts[0], tmp_path / "one")
    plugin.start("docker", "--local", plugin.host.v4, "--vni", "7-8", *plugin.options)
    for network in "ab":
        assert plugin.create(network * 64) == {}
    assert "no VNI of 7-8 is free" in plugin.create("c" * 64)["Err"]
    assert plugin.devices() == {"vxd7", "vxd8"}


def join(plugin: Plugin, address: str, **options: str) -> Host:
    """A container as Docker makes it, with its device moved inside; the network with such options, if any."""
    host = plugin.host
    container = Host(f"{host.namespace}c", host.number)
    run("ip", "netns", "add", container.namespace)
    made = plugin.create(**options) if options else plugin("CreateNetwork")
    assert made == {}
    plugin("CreateEndpoint", Interface={"Address": f"{address}/16"})
    sandbox = f"/run/netns/{container.namespace}"
    device = plugin("Join", SandboxKey=sandbox)["InterfaceName"]["SrcName"]
    host.ip("link", "set", device, "name", "eth0", "netns", container.namespace, "up")
    container.ip("address", "add", f"{address}/16", "dev", "eth0")
    return container


@pytest.fixture
def containers(lan: Lan, plugin: Plugin, tmp_path: Path) -> Iterator[list[Host]]:
    """One on each host, 10.9.0.11 and 10.9.0.12; on the other host it is the kernel's vxlan device."""
    other = lan.hosts[1]
    try:
        made = [join(plugin, "10.9.0.11")]
        other.kernel_vxlan([plugin.host])
        other.ip("address", "add", "10.9.0.12/16", "dev", "vx42")
        yield [*made, other]
    finally:
        run("ip", "netns", "delete", f"{plugin.host.namespace}c", check=False)


def test_a_container_reaches_any_vtep_of_the_segment(containers: list[Host]) -> None:
    one, other = containers
    one.ping("10.9.0.12")
    one.transfer(other, "10.9.0.12", "tcp", 1_000_000)
    assert one.mtu("eth0") == 1450


def test_over_an_ipv6_underlay(lan: Lan, tmp_path: Path) -> None:
    plugin, other = Plugin(lan.hosts[0], tmp_path / "one"), lan.hosts[1]
    plugin.start("docker", "--local", plugin.host.v6, "--peer", other.v6, *plugin.options)
    other.kernel_vxlan([plugin.host], family=6)
    other.ip("address", "add", "10.9.0.12/16", "dev", "vx42")
    try:
        one = join(plugin, "10.9.0.11", vni="42", peers=other.v6)
        one.ping("10.9.0.12")
        assert one.mtu("eth0") == 1430
    finally:
        run("ip", "netns", "delete", f"{plugin.host.namespace}c", check=False)


def test_the_host_takes_no_part_in_its_networks(plugin: Plugin, containers: list[Host]) -> None:
    """Neither to those who ask for its addresses, nor to those who know its device's."""
    _, other = containers
    other.ping("10.9.0.11")
    other.ip("route", "add", "172.31.0.1/32", "dev", "vx42", "src", "10.9.0.12")
    plugin.host.ip("address", "add", "172.31.0.1/32", "dev", "lo")
    assert not other.pings("172.31.0.1")
    mac = plugin.host.mac("vxd42")
    other.ip("neighbour", "replace", "172.31.0.1", "lladdr", mac, "dev", "vx42")
    assert not other.pings("172.31.0.1")
    assert json.loads(plugin.host.ip("-j", "-6", "address", "show", "dev", "vxd42").stdout) == []


def test_networks_and_containers_are_back_after_a_restart(plugin: Plugin, containers: list[Host]) -> None:
    one, _ = containers
    one.ping("10.9.0.12")
    plugin.vtep.stop(signal.SIGTERM)
    assert plugin.devices() == {"vxd42"}
    plugin.start(n_segments=1)
    one.ping("10.9.0.12")
    (network,) = plugin.file()
    assert list(network["endpoints"]) == [ENDPOINT]


def test_a_container_that_ended_meanwhile_is_forgotten(plugin: Plugin, containers: list[Host]) -> None:
    one, _ = containers
    plugin.vtep.stop()
    run("umount", f"/run/netns/{one.namespace}")  # the file stays for a while
    plugin.start(n_segments=1)
    assert plugin.file()[0]["endpoints"] == {}
    for method in ("Leave", "DeleteEndpoint"):  # as Docker says when it can
        assert plugin(method) == {}


def test_one_network_that_cannot_be_back_does_not_keep_others_away(plugin: Plugin) -> None:
    low = min(VniRange(config.Docker().vnis).ends)
    plugin.create("a" * 64, vni=str(low))
    plugin.create("b" * 64, vni="8")
    plugin.vtep.stop()
    plugin.host.ip("link", "delete", f"vxd{low}")
    plugin.host.ip("link", "add", f"vxd{low}", "type", "bridge")
    plugin.start(n_segments=1)
    assert plugin.vtep.ready[0].startswith("ready vni 8 tap vxd8 ")
    assert plugin.create("c" * 64) == {}  # it takes neither VNI
    assert plugin("DeleteNetwork", NetworkID="c" * 64) == {}
    assert plugin("CreateEndpoint", NetworkID="b" * 64)["Interface"]
    assert "Err" not in plugin("Join", NetworkID="b" * 64)
    for network in "ab":
        assert plugin("DeleteNetwork", NetworkID=network * 64) == {}
    assert plugin.file() == []
    assert plugin.devices() - {DEVICE} == {f"vxd{low}"}  # which is somebody else's


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "networks.json: not read: "),
        ('{"format": 2, "networks": []}', "its format is 2, and this vxcore knows 1"),
    ],
)
def test_a_file_that_is_none_stops_it(lan: Lan, tmp_path: Path, text: str, said: str) -> None:
    plugin = Plugin(lan.hosts[0], tmp_path / "one")
    plugin.state.write_text(text)
    line = (sys.executable, "-m", "vxcore", "docker", "--local", plugin.host.v4, *plugin.options)
    done = plugin.host.run(*line, check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert plugin.state.read_text() == text


def test_several_lanes_find_their_queues_again(lan: Lan, tmp_path: Path) -> None:
    plugin = Plugin(lan.hosts[0], tmp_path / "one")
    words = ("docker", "--local", plugin.host.v4, "--lanes", "2", *plugin.options)
    plugin.start(*words)
    plugin("CreateNetwork")
    plugin.vtep.stop()
    plugin.start(*words, n_segments=1)
    assert "Err" not in plugin("CreateEndpoint")
    assert "Err" not in plugin("Join")


def test_it_works_confined(lan: Lan, tmp_path: Path) -> None:
    plugin = Plugin(lan.hosts[0], tmp_path / "one")
    file = tmp_path / "vx.toml"
    file.write_text(f"""
[underlay]
local = "192.0.2.1"
[control]
socket = "none"
[process]
[docker]
plugin = "{plugin.socket}"
state = "{plugin.state}"
""")
    plugin.start("run", str(file))
    for each in RECORDED:
        assert "Err" not in plugin(each["method"])
    assert "system calls are filtered" in plugin.vtep.stop()


def test_two_cannot_have_one_socket(plugin: Plugin) -> None:
    other = [
        "--plugin",
        str(plugin.socket),
        "--state",
        str(plugin.folder / "other.json"),
        "--control",
        "none",
    ]
    line = (sys.executable, "-m", "vxcore", "docker", "--local", plugin.host.v4, *other, "--dstport", "4790")
    done = plugin.host.run(*line, check=False)
    assert done.returncode == 2
    pid = plugin.vtep.process.pid
    assert f"docker.plugin {plugin.socket}: process {pid} has it; name another with --plugin" in done.stderr


def test_beside_segments_of_a_file_that_is_read_again(lan: Lan, tmp_path: Path) -> None:
    plugin = Plugin(lan.hosts[0], tmp_path / "one")
    file, control = tmp_path / "vx.toml", tmp_path / "control.sock"
    text = f"""
[underlay]
local = "192.0.2.1"
[control]
socket = "{control}"
[docker]
plugin = "{plugin.socket}"
state = "{plugin.state}"
peers = ["192.0.2.2"]
"""
    file.write_text(text)
    plugin.start("run", str(file))
    assert plugin.create(vni="42") == {}
    file.write_text(text + '[[segment]]\nvni = 43\ntap = "vx43"\nremotes = ["192.0.2.2"]\n')
    reload(plugin, "reloaded")
    assert "VNI of a [[segment]]" in plugin.create("b" * 64, vni="43")["Err"]
    file.write_text(text + '[[segment]]\nvni = 42\ntap = "vx42"\nremotes = ["192.0.2.2"]\n')
    reload(plugin, "not reloaded")
    shown = [sys.executable, "-m", "vxcore", "show", "segment", "--json", "--control", str(control)]
    rows = json.loads(subprocess.run(shown, check=True, capture_output=True, text=True).stdout)
    assert {row["vni"]: row["dev"] for row in rows} == {42: "vxd42", 43: "vx43"}


def test_a_saved_file_is_one_to_start_with(plugin: Plugin) -> None:
    plugin.create(vni="42")
    saved = plugin.folder / "saved.toml"
    save = [sys.executable, "-m", "vxcore", "save", str(saved), "--control", plugin.options[-1]]
    subprocess.run(save, check=True, capture_output=True)
    plugin.vtep.stop()
    plugin.start("run", str(saved), n_segments=1)
    assert plugin("DeleteNetwork") == {}
    assert plugin.devices() == set()


def reload(plugin: Plugin, said: str) -> None:
    """SIGHUP, and the line that follows."""
    plugin.vtep.process.send_signal(signal.SIGHUP)
    assert plugin.vtep.process.stdout is not None
    lines = iter(plugin.vtep.process.stdout.readline, "")
    assert next(line for line in lines if not line.startswith("ready")).strip() == said
