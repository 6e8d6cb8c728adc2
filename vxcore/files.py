"""Files that have their name only when they are whole.

Place in the house: on the ground, under whoever writes one: captures, settings, state.
"""

from __future__ import annotations

import io
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NAME_LEN = 50
"""Letters of a name that its part bears, which has to fit 255 bytes."""


@contextmanager
def replacing(name: str | Path, mode: int = 0o666, *, sync: bool = True) -> Iterator[io.BufferedWriter]:
    """A file to write, that comes in the place of what is there when all went well.

    Mode and owner stay; a new one has `mode`, less the umask. With `sync` it is on the disk before that.
    Links are followed, and what is no regular file, such as a device or a pipe, is written into. Raises
    OSError that names the file.
    """
    if _is_regular(name):
        with _beside(name, mode, sync) as file:
            yield file
    else:
        with Path(name).open("wb") as file:
            yield file


def umask() -> int:
    """That of this process, which is not changed for it: other threads may be making files."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("\nUmask:")[2].split(maxsplit=1)[0], 8)


def _is_regular(name: str | Path) -> bool:
    """Whether the name is a regular file's, or free for one."""
    try:
        return stat.S_ISREG(Path(name).stat().st_mode)
    except FileNotFoundError:
        return True


@contextmanager
def _beside(name: str | Path, mode: int, sync: bool) -> Iterator[io.BufferedWriter]:
    target = Path(os.path.realpath(name))  # behind a link, for the link is to stay
    part, descriptor = _part(target, name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            _dress(descriptor, target, mode)
            if sync:
                os.fsync(descriptor)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if sync:
        with suppress(OSError):  # a directory that may not be read, or not be synced: it is in place anyway
            _sync(target.parent)


def _part(target: Path, name: str | Path) -> tuple[Path, int]:
    try:
        descriptor, path = tempfile.mkstemp(".part", f".{target.name[:_NAME_LEN]}.", target.parent)
    except OSError as error:
        error.filename = os.fspath(name)  # not the one that was made up
        raise
    return Path(path), descriptor


def _dress(descriptor: int, target: Path, mode: int) -> None:
    """Give a file the owner and the mode of what it replaces."""
    try:
        before = target.stat()
    except FileNotFoundError:
        os.fchmod(descriptor, mode & ~umask())
        return
    with suppress(PermissionError):  # only root gives files away
        os.fchown(descriptor, before.st_uid, before.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(before.st_mode))


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
