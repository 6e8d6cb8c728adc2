"""Least privilege: what this process gives up before it carries the first packet.

Place in the house: beside notify, below daemon, which calls it while there is one thread; capabilities and
filters are a thread's, and those that come later have its. Another user, no capabilities but those of the
ports, no way to get others back (no_new_privs), and a filter that refuses system calls no VTEP makes.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import platform
import pwd
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from vxcore.errors import ConfigError, VxcoreError

if TYPE_CHECKING:
    from vxcore.config import Settings

log = logging.getLogger("vxcore")

# linux/capability.h
_SETPCAP, _LAST_CAP = 8, 63
_CAPABILITIES = {"CAP_NET_BIND_SERVICE": 10, "CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_BPF": 39}
_CAPABILITY_VERSION = 0x20080522
_FIRST_FREE_PORT = 1024

# linux/prctl.h
_KEEPCAPS, _SECCOMP, _CAPBSET_DROP, _NO_NEW_PRIVS, _AMBIENT, _MDWE = 8, 22, 24, 38, 47, 65
_AMBIENT_CLEAR, _REFUSE_EXEC_GAIN = 4, 1

# linux/seccomp.h, linux/audit.h, and classic BPF
_FILTER = 2
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000
_NR_AT, _ARCH_AT, _ARGUMENT_AT = 0, 4, 16
_LOAD, _EQUAL, _AT_LEAST, _HAS_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_X32 = 0x40000000  # calls of another ABI, with numbers of their own
_CLONE_THREAD = 0x00010000

# Refused whatever their arguments; the numbers of x86_64 and of aarch64, None where there is no such call.
REFUSED: dict[str, tuple[int | None, int | None]] = {
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, None),
    "vfork": (58, None),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "mount": (165, 40),
    "umount2": (166, 39),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "setuid": (105, 146),
    "setgid": (106, 144),
    "setreuid": (113, 145),
    "setregid": (114, 143),
    "setresuid": (117, 147),
    "setresgid": (119, 149),
    "setgroups": (116, 159),
    "setfsuid": (122, 151),
    "setfsgid": (123, 152),
    "capset": (126, 91),
    "personality": (135, 92),
    "iopl": (172, None),
    "ioperm": (173, None),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "syslog": (103, 116),
    "vhangup": (153, 58),
}
# Looked at: threads are made, processes are not; sockets are of the kinds that ports and control are made of.
CLONE, CLONE3, SOCKET = (56, 220), (435, 435), (41, 198)
_AF_XDP = 44
_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET, _AF_XDP)

_libc = ctypes.CDLL(None, use_errno=True)


def confine(settings: Settings) -> None:
    """Give up what the VTEP of these settings does not need, if they have a [process] table.

    Raises ConfigError for a user that there is not, or that this process cannot become; OSError when the
    kernel refuses.
    """
    process = settings.process
    if process is None:
        return
    kept = _kept(settings)
    entry = _entry(process.user) if process.user is not None else None
    _drop_bounding(kept)
    if entry is not None and entry.pw_uid != os.geteuid():
        _become(entry.pw_uid, entry.pw_gid, os.getgrouplist(entry.pw_name, entry.pw_gid))
    kept = _keep(kept)
    _prctl(_AMBIENT, _AMBIENT_CLEAR)
    _prctl(_NO_NEW_PRIVS, 1)
    if process.filter:
        _load_filter("CAP_BPF" in kept)
    user = pwd.getpwuid(os.geteuid()).pw_name if entry is None else entry.pw_name
    filtered = ", and system calls are filtered" if process.filter else ""
    log.info("confined: user %s, %s%s", user, " ".join(kept) or "no capabilities", filtered)


def confine_like(pid: int, owner: int) -> None:
    """Have no more than another process has, where this one has more: its user, groups and capabilities.

    `owner` is the user whose socket has told of it. Raises VxcoreError when that is neither root nor the
    process's own, for anybody could name a process of root's; OSError when the kernel refuses.
    """
    lines = Path("/proc", str(pid), "status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    uid, gid = (int(status[name].split()[1]) for name in ("Uid", "Gid"))  # the effective ones
    if owner not in (0, uid):
        raise VxcoreError(f"process {pid} is of user {uid}, and the control socket that names it of {owner}")
    _drop_bounding(_numbered(int(status["CapBnd"], 16)))
    if uid != os.geteuid():
        _become(uid, gid, [int(group) for group in status["Groups"].split()])
    _keep(_numbered(int(status["CapPrm"], 16)))
    if status.get("NoNewPrivs") == "1":
        _prctl(_NO_NEW_PRIVS, 1)


def _numbered(bits: int) -> dict[str, int]:
    """Capabilities by name, which here is their number."""
    return {str(number): number for number in range(_LAST_CAP + 1) if bits >> number & 1}


def _kept(settings: Settings) -> dict[str, int]:
    """The capabilities that ports need, whether there are such ports now or come by a reload."""
    names = ["CAP_NET_ADMIN", "CAP_NET_RAW"]
    kinds = {settings.underlay.kind, *(port.kind for each in settings.segments for port in each.overlays)}
    kinds |= {each.overlay.kind for each in settings.collects if each.overlay}
    if "xdp" in kinds:
        names.append("CAP_BPF")
    if settings.metrics and 0 < settings.metrics.listen.ends[1] < _FIRST_FREE_PORT:
        names.append("CAP_NET_BIND_SERVICE")
    return {name: _CAPABILITIES[name] for name in names}


def _entry(name: str) -> pwd.struct_passwd:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise ConfigError(f"process.user: no user {name}; `useradd --system {name}` makes one") from None
    if os.geteuid() not in (0, entry.pw_uid):
        raise ConfigError(f"process.user: only root can become {name}; leave it out, or start as root")
    return entry


def _drop_bounding(kept: dict[str, int]) -> None:
    """What is not in the bounding set cannot be had from a file either."""
    if not _effective() >> _SETPCAP & 1:
        return
    for number in set(range(_LAST_CAP + 1)) - set(kept.values()):
        if _libc.prctl(_CAPBSET_DROP, number, 0, 0, 0) and ctypes.get_errno() == errno.EINVAL:
            continue  # this kernel has not so many


def _effective() -> int:
    """The capabilities that this thread has, as bits."""
    data = ctypes.create_string_buffer(24)
    if _libc.capget(_capability_header(), data):
        raise _failure("capget")
    low, high = (struct.unpack_from("=I", data, at)[0] for at in (0, 12))
    return int(low | high << 32)


def _become(uid: int, gid: int, groups: list[int]) -> None:
    """Another user, with all capabilities for the moment."""
    _prctl(_KEEPCAPS, 1)
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _keep(kept: dict[str, int]) -> dict[str, int]:
    """Give up all capabilities but these, of which only those stay that were there."""
    data = ctypes.create_string_buffer(24)
    if _libc.capget(_capability_header(), data):
        raise _failure("capget")
    permitted = struct.unpack_from("=I", data, 4)[0] | struct.unpack_from("=I", data, 16)[0] << 32
    bits = permitted & sum(1 << number for number in kept.values())
    low, high = bits & 0xFFFFFFFF, bits >> 32
    if _libc.capset(_capability_header(), struct.pack("=6I", low, low, 0, high, high, 0)):
        raise _failure("capset")
    return {name: number for name, number in kept.items() if bits >> number & 1}


def _capability_header() -> bytes:
    return struct.pack("=Ii", _CAPABILITY_VERSION, 0)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0):
        raise _failure(f"prctl {option}")


def _failure(what: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"confining this process: {what}: {os.strerror(code)}")


# System calls


def _load_filter(may_bpf: bool) -> None:
    """Refuse calls with EPERM, from now on and for every thread to come; memory is not to become code."""
    if platform.machine() not in _ARCHITECTURES:
        log.warning("system calls are not filtered on %s", platform.machine())
        return
    _libc.prctl(_MDWE, _REFUSE_EXEC_GAIN, 0, 0, 0)  # Linux 6.3
    program = _program(*_ARCHITECTURES[platform.machine()], may_bpf)
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    _prctl_filter(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))


def _prctl_filter(program: bytes) -> None:
    if _libc.prctl(_SECCOMP, _FILTER, program, 0, 0):
        raise _failure("seccomp")


def _program(column: int, architecture: int, may_bpf: bool) -> list[tuple[int, int, int, int]]:
    """Instructions as code, jump if true, jump if false, operand; each question is followed by its answer."""
    refuse = (_RETURN, 0, 0, _REFUSE | errno.EPERM)
    program = [(_LOAD, 0, 0, _ARCH_AT), (_EQUAL, 1, 0, architecture), refuse, (_LOAD, 0, 0, _NR_AT)]
    program += [(_AT_LEAST, 0, 1, _X32), refuse]
    for name, numbers in REFUSED.items():
        number = numbers[column]
        if number is not None and not (name == "bpf" and may_bpf):
            program += [(_EQUAL, 0, 1, number), refuse]
    # glibc falls back to clone, whose flags can be looked at.
    program += [(_EQUAL, 0, 1, CLONE3[column]), (_RETURN, 0, 0, _REFUSE | errno.ENOSYS)]
    of_thread = [
        (_LOAD, 0, 0, _ARGUMENT_AT),
        (_HAS_BITS, 1, 0, _CLONE_THREAD),
        refuse,
        (_RETURN, 0, 0, _ALLOW),
    ]
    program += [(_EQUAL, 0, len(of_thread), CLONE[column]), *of_thread]
    program += [(_EQUAL, 1, 0, SOCKET[column]), (_RETURN, 0, 0, _ALLOW), (_LOAD, 0, 0, _ARGUMENT_AT)]
    for family in _FAMILIES:
        program += [(_EQUAL, 0, 1, family), (_RETURN, 0, 0, _ALLOW)]
    return [*program, refuse]
