"""BGP speakers on hosts of a Lan: GoBGP, by which vxcore speaks, and FRR with the kernel's vxlan device.

Place in the house: above hosts and rooms, under the tests of the control plane EVPN.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from support.hosts import DEADLINE_S, Host, run, wait_until
from support.rooms import program

AS = 65000
_FRR_LIBRARIES = Path(sys.prefix, "frr", "usr", "lib", f"{os.uname().machine}-linux-gnu", "frr")
_GROUP = "frrvty:x:59999:root\n"
_GOBGP_NEIGHBOUR = """
[[neighbors]]
[neighbors.config]
neighbor-address = "{address}"
peer-as = {asn}
[neighbors.transport.config]
local-address = "{own}"
[neighbors.timers.config]
connect-retry = 1
idle-hold-time-after-reset = 1
[neighbors.route-reflector.config]
route-reflector-client = {client}
route-reflector-cluster-id = "192.0.2.99"
[neighbors.graceful-restart.config]
enabled = true
restart-time = 60
[[neighbors.afi-safis]]
[neighbors.afi-safis.config]
afi-safi-name = "l2vpn-evpn"
[neighbors.afi-safis.mp-graceful-restart.config]
enabled = true
"""
_BGPD = """
router bgp {asn}
 bgp router-id {address}
 no bgp default ipv4-unicast
 neighbor {neighbour} remote-as {asn}
 neighbor {neighbour} timers connect 1
 address-family l2vpn evpn
  neighbor {neighbour} activate
  advertise-all-vni
 exit-address-family
"""


class GoBgp:
    """GoBGP on `host`, which has neighbours with these addresses, or reflects the routes of these clients.

    `own` is its address, that of the host if it is not given; its API listens in the host's namespace. A
    context manager.
    """

    def __init__(
        self,
        host: Host,
        folder: Path,
        *neighbours: str,
        reflects: bool = False,
        own: str = "",
        api: str = "127.0.0.1:50051",
    ) -> None:
        own = own or host.v4
        self.host, self._folder, self._api = host, folder / f"gobgp-{own}", api
        self._folder.mkdir(parents=True, exist_ok=True)
        said = f'[global.config]\nas = {AS}\nrouter-id = "{own}"\nlocal-address-list = ["{own}"]\n'
        for each in neighbours:
            words = {"address": each, "own": own, "asn": AS, "client": str(reflects).lower()}
            said += _GOBGP_NEIGHBOUR.format(**words)
        (self._folder / "gobgpd.toml").write_text(said)
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> GoBgp:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self, *words: str) -> None:
        """Start it; wait until its API answers."""
        line = [program("gobgpd"), "-f", str(self._folder / "gobgpd.toml"), *words]
        line += ["--api-hosts", self._api, "--pprof-disable", "-p"]
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.host.namespace, *line], stdout=log, stderr=log
            )
        wait_until(lambda: self("global", check=False), f"GoBGP answers; see {self._folder}/log")

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """At once, as if it had crashed."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.kill()
            self.process.wait(DEADLINE_S)

    def __call__(self, *words: str, check: bool = True) -> str:
        """What a command of its client prints."""
        return self.host.run(program("gobgp"), "--target", self._api, *words, check=check).stdout

    @contextmanager
    def following(self) -> Iterator[list[str]]:
        """What becomes of its routes meanwhile, a line each: [ROUTE] or [DELROUTE] and which."""
        words = (program("gobgp"), "monitor", "global", "rib", "-a", "evpn", "--current")
        process = self.host.start(*words)
        assert process.stdout is not None
        lines = [process.stdout.readline()]  # it has begun
        yield lines
        process.terminate()
        lines += process.communicate(timeout=DEADLINE_S)[0].splitlines()

    def routes(self) -> list[str]:
        """Its EVPN routes, a line each."""
        lines = self("global", "rib", "-a", "evpn").splitlines()[1:]
        return [line for line in lines if "[type:" in line]


