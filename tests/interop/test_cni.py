"""The CNI plugin by the protocol itself: containers of two hosts, the plugin host-local, and errors."""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import peers
from support.hosts import Host, Lan, VtepProcess, run, wait_until
from support.rooms import program

pytestmark = pytest.mark.usefixtures("root")
DEBIAN = "/usr/lib/cni"
_numbers = itertools.count()


class Cni:
    """The plugin on a host with a VTEP, and the network that it is configured for."""

    def __init__(self, host: Host, folder: Path, control: str) -> None:
        self.host, self.folder = host, folder
        folder.mkdir()
        self.conf: dict[str, Any] = {
            "cniVersion": "1.0.0",
            "name": f"blue{os.getpid()}-{host.number}",
            "type": "vxcore-cni",
            "vni": 42,
            "control": control,
            "ipam": {
                "type": "host-local",
                "dataDir": str(folder / "ipam"),
                "ranges": [
                    [
                        {
                            "subnet": "10.9.0.0/16",
                            "rangeStart": f"10.9.{host.number}.10",
                            "rangeEnd": f"10.9.{host.number}.20",
                            "gateway": f"10.9.{host.number}.1",
                        }
                    ],
                    [{"subnet": f"fd09:0:0:{host.number}::/64"}],
                ],
            },
        }
        self.containers: list[Host] = []

    def ask(
        self, command: str, conf: dict[str, Any] | bytes | None = None, **environment: str
    ) -> tuple[int, Any]:
        """Exit code and what it said; `environment` is without ``CNI_``."""
        given = {f"CNI_{name}": value for name, value in environment.items()}
        text = conf if isinstance(conf, bytes) else json.dumps(conf or self.conf).encode()
        words = [sys.executable, "-c", "import sys; from vxcore.cni.plugin import main; sys.exit(main())"]
        done = subprocess.run(
            ["ip", "netns", "exec", self.host.namespace, *words],
            check=False,
            input=text,
            capture_output=True,
            env={**os.environ, "CNI_COMMAND": command, "CNI_PATH": f"{self.folder}:{DEBIAN}", **given},
            timeout=60,
        )
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return done.returncode, json.loads(done.stdout) if done.stdout.strip() else None

    def container(self) -> Host:
        """One without a network."""
        made = Host(f"{self.host.namespace}c{next(_numbers)}", self.host.number)
        run("ip", "netns", "add", made.namespace)
        made.ip("link", "set", "lo", "up")
        self.containers.append(made)
        return made

    def of(self, container: Host) -> dict[str, str]:
        """The environment that names a container."""
        path = f"/run/netns/{container.namespace}"
        return {"CONTAINERID": container.namespace, "IFNAME": "eth0", "NETNS": path}

    def chained(self, plugin: str, command: str, of: dict[str, str], **conf: Any) -> dict[str, Any]:
        """What a reference plugin says behind this one in a conflist, with `prevResult` among `conf`."""
        given = {"cniVersion": "1.0.0", "name": self.conf["name"], "type": plugin, **conf}
        done = subprocess.run(
            ["ip", "netns", "exec", self.host.namespace, f"{DEBIAN}/{plugin}"],
            check=False,
            input=json.dumps(given).encode(),
            capture_output=True,
            env={**os.environ, "PATH": peers.SEARCH, "CNI_COMMAND": command, "CNI_PATH": DEBIAN}
            | {f"CNI_{name}": value for name, value in of.items()},
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return dict(json.loads(done.stdout or "{}"))

    def tables(self) -> str:
        """Of netfilter, those that are ours."""
        listed = self.host.run("nft", "list", "tables").stdout.splitlines()
        return "\n".join(line for line in listed if "vxcni" in line)

    def add(self, container: Host, **changed: Any) -> dict[str, Any]:
        code, told = self.ask("ADD", {**self.conf, **changed}, **self.of(container))
        assert code == 0, told
        return dict(told)

    def fails(
        self, command: str, conf: dict[str, Any] | bytes | None = None, **environment: str
    ) -> tuple[int, str]:
        """Number and message of an error."""
        code, told = self.ask(command, conf, **environment)
        assert code == 1
        assert told["cniVersion"] in ("0.4.0", "1.0.0", "1.1.0")
        return told["code"], told["msg"]

    def ends(self) -> list[str]:
        """The veth ends on this host that are ours."""
        links = json.loads(self.host.ip("-j", "link", "show").stdout)
        return [link["ifname"] for link in links if link["ifname"].startswith("vxc")]

    def leases(self) -> list[str]:
        """Addresses that host-local has given away."""
        return sorted(path.name for path in self.folder.glob("ipam/*/*") if path.name[:1].isdigit())

    def forget(self) -> None:
        """What a test has left."""
        for container in self.containers:
            run("ip", "netns", "delete", container.namespace, check=False)
        for name in (*self.ends(), "vxbr42"):
            self.host.ip("link", "delete", name, check=False)


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Lan, Path]]:
    """Two hosts with a VTEP each, for the tests of this module, and where the control sockets are."""
    with Lan(2) as lan, tempfile.TemporaryDirectory() as folder:
        for host, other in (lan.hosts, lan.hosts[::-1]):
            remotes = ("--local", host.v4, "--remote", other.v4, "--tap", "vx42")
            control = str(Path(folder, f"{host.number}.sock"))
            VtepProcess(host, "up", "--vni", "42", *remotes, "--control", control)
        yield lan, Path(folder)


