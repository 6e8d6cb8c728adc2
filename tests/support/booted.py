"""A systemd of its own: process 1 of namespaces, over this machine's files, which stay as they are.

Place in the house: under the interop tests of the unit. What it writes is in memory, it sees no network but
its own, and it ends with the test.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from support.hosts import run, wait_until

STATES = ("running", "degraded")
# As systemd wants to find a container (systemd.io/CONTAINER_INTERFACE): without what is everybody's, /sys and
# /proc/sys, to write to, so that neither udev nor sysctl.d reach this machine.
SCRIPT = """
set -e
here=$1
root=$1/root
shift
mount -t tmpfs none "$here"
mkdir "$root" "$here/upper" "$here/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$here/upper,workdir=$here/work" "$root"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
for each in run tmp dev; do mount -t tmpfs tmpfs "$root/$each"; done
mkdir "$root/dev/net" "$root/dev/shm" "$root/dev/pts"
mknod -m 666 "$root/dev/net/tun" c 10 200  # as udev makes it
for each in null zero full random urandom tty; do
    touch "$root/dev/$each"
    mount --bind "/dev/$each" "$root/dev/$each"
done
for each; do
    mkdir -p "$root$each"
    mount --bind "$each" "$root$each"
done
cd "$root"
mkdir -p old
pivot_root . old
umount -l /old
exec env -i container=vxcore-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /usr/lib/systemd/systemd --log-target=console --unit=basic.target
"""


class Booted:
    """Runs while inside ``with``; `folder` is an empty one, `shown` are directories that it must see."""

    def __init__(self, folder: Path, *shown: Path) -> None:
        self._log = folder / "log"
        here = folder / "here"
        here.mkdir()
        words = ["sh", "-c", SCRIPT, "sh", str(here), *map(str, shown)]
        self._line = ["unshare", "-mpfuinC", "--propagation", "private", *words]

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._unshare = subprocess.Popen(
                self._line, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            wait_until(self._runs, "systemd runs", 60)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pid in self._children():  # all others end with process 1
            os.kill(pid, signal.SIGKILL)
        self._unshare.wait()

    def _children(self) -> list[int]:
        pid = self._unshare.pid
        try:
            return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except FileNotFoundError:
            return []

    def _runs(self) -> bool:
        assert self._unshare.poll() is None, self._log.read_text()
        return self.run("systemctl", "is-system-running", check=False).stdout.strip() in STATES

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in there, to its end."""
        (pid,) = self._children() or [0]
        return run("nsenter", "-t", str(pid), "-a", *command, check=check)

    def write(self, path: str, text: str) -> None:
        """A file in there."""
        (pid,) = self._children()
        file = Path(f"/proc/{pid}/root{path}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def shows(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).stdout.strip()
