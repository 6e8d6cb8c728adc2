"""A VTEP goes to another process while packets flow: none is lost, and what fails leaves it where it is."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.hosts import DEADLINE_S, Lan, VtepProcess, wait_until
from support.tree import ROOT
from support.upgrading import (
    KINDS,
    VXCORE,
    Talk,
    Upgradable,
    answers,
    output,
    up,
    upgraded_under_traffic,
)

pytestmark = pytest.mark.usefixtures("root", "nothing_is_left")
KERNEL = tuple(int(word) for word in platform.release().split(".")[:2])
AS_OTHERS = (sys.executable, str(ROOT / "tests" / "support" / "sandbox.py"), "-")
CAPABILITIES = "+net_admin,+net_raw"
UNPRIVILEGED = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", f"--inh-caps={CAPABILITIES}"),
    *(f"--ambient-caps={CAPABILITIES}", f"--bounding-set=-all,{CAPABILITIES}"),
)
NEEDS_TUNNELS = pytest.mark.skipif(KERNEL < (6, 17), reason="tunnel offloads of TAPs came with Linux 6.17")


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan(2) as made:
        yield made


def carries_on(lan: Lan, vtep: Upgradable, n_upgrades: int) -> None:
    """What is missing in the end, kernels have had no room for, which a busy machine may come to."""
    found = upgraded_under_traffic(lan, vtep, n_upgrades)
    assert found.missing <= found.dropped, found
    assert found.repeated == 0
    assert found.sent > 1000, "it was no test"
    assert found.talked > 0


# Every kind of port


def test_no_packet_is_lost_and_no_connection_breaks_over_three_upgrades(lan: Lan) -> None:
    carries_on(lan, KINDS["udp, tap"](lan), 3)


@pytest.mark.parametrize("kind", ["packet, tap", "xdp, tap", "udp, packet", "udp, xdp"])
def test_other_ports_are_handed_over_too(lan: Lan, kind: str) -> None:
    carries_on(lan, KINDS[kind](lan), 2)


@NEEDS_TUNNELS
def test_an_underlay_tap_is_handed_over_too(lan: Lan) -> None:
    carries_on(lan, KINDS["tap, tap"](lan), 2)


def test_several_lanes_are_handed_over_too(lan: Lan) -> None:
    carries_on(lan, up(lan, "--lanes", "2"), 1)


# What is kept

FILE = """\
state.interval = 1
state.file = "{folder}/learned"
[underlay]
local = "{one}"
[metrics]
listen = "127.0.0.1:9464"
[[segment]]
vni = 42
tap = "vx42"
remotes = ["{two}"]
[[segment]]
vni = 43
tap = "trunk"
vlan = 43
dstport = 4799
remotes = ["{two}"]
[[segment]]
vni = 44
tap = "trunk"
vlan = 44
remotes = ["{two}"]
"""


def tables(vtep: Upgradable) -> dict[str, list[dict[str, object]]]:
    """Without what goes on."""
    shown = {name: vtep.show(name) for name in ("fdb", "remote", "neighbour")}
    for row in shown["fdb"]:
        del row["age_s"]
    for row in shown["remote"]:
        for name in ("rx_packets", "rx_bytes", "tx_packets", "tx_bytes"):
            del row[name]
    return {**shown, "remote": sorted(shown["remote"], key=lambda row: row["address"])}


def test_what_it_knew_and_was_told_is_kept_and_the_file_is_read_again(lan: Lan, tmp_path: Path) -> None:
    one, two = lan.hosts
    file = tmp_path / "vx.toml"
    file.write_text(FILE.format(one=one.v4, two=two.v4, folder=tmp_path))
    vtep = Upgradable(one, VtepProcess(one, "run", str(file), n_segments=3))
    one.overlay("vx42")
    two.kernel_vxlan([one])
    answers(one)
    for words in (
        f"fdb add 02:00:00:00:00:01 dst {two.v4} vni 42",
        f"fdb add 02:00:00:00:00:02 dst {two.v4} vni 43 control sequence 7",
        f"fdb add 02:00:00:00:00:03 dst {two.v4} vni 44 sticky sequence 2",
        "remote add 192.0.2.77 vni 42",
        "neighbour add 10.42.0.7 lladdr 02:00:00:00:00:07 vni 42 router",
        "segment set 42 --ageing 77",
        f"segment add --vni 45 --tap vx45 --remote {two.v4} --source any",
    ):
        one.run(*VXCORE, *words.split())
    known = tables(vtep)
    saved = one.run(*VXCORE, "save").stdout
    for _ in range(2):
        vtep.upgrade()
        assert tables(vtep) == known
        assert one.run(*VXCORE, "save").stdout == saved
    assert {row["kind"] for row in known["fdb"]} == {"learned", "static", "control", "sticky"}
    answers(one)
    script = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9464/metrics').read().decode())"
    assert "vxcore_received_packets_total" in one.run(sys.executable, "-c", script).stdout
    assert one.run(*VXCORE, "reload").stdout == "reloaded: 3 segments\n"
    wait_until(lambda: "vx45" not in one.ip("link").stdout, "the device is gone")
    vtep.stop()
    assert "vx42" not in one.ip("link").stdout
    assert (tmp_path / "learned").exists()


SWITCH = """\
underlay.local = "{one}"
[[segment]]
vni = 42
remotes = ["{two}"]
ports = [{{kind = "tap", dev = "vx42"}}, {{kind = "tap", dev = "other"}}]
"""


def test_hosts_behind_several_ports_are_known_in_the_new_process(lan: Lan, tmp_path: Path) -> None:
    one, two = lan.hosts
    file = tmp_path / "vx.toml"
    file.write_text(SWITCH.format(one=one.v4, two=two.v4))
    vtep = Upgradable(one, VtepProcess(one, "run", str(file)))
    one.overlay("vx42")
    one.ip("link", "set", "other", "up")
    two.kernel_vxlan([one])
    answers(one)
    known = tables(vtep)
    assert {"vx42", None} <= {row["dev"] for row in known["fdb"]}
    vtep.upgrade()
    now = tables(vtep)["fdb"]
    assert [row for row in known["fdb"] if row not in now] == []
    vtep.stop()


def test_a_tap_that_was_there_before_is_put_back_by_the_last_process_alone(lan: Lan) -> None:
    one, _ = lan.hosts
    one.ip("tuntap", "add", "vx42", "mode", "tap", "vnet_hdr")
    one.ip("link", "set", "vx42", "mtu", "1234")
    vtep = up(lan)
    answers(one)
    for _ in range(2):
        vtep.upgrade()
        assert one.mtu("vx42") == 1450
    answers(one)
    vtep.stop()
    assert one.mtu("vx42") == 1234


@pytest.mark.parametrize("by", ["itself", "others"])
def test_a_confined_vtep_is_upgraded_to_a_confined_one(lan: Lan, public_file: Path, by: str) -> None:
    one, _ = lan.hosts
    public_file.parent.chmod(0o777)
    path = str(public_file.with_name("control.sock"))
    options, confined = (("--user", "nobody"), ()) if by == "itself" else ((), UNPRIVILEGED)
    vtep = up(lan, *options, "--control", path, before=(*AS_OTHERS, *confined))
    vtep.before, vtep.asking = AS_OTHERS, ("--control", path)
    for _ in range(2):
        vtep.upgrade()
        status = Path(f"/proc/{vtep.pid}/status").read_text()
        assert "\nUid:\t65534\t65534\t65534\t" in status
        assert ("\nSeccomp:\t2\n" in status) == (by == "itself")
        assert "\nCapBnd:\t0000000000003000\n" in status
        assert "\nCapEff:\t0000000000003000\n" in status  # CAP_NET_ADMIN, CAP_NET_RAW
        answers(one)
    vtep.stop()


def test_it_is_taken_over_from_another_network_namespace(lan: Lan) -> None:
    one, _ = lan.hosts
    vtep = up(lan)
    socket = f"/run/vxcore/netns-{one.namespace}.sock"
    done = lan.on_switch(*VXCORE, "upgrade", "--control", socket)
    assert "descriptors were handed over" in done.stdout
    vtep.pid = int(done.stdout.split()[1])
    assert vtep.show()["pid"] == vtep.pid
    answers(one)
    assert output(vtep.vtep.process) == f"upgraded pid {vtep.pid}\n"
    vtep.stop()


# What fails

BEGIN = """\
#!{python}
import sys, time
from vxcore.control.client import Client
from vxcore.handover import Channel, Final, Ready, VERSIONS, ask_for
client = Client(sys.argv[sys.argv.index("--control") + 1])
"""
ASKS = (
    BEGIN
    + """
