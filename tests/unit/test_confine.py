"""Least privilege: the numbers of system calls, and what a confined process can no longer do."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.peers import require_root, require_tool

from vxcore import config, confine
from vxcore.errors import ConfigError

USER = "nobody"


def test_numbers_are_those_of_the_compiler() -> None:
    column = {"x86_64": 0, "aarch64": 1}[platform.machine()]
    words = [require_tool("gcc"), "-dM", "-E", "-include", "sys/syscall.h", "-x", "c", "/dev/null"]
    text = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    known = {
        name: int(n) for name, n in re.findall(r"^#define __NR(?:3264)?_(\w+) (\d+)$", text, re.MULTILINE)
    }
    looked_at = {"clone": confine.CLONE, "clone3": confine.CLONE3, "socket": confine.SOCKET}
    for name, numbers in {**confine.REFUSED, **looked_at}.items():
        assert numbers[column] == known.get(name), name


CONFINED = """
import ctypes, json, os, socket, subprocess, sys, threading
from vxcore import config
from vxcore.confine import confine

def tried(what):
    try:
        what()
    except OSError as error:
        return error.errno
    except RuntimeError as error:
        return str(error)

def call(name, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)

def thread():
    ran = threading.Thread(target=print, args=("a thread",), kwargs={"file": sys.stderr})
    ran.start()
    ran.join()

settings = config.from_mapping({"underlay": {"local": "192.0.2.1"}, **json.loads(sys.argv[1])})
filtered = settings.process.filter
confine(settings)
with open("/proc/self/status") as file:
    status = {line.partition(":")[0]: line.partition(":")[2].strip() for line in file}
print(json.dumps({
    "thread": tried(thread),
    "exec": tried(lambda: os.execv("/bin/true", ["true"])) if filtered else None,
    "fork": tried(os.fork) if filtered else None,
    "spawn": tried(lambda: subprocess.run(["/bin/true"], check=True)),
    "unshare": tried(lambda: call("unshare", 0x40000000)),
    "mount": tried(lambda: call("mount", b"none", b"/mnt", b"tmpfs", 0, None)),
    "bpf": tried(lambda: call("syscall", {"x86_64": 321, "aarch64": 280}[os.uname().machine], 0, None, 0)),
    "setuid": tried(lambda: os.setuid(0)),
    "bluetooth": tried(lambda: socket.socket(31, socket.SOCK_RAW)),
    "udp": tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()),
    "packet": tried(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()),
    "netlink": tried(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()),
    "shadow": tried(lambda: open("/etc/shadow").close()),
    "tcp 80": tried(lambda: socket.create_server(("127.0.0.1", 81)).close()),
    "uid": os.getresuid(),
    "groups": os.getgroups(),
    **{name: status[name] for name in ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd", "NoNewPrivs")},
}))
"""
ADMIN_RAW, BPF = 0x3000, 1 << 39


def confined(**settings: Any) -> dict[str, Any]:
    """What a process says of itself that was confined by these settings."""
    words = [sys.executable, "-c", CONFINED, json.dumps(settings)]
    run = subprocess.run(words, check=True, capture_output=True, text=True)
    assert "a thread" in run.stderr
    return dict(json.loads(run.stdout))


@pytest.fixture
def as_root() -> None:
    require_root()


def test_another_user_keeps_what_ports_need_and_nothing_else(as_root: None) -> None:
    found = confined(process={"user": USER})
    capabilities = {name: int(found[name], 16) for name in found if name.startswith("Cap")}
    kept = {"CapEff": ADMIN_RAW, "CapPrm": ADMIN_RAW, "CapBnd": ADMIN_RAW}
    assert capabilities == {**kept, "CapInh": 0, "CapAmb": 0}
    assert len(set(found["uid"])) == 1
    assert found["uid"][0] != 0
    assert 0 not in found["groups"]
    assert found["NoNewPrivs"] == "1"
    assert (found["shadow"], found["tcp 80"]) == (13, 13)  # EACCES
    for name in ("thread", "udp", "packet", "netlink"):
        assert found[name] is None, name


def test_calls_that_no_vtep_makes_are_refused(as_root: None) -> None:
    found = confined(process={})
    for name in ("exec", "fork", "spawn", "unshare", "mount", "bpf", "setuid", "bluetooth"):
        assert found[name] == 1, name  # EPERM
    assert found["uid"] == [0, 0, 0]
    assert int(found["CapEff"], 16) == ADMIN_RAW


def test_without_the_filter_the_rest_is_given_up_all_the_same(as_root: None) -> None:
    found = confined(process={"filter": False, "user": USER})
    assert (found["spawn"], found["unshare"], found["bluetooth"] == 1) == (None, 1, False)
    assert int(found["CapEff"], 16) == ADMIN_RAW


def test_more_is_kept_where_ports_need_more(as_root: None) -> None:
    segment = {"vni": 42, "port": {"kind": "xdp", "dev": "veth0"}, "remotes": ["192.0.2.2"]}
    found = confined(process={}, segment=[segment], metrics={"listen": "127.0.0.1:99"})
    assert int(found["CapEff"], 16) == ADMIN_RAW | BPF | 1 << 10
    assert found["bpf"] == 22  # EINVAL: it was looked at
    assert found["tcp 80"] is None


def test_without_the_table_nothing_is_given_up() -> None:
    confine.confine(config.from_mapping({"underlay": {"local": "192.0.2.1"}}))
    assert "NoNewPrivs:\t0" in Path("/proc/self/status").read_text()


def test_a_user_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"underlay": {"local": "192.0.2.1"}, "process": {"user": "nosuchuser"}}
    with pytest.raises(ConfigError, match="no user nosuchuser"):
        confine.confine(config.from_mapping(settings))
    monkeypatch.setattr(confine.os, "geteuid", lambda: 12345)
    settings["process"] = {"user": USER}
    with pytest.raises(ConfigError, match="only root can become nobody"):
        confine.confine(config.from_mapping(settings))