@pytest.fixture
def two(running: tuple[Lan, Path], tmp_path: Path) -> Iterator[list[Cni]]:
    """The plugin on both hosts; none of its commands has run yet."""
    if not Path(DEBIAN, "host-local").exists():
        peers.missing("the CNI plugin host-local is not there; `make test` installs it")
    lan, controls = running
    made = [
        Cni(host, tmp_path / f"h{host.number}", str(controls / f"{host.number}.sock")) for host in lan.hosts
    ]
    try:
        yield made
    finally:
        for cni in made:
            cni.forget()


def test_containers_of_two_hosts_and_of_one_reach_each_other(two: list[Cni]) -> None:
    one, other = two
    here, beside, there = one.container(), one.container(), other.container()
    told = one.add(here)
    one.add(beside)
    other.add(there)
    address, address6 = (ip["address"] for ip in told["ips"])
    assert address == "10.9.1.10/16"
    bridge, outside, inside = (each["name"] for each in told["interfaces"])
    assert (bridge, outside in one.ends(), inside) == ("vxbr42", True, "eth0")
    assert told["interfaces"][2] == {
        "name": "eth0",
        "mac": "02:42:0a:09:01:0a",
        "sandbox": f"/run/netns/{here.namespace}",
    }
    assert {ip["interface"] for ip in told["ips"]} == {2}
    assert here.mac("eth0") == "02:42:0a:09:01:0a"
    assert here.mtu("eth0") == 1450
    there.ping(address.partition("/")[0])
    beside.ping(address.partition("/")[0])
    beside.ping(address6.partition("/")[0])
    there.transfer(here, "10.9.1.10", "tcp", 1_000_000)


def test_what_is_added_is_checked_and_deleted(two: list[Cni]) -> None:
    one, _ = two
    container = one.container()
    previous = one.add(container)
    conf = {**one.conf, "prevResult": previous}
    assert one.ask("CHECK", conf, **one.of(container)) == (0, None)
    assert len(one.leases()) == 1
    container.ip("address", "delete", "10.9.1.10/16", "dev", "eth0")
    assert one.fails("CHECK", conf, **one.of(container)) == (101, "eth0: it has not 10.9.1.10/16 any more")
    one.host.ip("link", "set", "vx42", "nomaster")
    assert one.fails("CHECK", conf, **one.of(container)) == (101, "vx42: it is not in vxbr42 any more")
    for _ in range(2):  # as often as a runtime likes
        assert one.ask("DEL", conf, **one.of(container)) == (0, None)
    assert one.ends() == []
    assert one.leases() == []


def test_the_kernel_knows_who_is_behind_the_bridges_port(two: list[Cni]) -> None:
    one, _ = two
    told = one.add(one.container())
    mac = told["interfaces"][-1]["mac"]
    (end,) = one.ends()
    assert f"{mac} master vxbr42 static" in one.host.run("bridge", "fdb", "show", "dev", end).stdout
    rows = [line.split() for line in one.host.ip("neighbour", "show", "dev", end).stdout.splitlines()]
    known = {(words[0], words[words.index("lladdr") + 1]) for words in rows if "PERMANENT" in words}
    assert known == {(ip["address"].partition("/")[0], mac) for ip in told["ips"]}
    assert len(known) == 2