class Frr:
    """FRR on `host`, whose bridge br42 has the kernel's device vx42, VNI 42, that learns nothing.

    A context manager; the Lan ends its processes.
    """

    def __init__(self, host: Host, folder: Path, neighbour: Host) -> None:
        self.host, self._folder = host, folder / f"frr{host.number}"
        self._folder.mkdir(parents=True)
        (self._folder / "zebra.conf").write_text(f"hostname h{host.number}\n")
        conf = _BGPD.format(asn=AS, address=host.v4, neighbour=neighbour.v4)
        (self._folder / "bgpd.conf").write_text(conf)
        (self._folder / "vtysh.conf").write_text("username root nopassword\n")
        # FRR wants this group of users, which its installation would have made.
        (self._folder / "group").write_text(Path("/etc/group").read_text() + _GROUP)

    def device(self) -> None:
        """The bridge and the vxlan device."""
        ip = self.host.ip
        ip("link", "add", "br42", "type", "bridge", "mcast_snooping", "0")
        words = ("type", "vxlan", "id", "42", "local", self.host.v4, "dstport", "4789", "nolearning")
        ip("link", "add", "vx42", *words)
        ip("link", "set", "vx42", "mtu", "1450", "master", "br42", "up")
        ip("link", "set", "vx42", "type", "bridge_slave", "learning", "off")
        ip("link", "set", "br42", "mtu", "1450", "up")

    def start(self) -> None:
        """Start it; wait until it answers."""
        self.device()
        self._start("zebra")
        wait_until(lambda: self._folder.joinpath("zserv.api").exists(), "zebra listens")
        self._start("bgpd")
        wait_until(lambda: self("show bgp summary json", check=False), "FRR answers")

    def _start(self, name: str) -> None:
        folder = self._folder
        files = ("-f", f"{folder}/{name}.conf", "-i", f"{folder}/{name}.pid", "-z", f"{folder}/zserv.api")
        words = (*files, "--vty_socket", str(folder), "-u", "root", "-g", "root", "-P", "0")
        line = f"mount --bind {folder}/group /etc/group && exec {program(name)} {' '.join(words)}"
        with (folder / "log").open(
            "ab"
        ) as log:  # in a mount namespace of its own, as `ip netns exec` makes it
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.host.namespace, "sh", "-c", line],
                stdout=log,
                stderr=log,
                text=True,
                env=self._environment,
            )
        self.host.processes.append(process)

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "LD_LIBRARY_PATH": str(_FRR_LIBRARIES)}

    def __call__(self, *commands: str, check: bool = True) -> Any:
        """What the last command answers, as JSON."""
        words = [
            program("vtysh"),
            "--config_dir",
            str(self._folder),
            "--vty_socket",
            str(self._folder),
        ]
        words += [word for command in commands for word in ("-c", command)]
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=DEADLINE_S, env=self._environment, check=False
        )
        assert done.returncode == 0 or not check, done.stderr + done.stdout
        return json.loads(done.stdout) if done.returncode == 0 and done.stdout.strip() else None

    def mac(self, mac: str) -> dict[str, Any]:
        """What it knows of a MAC address in VNI 42; empty: nothing."""
        return dict(self(f"show evpn mac vni 42 mac {mac} json").get(mac, {}))

    def sends_to(self, mac: str) -> str | None:
        """To which VTEP the kernel sends frames for a MAC address."""
        rows = json.loads(run("bridge", "-n", self.host.namespace, "-j", "fdb", "show", "dev", "vx42").stdout)
        return next((row["dst"] for row in rows if row["mac"] == mac and "dst" in row), None)


class Guest:
    """A container behind a bridge of a host, with a MAC address and 10.42.0.n; a context manager."""

    def __init__(self, host: Host, number: int, mac: str, bridge: str = "br42") -> None:
        self.outside, self._bridge, self._port = host, bridge, f"c{number}"
        self.inside = Host(f"{host.namespace}c{number}", number)
        self.v4, self.mac = f"10.42.0.{number}", mac

    def __enter__(self) -> Guest:
        inside, mtu = self.inside, "1450"
        run("ip", "netns", "add", inside.namespace)
        peer = ("peer", "name", "eth", "mtu", mtu, "netns", inside.namespace)
        self.outside.ip("link", "add", self._port, "mtu", mtu, "type", "veth", *peer)
        inside.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
        self.has(self.mac)
        inside.ip("address", "add", f"{self.v4}/24", "dev", "eth")
        inside.ip("link", "set", "eth", "up")
        self.outside.ip("link", "set", self._port, "master", self._bridge, "up")
        return self

    def has(self, mac: str) -> None:
        """Be somebody else from now on; the bridge does not forget at once who was there."""
        self.mac = mac
        self.inside.ip("link", "set", "eth", "address", mac)

    def speaks(self) -> None:
        """One frame to all."""
        self.inside.run("ping", "-c", "1", "-W", "0.05", "10.42.0.250", check=False)

    def __exit__(self, *_: object) -> None:
        run("ip", "netns", "delete", self.inside.namespace, check=False)
