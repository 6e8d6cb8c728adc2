"""Open vSwitch's userspace datapath (dpif-netdev), one private instance in a host's namespace.

Place in the house: above topology, beside vteps, which it serves. Nothing of it is a service: its
database, sockets and logs are in the stage's directory, and the stage ends its processes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from support.hosts import Host, run, wait_until

from benchmarks.datapath.topology import add_underlay_address
from benchmarks.peers import INSTALL, AbsentError

# Where `make` unpacked the package, whose installation would start a service; else the system's.
UNPACKED = Path(sys.prefix, "openvswitch")
_DAEMON = "usr/lib/openvswitch-switch/ovs-vswitchd"
_SCHEMA = "usr/share/openvswitch/vswitch.ovsschema"


@cache
def find(path: str) -> str:
    """A file of the package, or a program on the path; AbsentError when it is not there."""
    for top in (UNPACKED, Path("/")):
        if (top / path).exists():
            return str(top / path)
    found = shutil.which(Path(path).name, path="/usr/bin:/usr/sbin:/bin:/sbin")
    if found is None:
        raise AbsentError(f"Open vSwitch's {path} is not on this machine; {INSTALL}")
    return found


def version() -> str:
    """Of the daemon."""
    shown = subprocess.run([find(_DAEMON), "--version"], check=True, capture_output=True, text=True)
    return shown.stdout.partition("\n")[0]


class Switch:
    """Bridge `phy` on the underlay device `eth`, bridge `vx42` with the tunnel port `vtep`."""

    def __init__(self, host: Host, remote: Host, directory: Path, inner_mtu: int) -> None:
        self.host = host
        self.directory = directory / f"ovs{host.number}"
        self.directory.mkdir()
        # What is not told where its files are looks here, and not in the system's own places.
        places = dict.fromkeys(
            ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"), str(self.directory)
        )
        self.environment = {**os.environ, **places}
        self.pids = [self._start_database(), self._start_daemon()]
        self._make_bridges(remote, inner_mtu)

    def _start_database(self) -> int:
        database = str(self.directory / "conf.db")
        run(find("usr/bin/ovsdb-tool"), "create", database, find(_SCHEMA))
        process = self.host.start(
            find("usr/sbin/ovsdb-server"),
            f"--remote=punix:{self.directory}/db.sock",
            f"--unixctl={self.directory}/db.ctl",
            f"--log-file={self.directory}/db.log",
            "-vconsole:off",
            database,
            env=self.environment,
        )
        wait_until((self.directory / "db.sock").exists, "the database of Open vSwitch listens")
        self.vsctl("--no-wait", "init")
        return process.pid

    def _start_daemon(self) -> int:
        log = self.directory / "switch.log"
        process = self.host.start(
            find(_DAEMON),
            f"unix:{self.directory}/db.sock",
            f"--unixctl={self.directory}/switch.ctl",
            f"--log-file={log}",
            "-vconsole:off",
            env=self.environment,
        )
        wait_until((self.directory / "switch.ctl").exists, "the daemon of Open vSwitch listens")
        return process.pid

    def _make_bridges(self, remote: Host, inner_mtu: int) -> None:
        host, kind = self.host, "datapath_type=netdev"
        host.ip("address", "flush", "dev", "eth")
        self.vsctl("add-br", "phy", "--", "set", "bridge", "phy", kind, "--", "add-port", "phy", "eth")
        add_underlay_address(host, "phy")
        host.ip("link", "set", "phy", "up")
        options = (f"options:remote_ip={remote.v4}", f"options:local_ip={host.v4}", "options:key=42")
        self.vsctl("add-br", "vx42", "--", "set", "bridge", "vx42", kind)
        self.vsctl("set", "interface", "vx42", f"mtu_request={inner_mtu}")
        self.vsctl("add-port", "vx42", "vtep", "--", "set", "interface", "vtep", "type=vxlan", *options)

    def vsctl(self, *words: str) -> None:
        """Change the configuration, and wait until the daemon has done it."""
        command = (find("usr/bin/ovs-vsctl"), f"--db=unix:{self.directory}/db.sock", "--timeout=10", *words)
        self.host.run(*command)

    def appctl(self, *words: str) -> str:
        """Ask the daemon."""
        command = ("ovs-appctl", "--timeout=10", "--target", f"{self.directory}/switch.ctl", *words)
        return self.host.run(*command).stdout
