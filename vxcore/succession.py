"""Succession: what a process takes on of the one whose place it takes, beside the VTEP.

Place in the house: beside confine, below daemon, which calls it while there is one thread. The network
namespace, in which the devices are; limits; the control group, by which a service manager knows its own; and
where its output goes.
"""

from __future__ import annotations

import ctypes
import logging
import os
import resource
from contextlib import suppress
from pathlib import Path

from vxcore.parts import Parts

log = logging.getLogger("vxcore")

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_LIMITS = (resource.RLIMIT_NOFILE, resource.RLIMIT_MEMLOCK)
_GROUPS = Path("/sys/fs/cgroup")
OUTPUTS = {1: "standard output", 2: "standard error"}
"""The descriptors that are handed over, too, by name."""


def join(pid: int) -> None:
    """Be where a process is. Raises OSError when its network namespace cannot be entered."""
    _enter_network(Path("/proc", str(pid), "ns/net"))
    for limit in _LIMITS:
        with suppress(OSError, ValueError):  # only root may raise one
            resource.setrlimit(limit, resource.prlimit(pid, limit))
    with suppress(OSError):  # another version of control groups, or none that may be written to
        _join_group(Path("/proc", str(pid), "cgroup").read_text())


def _enter_network(theirs: Path) -> None:
    fd = os.open(theirs, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.path.samestat(os.fstat(fd), Path("/proc/self/ns/net").stat()):
            return
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(fd, _CLONE_NEWNET):
            code = ctypes.get_errno()
            raise OSError(code, f"entering the network namespace of the VTEP: {os.strerror(code)}")
    finally:
        os.close(fd)


def _join_group(groups: str) -> None:
    ours = Path("/proc/self/cgroup").read_text()
    for line in groups.splitlines():
        number, _, path = line.partition("::")
        if number == "0" and line not in ours.splitlines():
            (_GROUPS / path.lstrip("/") / "cgroup.procs").write_text("0")


def use_outputs(handed: Parts) -> None:
    """Write from now on where the other process wrote."""
    for number, name in OUTPUTS.items():
        part = handed.take(name)
        if part is not None:
            os.dup2(part.fds[0], number)
            os.close(part.fds[0])
