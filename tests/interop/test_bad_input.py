"""What a user can get wrong, and what the host looks like afterwards."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.hosts import Host, Lan, VtepProcess, wait_until

pytestmark = pytest.mark.usefixtures("root")
VXCORE = (sys.executable, "-m", "vxcore")


@pytest.fixture
def pair() -> Iterator[list[Host]]:
    with Lan(2) as lan:
        yield lan.hosts


def refused(host: Host, code: int, *arguments: str) -> str:
    """Run vxcore, require the exit code, one line on stderr and none on stdout; return the line."""
    done = host.run(*VXCORE, *arguments, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done.stderr
    assert done.stderr.startswith("vxcore: error: ")
    return done.stderr


def up(host: Host, other: Host, *options: str) -> tuple[str, ...]:
    return ("up", "--vni", "42", "--local", host.v4, "--remote", other.v4, "--tap", "vx42", *options)


def devices(host: Host) -> list[str]:
    return re.findall(r"^\d+: ([^:@]+)", host.ip("link", "show").stdout, re.MULTILINE)


def test_a_local_address_of_another_host(pair: list[Host]) -> None:
    one, two = pair
    line = refused(one, 2, "up", "--vni", "1", "--local", "192.0.2.77", "--remote", two.v4, "--tap", "vx42")
    assert "192.0.2.77 is not an address of this host" in line
    assert devices(one) == ["lo", "eth"]


def test_a_port_that_another_process_has_names_its_owner(pair: list[Host]) -> None:
    one, two = pair
    code = "import socket, sys; s = socket.socket(type=2)"
    code += "; s.bind((sys.argv[1], 4789)); print(flush=True); s.recv(1)"
    owner = one.start(sys.executable, "-c", code, one.v4)
    assert owner.stdout is not None
    owner.stdout.readline()
    line = refused(one, 1, *up(one, two))
    pid = re.search(r"UDP port 4789 on 192.0.2.1 is taken by python\S* \(pid (\d+)\)", line)
    assert pid is not None, line
    assert int(pid[1]) == owner.pid  # `ip netns exec` becomes the command that it runs
    assert devices(one) == ["lo", "eth"]


def test_a_port_that_the_kernel_has(pair: list[Host]) -> None:
    one, two = pair
    one.kernel_vxlan([two])
    line = refused(one, 1, "up", "--vni", "1", "--local", one.v4, "--remote", two.v4, "--tap", "other")
    assert "the kernel" in line
    assert "other" not in devices(one)


def test_a_tap_name_that_is_something_else(pair: list[Host]) -> None:
    one, two = pair
    one.ip("link", "add", "vx42", "type", "veth", "peer", "name", "veth2")
    assert "vx42 exists and is a veth device" in refused(one, 2, *up(one, two))
    assert "vx42" in devices(one)


def test_a_tun_device(pair: list[Host]) -> None:
    one, two = pair
    one.ip("tuntap", "add", "vx42", "mode", "tun")
    assert "vx42 exists with other settings" in refused(one, 2, *up(one, two))


def test_a_tap_in_use(pair: list[Host]) -> None:
    one, two = pair
    VtepProcess(one, *up(one, two))
    line = refused(one, 2, *up(one, two, "--dstport", "4790"))
    assert "vx42 is in use by another process" in line


def test_an_existing_tap_is_used_and_put_back(pair: list[Host]) -> None:
    one, two = pair
    one.ip("tuntap", "add", "vx42", "mode", "tap")
    one.ip("link", "set", "vx42", "mtu", "1234")
    vtep = VtepProcess(one, *up(one, two))
    assert one.mtu("vx42") == 1450
    vtep.stop()
    shown = one.ip("link", "show", "vx42").stdout
    assert "mtu 1234" in shown
    assert "UP" not in shown


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_the_host_is_left_as_it_was_found(pair: list[Host], sent: signal.Signals) -> None:
    one, two = pair
    vtep = VtepProcess(one, *up(one, two))
    assert "vx42" in devices(one)
    vtep.stop(sent)
    assert devices(one) == ["lo", "eth"]
    assert ":4789" not in one.run("cat", "/proc/net/udp").stdout


def test_no_route_to_the_remote(pair: list[Host]) -> None:
    one, _ = pair
    line = refused(one, 1, "up", "--vni", "1", "--local", one.v4, "--remote", "198.51.100.1", "--tap", "vx42")
    assert "no route to remote 198.51.100.1" in line
    assert devices(one) == ["lo", "eth"]


def test_a_device_that_is_not_there(pair: list[Host]) -> None:
    one, two = pair
    assert "dev nosuch: there is no such device" in refused(one, 2, *up(one, two, "--dev", "nosuch"))


def test_without_privilege(pair: list[Host]) -> None:
    one, two = pair
    drop = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "--no-new-privs")
    done = one.run(*drop, *VXCORE, *up(one, two), check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "vx42: no permission to open the TAP; root or CAP_NET_ADMIN is needed" in done.stderr


def test_cap_net_admin_is_privilege_enough(pair: list[Host]) -> None:
    one, two = pair
    two.kernel_vxlan([one])
    drop = ("setpriv", "--bounding-set", "-all,+net_admin", "--inh-caps", "-all", "--no-new-privs")
    process = one.start(*drop, *VXCORE, *up(one, two))
    assert process.stdout is not None
    assert process.stdout.readline().startswith("ready"), process.communicate()
    one.overlay("vx42")
    one.ping("10.42.0.2")


def test_no_dev_net_tun(pair: list[Host]) -> None:
    one, two = pair
    hide = 'mount -t tmpfs none /dev/net && exec "$@"'
    done = one.run("unshare", "-m", "sh", "-c", hide, "sh", *VXCORE, *up(one, two), check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "/dev/net/tun: No such file or directory; the kernel's tun module is needed" in done.stderr


def test_the_second_segment_fails_and_the_first_is_undone(pair: list[Host], tmp_path: Path) -> None:
    one, two = pair
    one.ip("link", "add", "vx43", "type", "veth", "peer", "name", "veth2")
    file = tmp_path / "vx.toml"
    segment = '[[segment]]\nvni = {n}\ntap = "vx{n}"\nremotes = ["{remote}"]\n'
    text = "".join(segment.format(n=n, remote=two.v4) for n in (42, 43))
    file.write_text(f'[underlay]\nlocal = "{one.v4}"\n{text}')
    assert "vx43 exists and is a veth device" in refused(one, 2, "run", str(file))
    assert "vx42" not in devices(one)


def test_a_file_with_two_segments_and_a_static_entry(pair: list[Host], tmp_path: Path) -> None:
    one, two = pair
    two.kernel_vxlan([one])
    file = tmp_path / "vx.toml"
    file.write_text(
        f"""
        [underlay]
        local = "{one.v4}"
        [[segment]]
        vni = 42
        tap = "vx42"
        learning = false
        remotes = ["{two.v4}"]
        fdb = [{{ mac = "{two.mac("vx42")}", remote = "{two.v4}" }}]
        [[segment]]
        vni = 43
        tap = "vx43"
        mtu = 1300
        """
    )
    vtep = VtepProcess(one, "run", str(file), n_segments=2)
    one.overlay("vx42")
    one.ping("10.42.0.2")
    assert one.mtu("vx43") == 1300
    assert vtep.counters()["fdb"]["entries"] == 1


@pytest.mark.parametrize(
    ("payload", "verdict"),
    [
        (b"\x08\x00\x00", "truncated"),
        (b"\x00" * 30, "no_vni_flag"),
        (b"\x08\x00\x00\x00\x00\x00\x2a\x00" + b"x" * 13, "inner_too_short"),
        (b"\x08\x00\x00\x00\x00\x00\x2b\x00" + b"x" * 60, "unknown_vni"),
        (b"\x08\x00\x00\x00\x00\x00\x2a\x00" + b"\x02" * 12 + b"\x81\x00" + b"x" * 60, "inner_vlan"),
    ],
)
def test_bad_packets_are_counted_under_their_verdict(pair: list[Host], payload: bytes, verdict: str) -> None:
    one, two = pair
    vtep = VtepProcess(one, *up(one, two))
    code = "import socket, sys; socket.socket(type=2).sendto(bytes.fromhex(sys.argv[1]), (sys.argv[2], 4789))"
    two.run(sys.executable, "-c", code, payload.hex(), one.v4)
    wait_until(lambda: vtep.counters()["drops"].get(verdict) == 1, f"one packet counted as {verdict}")


def test_a_config_file_that_is_wrong_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "vx.toml"
    file.write_text('[[segment]]\nvni = 99999999\ntap = "vx42"\nremotes = ["192.0.2.2"]\n')
    done = subprocess.run([*VXCORE, "run", str(file)], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        f"vxcore: error: {file}:2: segment[0].vni: 99999999 is not allowed; an integer from 0 to 16777215\n"
    )