_, sock = client.become("takeover", versions=VERSIONS)
channel = Channel(sock)
"""
)
FAILURES = {
    "no vxcore": ("#!/bin/sh\necho what is takeover >&2\nexit 3\n", "what is takeover", ""),
    "another version": (
        BEGIN + 'client.become("takeover", versions=[98, 99])',
        "hands over in version 1, and the new one knows 98, 99",
        "",
    ),
    "ends at once": (ASKS + 'sys.exit("broken")', "broken", "has hung up"),
    "talks rubbish": (
        ASKS + 'sock.sendall(b"rubbish, and more of it" * 99); sys.exit(sock.recv(1 << 20) and "rubbish")',
        "said nothing",
        "speaks otherwise",
    ),
    "ends when asked": (ASKS + 'ask_for(channel); sys.exit("does not like it")', "like it", "has hung up"),
    "ends when it is its turn": (
        ASKS + 'ask_for(channel); channel.send(Ready()); channel.receive(Final, 9); sys.exit("too late")',
        "too late",
        "has hung up",
    ),
    "says nothing when it is its turn": (
        ASKS + "ask_for(channel); channel.send(Ready()); channel.receive(Final, 9); time.sleep(99)",
        "said nothing",
        "does not answer",
    ),
}


@pytest.mark.parametrize("underlay", ["udp", "packet"])
def test_a_new_process_that_fails_leaves_the_old_one_going(lan: Lan, tmp_path: Path, underlay: str) -> None:
    one, two = lan.hosts
    vtep = up(lan, "--underlay", underlay)
    answers(one)
    talk = Talk(one, two, "10.42.0.2")
    program = tmp_path / "vxcore"
    logged = []
    for text, said, noted in FAILURES.values():
        program.write_text(text.replace("{python}", sys.executable))
        program.chmod(0o755)
        told = vtep.fails("--command", str(program))
        assert said in told
        assert f"; process {vtep.pid} goes on\n" in told
        logged += [noted] if noted else []
        answers(one)
    assert "No such file" in vtep.fails("--command", str(tmp_path / "none"))
    vtep.upgrade()
    assert talk.finish() > 0
    log = vtep.stop()
    refusals = [line for line in log.splitlines() if "this one goes on" in line]
    assert len(refusals) == len(logged), log
    assert all(noted in line for noted, line in zip(logged, refusals, strict=True)), refusals


def test_only_root_and_its_own_user_may_take_it(lan: Lan) -> None:
    one, _ = lan.hosts
    vtep = up(lan)
    socket = f"/run/vxcore/netns-{one.namespace}.sock"
    Path(socket).chmod(0o666)
    script = f"""