def test_a_container_that_is_gone_can_be_deleted(two: list[Cni]) -> None:
    one, _ = two
    container = one.container()
    one.add(container)
    run("ip", "netns", "delete", container.namespace)
    assert one.ask("DEL", CONTAINERID=container.namespace, IFNAME="eth0") == (0, None)
    assert (one.ends(), one.leases()) == ([], [])


def test_the_bridge_is_the_gateway_when_it_is_to_be(two: list[Cni]) -> None:
    one, _ = two
    container = one.container()
    one.add(container, isDefaultGateway=True)
    container.ping("10.9.1.1")
    container.ping(one.host.v4)  # through the gateway
    routes = json.loads(container.ip("-j", "route").stdout)
    assert [route["gateway"] for route in routes if route["dst"] == "default"] == ["10.9.1.1"]


def test_routes_and_the_mac_address_that_the_user_chose(two: list[Cni]) -> None:
    one, _ = two
    container = one.container()
    ipam = {**one.conf["ipam"], "routes": [{"dst": "10.50.0.0/16", "gw": "10.9.1.77"}]}
    told = one.add(container, ipam=ipam, runtimeConfig={"mac": "02:00:00:00:00:07"})
    assert container.mac("eth0") == "02:00:00:00:00:07"
    assert told["routes"] == [{"dst": "10.50.0.0/16", "gw": "10.9.1.77"}]
    assert "via 10.9.1.77" in container.ip("route").stdout


def test_what_goes_to_other_networks_has_the_hosts_address(two: list[Cni]) -> None:
    """The other host knows no way back to the containers' addresses."""
    one, other = two
    container, beside = one.container(), one.container()
    told = one.add(container, isDefaultGateway=True)
    assert not container.pings(other.host.v4)
    conf = {**one.conf, "isDefaultGateway": True, "ipMasq": True}
    assert one.ask("DEL", conf, **one.of(container)) == (0, None)
    for each in (container, beside):
        told = one.add(each, isDefaultGateway=True, ipMasq=True)
        each.ping(other.host.v4)
        each.ping(other.host.v6)
    container.ping(told["ips"][0]["address"].partition("/")[0])
    assert one.ask("CHECK", {**conf, "prevResult": told}, **one.of(beside)) == (0, None)
    assert one.tables().count("vxcni") == 2
    assert one.ask("DEL", conf, **one.of(container)) == (0, None)
    (table,) = one.tables().splitlines()
    one.host.run("nft", "delete", *table.split())
    said = one.fails("CHECK", {**conf, "prevResult": told}, **one.of(beside))
    assert said == (101, "ipMasq: its rules are gone")
    assert one.ask("DEL", conf, **one.of(beside)) == (0, None)
    assert one.tables() == ""


