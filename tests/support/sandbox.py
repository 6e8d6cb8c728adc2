"""What systemd would do for a unit, as far as it can be done without it: run a command in the unit's sandbox.

Place in the house: a program that interop tests start as root in front of a VTEP,
``sandbox.py UNIT COMMAND...``. Applied are user, capabilities, devices, what is read-only, address families,
system calls and W^X, read from the unit's file; not its cgroup, nor its view of /proc. With ``-`` for the
unit there is only what a user needs who is not root: a node for TAP devices, and the way to this source.
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
import tempfile
from collections import defaultdict
from pathlib import Path

NOBODY = 65534
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 1, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
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


def own_mounts() -> None:
    """What is mounted from now on, only this process and its children see."""
    if LIBC.unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    mount("none", "/", flags=MS_REC | MS_PRIVATE)


def make_tun() -> None:
    """The node as udev leaves it, and no other beside it."""
    mount("none", "/dev/net", "tmpfs")
    os.mknod("/dev/net/tun", stat.S_IFCHR | 0o666, os.makedev(10, 200))
    Path("/dev/net/tun").chmod(0o666)  # whatever the umask


def open_the_way() -> None:
    """Let every user come to this source and this Python, which may be in root's home directory."""
    wanted = sorted({Path(sys.prefix), Path(sys.base_prefix), Path(__file__).resolve().parents[2]})
    held = {path: tempfile.mkdtemp() for path in wanted}
    for path, holder in held.items():
        mount(str(path), holder, flags=MS_BIND | MS_REC)
    for path, holder in held.items():
        closed = [folder for folder in reversed(path.parents) if not folder.stat().st_mode & stat.S_IXOTH]
        if closed:
            mount("none", str(closed[0]), "tmpfs")
        path.mkdir(parents=True, exist_ok=True)
        mount(holder, str(path), flags=MS_BIND | MS_REC)
        LIBC.umount2(holder.encode(), MNT_DETACH)
        Path(holder).rmdir()


def make_read_only(unit: dict[str, list[str]]) -> None:
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
    return [
        *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"),
        *(f"--bounding-set=-all,{plus}", f"--inh-caps=-all,{plus}", f"--ambient-caps=-all,{plus}"),
    ]


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
    command = sys.argv[2:]
    if sys.argv[1] == "-":
        own_mounts()
        make_tun()
        open_the_way()
        os.execv(shutil.which(command[0]) or command[0], command)
    unit = settings(Path(sys.argv[1]))
    if os.environ.get("SANDBOX_CALLS") is None:
        os.environ["SANDBOX_CALLS"] = ",".join(map(str, allowed_calls(unit)))  # while all can be read
        own_mounts()
        if "/dev/net/tun" in unit["DeviceAllow"]:
            make_tun()
        open_the_way()
        make_read_only(unit)
        program = [*setpriv(unit), sys.executable, *sys.argv]
        os.execv(shutil.which(program[0]) or program[0], program)
    shut_in(unit)
    os.execv(command[0], command)


def shut_in(unit: dict[str, list[str]]) -> None:
    """The part that is done last, by the user that the unit has."""
    calls = {int(word) for word in os.environ.pop("SANDBOX_CALLS").split(",")}
    names = {"AF_XDP": AF_XDP}
    families = {names.get(name) or getattr(socket, name) for name in unit["RestrictAddressFamilies"]}
    if unit["MemoryDenyWriteExecute"] == ["yes"]:
        LIBC.prctl(PR_SET_MDWE, 1, 0, 0, 0)  # Linux 6.3
    load_filter(calls, families)


if __name__ == "__main__":
    main()