import os, sys
import vxcore.control.client
os.setgroups([]); os.setgid(65534); os.setuid(65534)
from vxcore.control.client import Client
client = Client({socket!r})
client.become("takeover", versions=[1])
"""
    assert "may not use this socket" in one.run(sys.executable, "-c", script, check=False).stderr
    assert vtep.show()["pid"] == vtep.pid
    vtep.stop()


def test_it_lives_on_when_nobody_waits_to_hear_that_it_was_upgraded(lan: Lan) -> None:
    one, _ = lan.hosts
    vtep = up(lan)
    new = one.start(*VXCORE, "takeover")
    assert new.stdout is not None
    new.stdout.close()
    assert output(vtep.vtep.process) == f"upgraded pid {new.pid}\n"
    assert vtep.vtep.process.wait(DEADLINE_S) == 0
    answers(one)
    new.terminate()
    assert new.wait(DEADLINE_S) == 0


def test_who_is_told_to_end_ends_while_a_new_process_prepares(lan: Lan, tmp_path: Path) -> None:
    one, _ = lan.hosts
    vtep = up(lan)
    program = tmp_path / "vxcore"
    text = ASKS + "ask_for(channel); print('asked', flush=True); print(channel.receive(Final, 99))"
    program.write_text(text.replace("{python}", sys.executable))
    program.chmod(0o755)
    new = one.start(str(program), "--control", f"/run/vxcore/netns-{one.namespace}.sock")
    assert new.stdout is not None
    assert new.stdout.readline() == "asked\n"
    log = vtep.stop()
    assert "the other process has hung up" in log
    assert "the other process has hung up" in new.communicate()[1]
    assert "vx42" not in one.ip("link").stdout


IMPOSTOR = """
import json, os, socket, sys
from vxcore.control import PROTOCOL
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sock = socket.socket(socket.AF_UNIX)
sock.bind(sys.argv[1])
sock.listen()
print("listens", flush=True)
client, _ = sock.accept()
said = client.makefile("rw")
for line in ({"vxcore": "9", "protocol": PROTOCOL, "pid": int(sys.argv[2])}, {"id": 1, "ok": {"version": 1}}):
    said.write(json.dumps(line) + "\\n")
    said.flush()
    said.readline()
"""


def test_a_user_cannot_have_root_take_a_vtep_over_that_is_not_his(lan: Lan, public_file: Path) -> None:
    one, _ = lan.hosts
    public_file.parent.chmod(0o777)
    path = str(public_file.with_name("control.sock"))
    impostor = one.start(sys.executable, "-c", IMPOSTOR, path, str(os.getpid()))
    assert output(impostor) == "listens\n"
    done = one.run(*VXCORE, "takeover", "--control", path, check=False)
    assert done.returncode == 1
    assert f"process {os.getpid()} is of user 0, and the control socket that names it of 65534" in done.stderr