def test_the_way_out_without_addresses_or_nft(
    two: list[Cni], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = two
    container = one.container()
    conf = {**one.conf, "ipMasq": True}
    told = one.add(container, ipMasq=True, ipam={})
    assert one.ask("CHECK", {**conf, "ipam": {}, "prevResult": told}, **one.of(container)) == (0, None)
    assert one.ask("DEL", {**conf, "ipam": {}}, **one.of(container)) == (0, None)
    (tmp_path / "ip").symlink_to(peers.require_tool("ip"))
    monkeypatch.setenv("PATH", str(tmp_path))
    said = one.fails("ADD", conf, **one.of(container))
    monkeypatch.undo()
    assert said == (100, "ipMasq: there is no nft; install nftables")
    assert (one.tables(), one.ends(), one.leases()) == ("", [], [])


def test_a_failure_leaves_no_rules(two: list[Cni]) -> None:
    one, _ = two
    ipam = {**one.conf["ipam"], "routes": [{"dst": "10.50.0.0/16", "gw": "192.0.2.77"}]}
    conf = {**one.conf, "ipMasq": True, "ipam": ipam}
    assert one.fails("ADD", conf, **one.of(one.container()))[0] == 100
    assert (one.tables(), one.ends(), one.leases()) == ("", [], [])


def test_hairpin_promiscuity_and_mtu(two: list[Cni]) -> None:
    one, other = two
    container = one.container()
    told = one.add(container, hairpinMode=True, mtu=1300, dns={"nameservers": ["10.9.0.53"]})
    (end,) = one.ends()
    (port,) = json.loads(
        run("bridge", "-n", one.host.namespace, "-j", "-d", "link", "show", "dev", end).stdout
    )
    assert port["hairpin"] is True
    assert container.mtu("eth0") == 1300
    assert told["dns"] == {"nameservers": ["10.9.0.53"]}
    other.add(other.container(), promiscMode=True)
    assert "PROMISC" in other.host.ip("link", "show", "vxbr42").stdout


def test_the_addresses_that_a_runtime_asks_for(two: list[Cni]) -> None:
    one, _ = two
    told = one.add(one.container(), runtimeConfig={"ips": ["10.9.1.15/16"]})
    assert told["ips"][0]["address"] == "10.9.1.15/16"


def test_ports_are_published_by_the_plugin_portmap_behind_it(two: list[Cni], tmp_path: Path) -> None:
    one, other = two
    peers.require_tool("iptables")
    container = one.container()
    mappings = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
    before = one.add(container, isDefaultGateway=True)
    chained = {"prevResult": before, "runtimeConfig": {"portMappings": mappings}}
    assert one.chained("portmap", "ADD", one.of(container), **chained)["ips"] == before["ips"]
    (tmp_path / "page").write_text("published\n")
    container.start(program("busybox"), "httpd", "-f", "-p", "80", "-h", str(tmp_path))
    url = f"http://{one.host.v4}:8080/page"
    try:
        wait_until(lambda: "published" in curl(other.host, url), "the port answers")
        assert "published" in curl(one.host, url)
    finally:
        for process in container.processes:
            process.kill()
            process.communicate()
    one.chained("portmap", "DEL", one.of(container), **chained)
    assert "8080" not in one.host.run("iptables-save").stdout


def curl(host: Host, url: str) -> str:
    return host.run("curl", "-s", "--max-time", "5", url, check=False).stdout


def test_rates_are_limited_by_the_plugin_bandwidth_behind_it(two: list[Cni]) -> None:
    one, _ = two
    container = one.container()
    limits = {
        "ingressRate": 8_000_000,
        "ingressBurst": 800_000,
        "egressRate": 4_000_000,
        "egressBurst": 400_000,
    }
    chained = {"prevResult": one.add(container), **limits}
    told = one.chained("bandwidth", "ADD", one.of(container), **chained)
    (end,) = one.ends()
    assert "tbf" in one.host.run("tc", "qdisc", "show", "dev", end).stdout
    mirror = told["interfaces"][-1]["name"]
    assert "4Mbit" in one.host.run("tc", "qdisc", "show", "dev", mirror).stdout
    one.chained("bandwidth", "DEL", one.of(container), **chained)
    assert mirror not in one.host.ip("link", "show").stdout


def test_without_addresses_it_is_a_cable(two: list[Cni]) -> None:
    one, _ = two
    container = one.container()
    told = one.add(container, ipam={})
    assert told["ips"] == []
    assert "UP" in container.ip("link", "show", "eth0").stdout


def test_after_another_plugin_of_a_chain(two: list[Cni]) -> None:
    one, _ = two
    before = {
        "interfaces": [{"name": "net0", "sandbox": "/x"}],
        "ips": [{"address": "10.1.0.2/24", "interface": 0}],
        "dns": {"nameservers": ["10.1.0.1"]},
    }
    told = one.add(one.container(), prevResult=before)
    assert [each["name"] for each in told["interfaces"]] == ["net0", "vxbr42", *one.ends(), "eth0"]
    assert [ip["interface"] for ip in told["ips"]] == [0, 3, 3]
    assert told["dns"] == before["dns"]


def test_a_failure_leaves_nothing(two: list[Cni]) -> None:
    one, _ = two
    container = one.container()
    container.ip("link", "add", "eth0", "type", "bridge")
    code, message = one.fails("ADD", **one.of(container))
    assert (code, "File exists" in message) == (100, True)
    assert (one.ends(), one.leases()) == ([], [])
    named = {**one.conf, "name": "b" * 300, "ipam": {}}  # no alias is so long
    assert one.fails("ADD", named, **one.of(one.container()))[0] == 100
    assert one.ends() == []


def test_what_is_wrong_is_said_by_its_number(two: list[Cni]) -> None:
    one, _ = two
    of = one.of(one.container())
    conf = one.conf
    assert one.fails("FLY")[0] == 4
    assert one.fails("ADD", {**conf, "cniVersion": "9.0.0"}, **of)[0] == 1
    assert one.fails("STATUS")[0] == 1  # this one is since 1.1.0
    assert one.fails("ADD", {**conf, "vlan": 7}, **of) == (2, "vlan: vxcore does not know it; leave it out")
    assert one.fails("ADD", {**conf, "ipMasqBackend": "iptables"}, **of)[0] == 2
    assert one.fails("ADD", **{**of, "CONTAINERID": "../x"})[0] == 4
    assert one.fails("ADD", **{**of, "IFNAME": "a/b"})[0] == 4
    assert one.fails("ADD", **{**of, "NETNS": ""})[0] == 4
    assert one.fails("ADD", b"{", **of)[0] == 6
    assert one.fails("ADD", b"[]", **of)[0] == 6
    for wrong in (
        {"vni": "42"},
        {"vni": 1 << 24},
        {"name": "a/b"},
        {"ipam": []},
        {"bridge": "vx42"},
        {"vni": 43},
        {"mtu": 1451},
        {"mtu": 67},
        {"mtu": True},
        {"ipMasq": "yes"},
        {"hairpinMode": True, "promiscMode": True},
    ):
        assert one.fails("ADD", {**conf, **wrong}, **of)[0] == 7, wrong
    assert one.fails("ADD", {**conf, "runtimeConfig": {"mac": "01:00:00:00:00:00"}}, **of)[0] == 7
    assert one.fails("CHECK", **of) == (7, "prevResult: missing; CHECK is about what ADD has said")
    assert one.fails("ADD", {**conf, "ipam": {"type": "nosuch"}}, **of)[0] == 4
    wrong = {"args": {"cni": "mac"}}
    assert one.fails("ADD", {**conf, **wrong}, **of) == (7, "cni: 'mac' is not allowed; an object")
    nobody = {**conf, "control": str(one.folder / "nobody.sock")}
    code, message = one.fails("ADD", nobody, **of)
    assert (code, "no vxcore answers here" in message) == (11, True)
    assert (one.ends(), one.leases()) == ([], [])


def test_what_the_delegate_says_is_said(two: list[Cni]) -> None:
    one, _ = two
    ipam = {
        **one.conf["ipam"],
        "ranges": [[{"subnet": "10.9.0.0/16", "rangeStart": "10.9.0.5", "rangeEnd": "10.9.0.5"}]],
    }
    one.add(one.container(), ipam=ipam)
    _, message = one.fails("ADD", {**one.conf, "ipam": ipam}, **one.of(one.container()))
    assert message.startswith("ipam host-local: ")
    assert "no IP addresses available" in message
    assert len(one.ends()) == 1
    for said, told in (("[]", "ipam mute: it says [], which is no JSON object"), ('{"code": "x"}', "failed")):
        mute = one.folder / "mute"
        mute.write_text(f"#!/bin/sh\ncat > /dev/null\necho '{said}'\nexit 1\n")
        mute.chmod(0o755)
        code, message = one.fails("ADD", {**one.conf, "ipam": {"type": "mute"}}, **one.of(one.container()))
        assert (code, told in message) == (100, True)


# What is new in 1.1, with a delegate that knows it

DELEGATE = """\
#!/bin/sh
cat > /dev/null
echo "$CNI_COMMAND" >> "$0.log"
[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.9.0.9/16"}]}'
"""


@pytest.fixture
def newest(two: list[Cni]) -> Cni:
    one, _ = two
    delegate = one.folder / "nine"
    delegate.write_text(DELEGATE)
    delegate.chmod(0o755)
    one.conf |= {"cniVersion": "1.1.0", "ipam": {"type": "nine"}}
    return one


def test_status(newest: Cni) -> None:
    assert newest.ask("STATUS") == (0, None)
    assert (newest.folder / "nine.log").read_text() == "STATUS\n"
    assert newest.fails("STATUS", {**newest.conf, "vni": 43})[0] == 51
    assert newest.fails("STATUS", {**newest.conf, "control": "/nosuch/x.sock"})[0] == 51


def test_what_nobody_has_any_more_is_collected(newest: Cni) -> None:
    kept, gone = newest.container(), newest.container()
    for container in (kept, gone):
        newest.add(container)
    (before, *_) = newest.ends()
    assert newest.fails("GC")[0] == 7
    for wrong in ("x", {"containerID": kept.namespace}, {"container": kept.namespace, "ifname": "eth0"}):
        conf = {**newest.conf, "cni.dev/valid-attachments": [wrong]}
        assert newest.fails("GC", conf)[0] == 7
    assert len(newest.ends()) == 2
    valid = [{"containerID": kept.namespace, "ifname": "eth0"}]
    foreign = {**newest.conf, "name": "red", "cni.dev/valid-attachments": []}
    assert newest.ask("GC", foreign) == (0, None)
    assert len(newest.ends()) == 2
    assert newest.ask("GC", {**newest.conf, "cni.dev/valid-attachments": valid}) == (0, None)
    assert newest.ends() == [before]
    assert json.loads(kept.ip("-j", "link", "show", "eth0").stdout)


def test_rules_that_nobody_has_any_more_are_collected(newest: Cni) -> None:
    kept, gone = newest.container(), newest.container()
    newest.conf |= {"ipMasq": True}
    for container in (kept, gone):
        newest.add(container)
    run("ip", "netns", "delete", gone.namespace)  # and its devices with it
    foreign = {**newest.conf, "name": "red", "cni.dev/valid-attachments": []}
    assert newest.ask("GC", foreign) == (0, None)
    assert newest.tables().count("vxcni") == 2
    valid = [{"containerID": kept.namespace, "ifname": "eth0"}]
    assert newest.ask("GC", {**newest.conf, "cni.dev/valid-attachments": valid}) == (0, None)
    assert newest.tables().count("vxcni") == 1
    assert newest.ask("DEL", **newest.of(kept)) == (0, None)
    assert newest.tables() == ""


def test_what_results_and_routes_have_since_1_1(newest: Cni) -> None:
    delegate = newest.folder / "nine"
    route = (
        '{"dst": "10.50.0.0/16", "gw": "10.9.0.1", "mtu": 1300, "advmss": 1200, "priority": 7, "table": 99}'
    )
    delegate.write_text(DELEGATE.replace("}]}'", f'}}], "routes": [{route}]}}\''))
    container = newest.container()
    told = newest.add(container)
    assert [each["mtu"] for each in told["interfaces"]] == [1450, 1450, 1450]
    assert told["routes"] == [json.loads(route)]
    (made,) = json.loads(container.ip("-j", "-d", "route", "show", "table", "99").stdout)
    assert (made["gateway"], made["metric"], made["metrics"]) == (
        "10.9.0.1",
        7,
        [{"mtu": 1300, "advmss": 1200}],
    )


def test_versions(two: list[Cni]) -> None:
    told = {"cniVersion": "1.1.0", "supportedVersions": ["0.4.0", "1.0.0", "1.1.0"]}
    assert two[0].ask("VERSION") == (0, told)


def test_it_starts_fast() -> None:
    """In processor time, for this machine may have more to do."""
    program = shutil.which("vxcore-cni", path=str(Path(sys.executable).parent))
    words = [program] if program else [sys.executable, "-c", "from vxcore.cni.plugin import main; main()"]

    def took() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            words, check=True, env={**os.environ, "CNI_COMMAND": "VERSION"}, stdout=subprocess.DEVNULL
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert any(took() < 0.1 for _ in range(20))


def test_it_imports_nothing_heavy() -> None:
    line = "import sys, vxcore.cni.plugin; print(*sys.modules)"
    modules = set(run(sys.executable, "-c", line).stdout.split())
    assert (
        modules & {"numpy", "msgspec", "pyroute2", "asyncio", "argparse", "subprocess", "vxcore.config"}
        == set()
    )
