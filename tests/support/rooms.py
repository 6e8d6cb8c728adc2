"""Rooms: where programs that make containers run on a host of a Lan, with nothing of this machine's.

Place in the house: above hosts, under Docker and podman of the tests. `make test` unpacks their Debian
packages beside the tests' Python, for their installation would start daemons; programs that are installed
will do as well.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any, Self

from support import peers
from support.hosts import Host, run

UNPACKED = [
    Path(sys.prefix, package, *where)
    for package in (
        "docker.io",
        "containerd",
        "podman",
        "conmon",
        "busybox-static",
        "etcd-server",
        "gobgpd",
        "frr",
    )
    for where in (("usr", "bin"), ("usr", "sbin"), ("bin",), ("usr", "lib", "frr"))
]
PATH = os.pathsep.join([*map(str, UNPACKED), peers.SEARCH])


def program(name: str) -> str:
    """The path of a program of one of these packages; skips the test without it, or fails it in CI."""
    return shutil.which(name, path=PATH) or peers.missing(f"{name} is not there; `make test` unpacks it")


def image() -> bytes:
    """A tar file with busybox and its names, of which containers are made."""
    busybox = Path(program("busybox"))
    names = run(str(busybox), "--list").stdout.split()
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for folder in ("bin", "tmp", "etc", "www"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o777
            tar.addfile(entry)
        tar.add(busybox, "bin/busybox")
        for name in set(names) - {"busybox"}:
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
    return file.getvalue()


class Room:
    """Namespaces of processes and mounts on a host, with an empty /run and /var/lib.

    All that is in them ends with the process that keeps them, whatever happens. They are not entered by
    `ip netns exec`, which would mount a new /sys without the control groups.
    """

    def __init__(self, host: Host) -> None:
        inside = (
            "mount -t tmpfs none /run && mkdir -p /run/docker/plugins && mount -t tmpfs none /var/lib"
            " && echo ready && exec sleep infinity"
        )
        self._keeper = subprocess.Popen(
            [
                *("nsenter", f"--net=/run/netns/{host.namespace}"),
                *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *("sh", "-c", inside),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._keeper.stdout is not None
        assert self._keeper.stdout.readline() == "ready\n"
        children = Path(f"/proc/{self._keeper.pid}/task/{self._keeper.pid}/children").read_text()
        self.words = ("nsenter", "--target", children.split()[0], "--mount", "--net", "--pid")

    def command(self, *words: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command here."""
        done = subprocess.run(
            [*self.words, *words],
            check=False,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=90,
            env={**os.environ, "PATH": PATH},
        )
        out, err = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def start(self, *words: str, **options: Any) -> Inside:
        """Start a process here."""
        return Inside([*self.words, *words], **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *why: object) -> None:
        self.close()

    def close(self) -> None:
        self._keeper.kill()
        self._keeper.communicate()


class Inside(subprocess.Popen[Any]):
    """A process in namespaces: the child of the one that went there, which ends as it does."""

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
                os.kill(int(pid), sig)
