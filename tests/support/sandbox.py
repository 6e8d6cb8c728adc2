"""What systemd would do for a unit, as far as it can be done without it: run a command in the unit's sandbox.

Place in the house: a program that interop tests start as root in front of a VTEP,
``sandbox.py UNIT COMMAND...``. Applied are user, capabilities, devices, what is read-only, address families,
system calls and W^X, read from the unit's file; not its cgroup, nor its view of /proc.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import socket
import stat
import struct
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

NOBODY = 65534
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 1, 32, 4096, 16384, 1 << 18
PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_SET_MDWE = 22, 2, 65
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # of classic BPF, linux/bpf_common.h
ALLOW, REFUSE = 0x7FFF0000, 0x00050000  # linux/seccomp.h
NR_AT, ARCH_AT, FIRST_ARGUMENT_AT = 0, 4, 16  # in struct seccomp_data
FAMILY_REFUSED = 97  # EAFNOSUPPORT, as systemd has it


def settings(unit: Path) -> dict[str, list[str]]:
    """The words of each directive of [Service], of all its lines."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in unit.read_text().partition("[Service]")[2].splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found[key].extend(f"~{word}" if value[0] == "~" else word for word in value.lstrip("~").split())
    return found


# Mounts


def mount(source: str, target: str, kind: str = "", flags: int = 0) -> None:
    if LIBC.mount(source.encode(), target.encode(), kind.encode() or None, flags, None):
        raise OSError(ctypes.get_errno(), f"mount {target}")


def hide_what_is_not_seen(unit: dict[str, list[str]]) -> None:
    """Only the devices that the unit allows under /dev/net, and a system that cannot be written."""
    if LIBC.unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    mount("none", "/dev/net", "tmpfs")
    if "/dev/net/tun" in unit["DeviceAllow"]:
        os.mknod("/dev/net/tun", stat.S_IFCHR | 0o666, os.makedev(10, 200))
        Path("/dev/net/tun").chmod(0o666)  # whatever the umask
    read_only = {
        "/": unit["ProtectSystem"] == ["strict"],
        "/proc/sys": unit["ProtectKernelTunables"] == ["yes"],
    }
    for path in [path for path, wanted in read_only.items() if wanted]:
        if path != "/":
            mount(path, path, flags=MS_BIND)
        mount("none", path, flags=MS_REMOUNT | MS_BIND | MS_RDONLY)


# User and capabilities


def setpriv(unit: dict[str, list[str]]) -> list[str]:
    """The command that gives up what the unit does not keep."""
    kept = [name.removeprefix("CAP_").lower() for name in unit["AmbientCapabilities"]]
    plus = ",".join(f"+{name}" for name in kept)
    user = NOBODY if others_may_read() else 0
    return [
        *("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs"),
        *(f"--bounding-set=-all,{plus}", f"--inh-caps=-all,{plus}", f"--ambient-caps=-all,{plus}"),
    ]


def others_may_read() -> bool:
    """Whether another user can reach this source and this Python; not, if they are in a home directory."""
    folders = {*Path(__file__).resolve().parents, *Path(sys.prefix).parents, *Path(sys.base_prefix).parents}
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in folders)


# System calls


def allowed_calls(unit: dict[str, list[str]]) -> set[int]:
    """The numbers of the system calls that the unit's filter lets through."""
    allowed: set[str] = set()
    for word in unit["SystemCallFilter"]:
        names = members(word.removeprefix("~"))
        allowed = allowed - names if word.startswith("~") else allowed | names
    numbers = call_numbers()
    return {numbers[name] for name in allowed if name in numbers}


def members(name: str) -> set[str]:
    """The names in a set of system calls such as @system-service."""
    if not name.startswith("@"):
        return {name}
    words = ["systemd-analyze", "--no-pager", "syscall-filter", name]
    lines = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[1:]
    found = [line.split()[0] for line in lines if line.startswith("  ") and not line.strip().startswith("#")]
    return set().union(*map(members, found))


def call_numbers() -> dict[str, int]:
    """System calls by name, as the C compiler has them."""
    words = ["gcc", "-dM", "-E", "-include", "sys/syscall.h", "-x", "c", "/dev/null"]
    text = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    defined = dict(re.findall(r"^#define __NR(?:3264)?_(\w+) (\w+)$", text, re.MULTILINE))
    return {name: int(value) for name, value in defined.items() if value.isdecimal()}


def load_filter(calls: set[int], families: set[int]) -> None:
    """Let these system calls through, and socket() for these families; EPERM for all others."""
    socket_nr = call_numbers()["socket"]
    lines = [(LOAD, 0, 0, ARCH_AT), (EQUAL, 1, 0, AUDIT_ARCH[platform.machine()]), (RETURN, 0, 0, REFUSE | 1)]
    lines += [(LOAD, 0, 0, NR_AT)]
    for number in sorted(calls - {socket_nr}):
        lines += [(EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW)]
    lines += [(EQUAL, 1, 0, socket_nr), (RETURN, 0, 0, REFUSE | 1), (LOAD, 0, 0, FIRST_ARGUMENT_AT)]
    for family in sorted(families):
        lines += [(EQUAL, 0, 1, family), (RETURN, 0, 0, ALLOW)]
    lines += [(RETURN, 0, 0, REFUSE | FAMILY_REFUSED)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(lines), ctypes.addressof(code)))
    if LIBC.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


AF_XDP = 44


def main() -> None:
    unit, command = settings(Path(sys.argv[1])), sys.argv[2:]
    if os.environ.get("SANDBOX_CALLS") is None:
        os.environ["SANDBOX_CALLS"] = ",".join(map(str, allowed_calls(unit)))  # while all can be read
        hide_what_is_not_seen(unit)
        program = [*setpriv(unit), sys.executable, *sys.argv]
        os.execv(shutil.which(program[0]) or program[0], program)
    calls = {int(word) for word in os.environ.pop("SANDBOX_CALLS").split(",")}
    names = {"AF_XDP": AF_XDP}
    families = {names.get(name) or getattr(socket, name) for name in unit["RestrictAddressFamilies"]}
    if unit["MemoryDenyWriteExecute"] == ["yes"]:
        LIBC.prctl(PR_SET_MDWE, 1, 0, 0, 0)  # Linux 6.3
    load_filter(calls, families)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
