"""Where the control socket is: its path, who has it, who may use it.

Place in the house: in control, above errors alone, for both sides. A VTEP is of a network namespace, as its
devices are, and so is its socket: `ip netns exec blue vxcore show` asks the VTEP of blue.
"""

from __future__ import annotations

import fcntl
import grp
import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from vxcore.errors import ConfigError

DIRECTORY = Path("/run/vxcore")
NAMESPACES = Path("/run/netns")  # where `ip netns` keeps names
_SO_PEERGROUPS = 59  # Linux 4.13
_UCRED = struct.Struct("=iII")
_MAX_PATH = 107  # of sockaddr_un, with a byte for the end
_GROUPS_LEN = 1024  # what Python's getsockopt allows: 256 groups
_BACKLOG = 64


def default_path(directory: Path = DIRECTORY, namespaces: Path = NAMESPACES) -> Path:
    """The path of this network namespace's socket: ``control.sock``, or ``netns-NAME.sock``."""
    here = Path("/proc/thread-self/ns/net").stat()
    with suppress(FileNotFoundError):
        for named in sorted(namespaces.iterdir()):
            if os.path.samestat(named.stat(), here):
                return directory / f"netns-{named.name}.sock"
    return directory / "control.sock"


class Peer(NamedTuple):
    """The process at the other end."""

    pid: int
    uid: int
    gids: frozenset[int]


def peer_of(sock: socket.socket) -> Peer:
    """Who connected; of a socket that listens, or is connected to one, who made that listen."""
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    try:
        more = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_LEN)
    except OSError:  # an older kernel, or more groups than fit
        more = b""
    return Peer(pid, uid, frozenset({gid, *(one for (one,) in struct.iter_unpack("=I", more))}))


def group_id(name: str) -> int:
    """The number of a group; raises ConfigError when there is none."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"control.group: {name!r}: there is no such group") from None


@contextmanager
def listening(path: Path, gid: int | None) -> Iterator[socket.socket]:
    """A socket that listens at `path`, with mode 0600, or 0660 and the group; its file goes at the end.

    A file that nobody listens at any more is taken over. Raises ConfigError, naming the process, when
    somebody does, or the path cannot be a socket's; OSError.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            _bind(sock, path, gid)
        except OSError as error:
            raise OSError(error.errno, f"control socket {path}: {error.strerror}") from None
        with taken(sock):
            yield sock


@contextmanager
def taken(sock: socket.socket) -> Iterator[socket.socket]:
    """A socket that listens already; its file, if it still is there, goes at the end."""
    path = Path(sock.getsockname())
    sock.listen(_BACKLOG)  # again: by this process, as those who connect will see
    ours = path.stat() if path.exists() else None
    with sock:
        try:
            yield sock
        finally:
            with suppress(OSError):
                if ours is not None and os.path.samestat(path.stat(), ours):
                    path.unlink()


def _bind(sock: socket.socket, path: Path, gid: int | None) -> None:
    if len(os.fsencode(path)) > _MAX_PATH:
        raise ConfigError(f"control socket {path}: longer than {_MAX_PATH} bytes")
    with suppress(FileExistsError):
        path.parent.mkdir(mode=0o755)
    with _alone_in(path.parent):
        _make_room(path)
        os.fchmod(sock.fileno(), 0o600)  # of the file that bind makes: there is no moment of more
        sock.bind(os.fspath(path))
        if gid is not None:
            os.chown(path, -1, gid)
            path.chmod(0o660)
        sock.listen(_BACKLOG)


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Of two that start at once, the second sees what the first has made."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _make_room(path: Path) -> None:
    """Remove what those that were killed have left here; in our directory, of other namespaces too."""
    for other in path.parent.glob("netns-*.sock") if path.parent == DIRECTORY else ():
        with suppress(OSError):  # it stays, and is in nobody's way
            if other != path and stat.S_ISSOCK(other.lstat().st_mode) and _listener(other) is None:
                other.unlink()
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise ConfigError(f"control socket {path}: there is a file of that name, and it is no socket")
    pid = _listener(path)
    if pid is not None:
        who = f"process {pid}" if pid else "another process"
        raise ConfigError(f"control socket {path}: {who} has it; name another with --control, or none")
    path.unlink()


def _listener(path: Path) -> int | None:
    """The process that listens at the path; 0: one that cannot be told; None: there is none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        try:
            sock.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        except (BlockingIOError, PermissionError):  # it has no time, or is somebody else's
            return 0
        return peer_of(sock).pid
