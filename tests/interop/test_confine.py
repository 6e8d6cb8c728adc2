"""A VTEP that has given up what it does not need does all its work; what is forbidden is refused."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.hosts import Lan, VtepProcess
from support.tree import ROOT

pytestmark = pytest.mark.usefixtures("root")
USER = "nobody"
AS_OTHERS = (sys.executable, str(ROOT / "tests" / "support" / "sandbox.py"), "-")
FILE = """\
[process]
user = "{user}"

[metrics]

[underlay]
local = "192.0.2.1"
kind = "{kind}"

[[segment]]
vni = 42
tap = "vx42"
remotes = ["192.0.2.2"]
"""
SECOND = """
[[segment]]
vni = 43
tap = "vx43"
remotes = ["192.0.2.2"]
"""
# Each line on stdin makes a thread of the running VTEP try what is forbidden.
TRIES = """
import os, sys, threading
from vxcore import config, daemon

def vtep(settings):
    from vxcore.vtep import Vtep
    threading.Thread(target=try_it, daemon=True).start()
    return Vtep(settings)

def try_it():
    for line in sys.stdin:
        try:
            os.execv("/bin/true", ["true"])
        except OSError as error:
            print("refused", error.errno, flush=True)

sys.exit(daemon.serve(config.load(sys.argv[1]), vtep))
"""


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan(2) as lan:
        yield lan


@pytest.mark.parametrize("kind", ["udp", "packet"])
def test_a_confined_vtep_does_all_its_work(lan: Lan, public_file: Path, kind: str) -> None:
    one, two = lan.hosts
    text = FILE.format(user=USER, kind=kind)
    public_file.write_text(text)
    two.kernel_vxlan([one])
    vtep = VtepProcess(one, "run", str(public_file), before=AS_OTHERS)
    one.overlay("vx42")
    one.ping("10.42.0.2")
    one.transfer(two, "10.42.0.2", "tcp", 2_000_000)
    for changed in (text + SECOND, text):
        public_file.write_text(changed)
        vtep.process.send_signal(signal.SIGHUP)
        assert vtep.process.stdout is not None
        assert vtep.process.stdout.readline() == "reloaded\n"
        assert ("vx43" in one.ip("link").stdout) == (changed != text)
    script = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9464/metrics').read().decode())"
    assert "vxcore_received_packets_total" in one.run(sys.executable, "-c", script).stdout
    assert vtep.counters()["offloads"]["udp_gso"] == "on"
    public_file.write_text(text.replace("[process]", "[process]\nfilter = false"))
    vtep.process.send_signal(signal.SIGHUP)
    assert vtep.process.stdout.readline() == "not reloaded\n"
    log = vtep.stop()
    assert f"confined: user {USER}, CAP_NET_ADMIN CAP_NET_RAW, and system calls are filtered" in log
    assert "process: it cannot change while this runs; restart it" in log


def test_a_forbidden_call_is_refused_and_lanes_go_on(lan: Lan, public_file: Path) -> None:
    one, two = lan.hosts
    public_file.write_text(FILE.format(user=USER, kind="udp"))
    two.kernel_vxlan([one])
    command = (*AS_OTHERS, sys.executable, "-c", TRIES, str(public_file))
    process = one.start(*command, stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline().startswith("ready ")
    one.overlay("vx42")
    for _ in range(3):
        one.ping("10.42.0.2")
        print(file=process.stdin, flush=True)
        assert process.stdout.readline() == "refused 1\n"  # EPERM
    one.ping("10.42.0.2")
    process.terminate()
    assert process.wait(timeout=15) == 0


def test_a_node_that_the_user_may_not_open_is_named(lan: Lan, public_file: Path) -> None:
    one = lan.hosts[0]
    public_file.write_text(FILE.format(user=USER, kind="udp"))
    closed = ("sh", "-c", 'chmod 600 /dev/net/tun && exec "$@"', "sh")
    command = (*AS_OTHERS, *closed, sys.executable, "-m", "vxcore", "run", str(public_file))
    run = one.run(*command, check=False)
    assert (run.returncode, run.stdout) == (1, "")
    assert "/dev/net/tun: no permission" in run.stderr.splitlines()[-1]
