"""Sockets that a service manager listens on for us (sd_listen_fds(3)): the control socket, if it gives one.

Place in the house: beside notify, below daemon. A client that comes while the VTEP starts, or starts again,
waits then, and the socket's file and who may open it are the service manager's.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

from vxcore.errors import ConfigError

CONTROL = "control"
_FIRST = 3  # of the descriptors, SD_LISTEN_FDS_START
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def control_socket(environment: MutableMapping[str, str] = os.environ) -> socket.socket | None:
    """The control socket that listens already; None: there is none, and we listen ourselves.

    To be called once: what the environment says of sockets is taken out of it. Raises ConfigError, naming
    it, for a socket that is something else.
    """
    pid, count, names = (environment.pop(name, "") for name in _VARIABLES)
    if pid != str(os.getpid()) or not count.isdecimal():
        return None  # they are another process's
    if int(count) != 1:
        raise ConfigError(f"the service manager gives {count} sockets; one is right: {CONTROL}")
    return _given(_FIRST, names)


def _given(fd: int, name: str) -> socket.socket:
    sock = socket.socket(fileno=fd)
    sock.set_inheritable(False)
    listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if name != CONTROL or sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM or not listens:
        raise ConfigError(
            f"the service manager gives a socket {name!r}: a Unix stream socket that listens, with"
            f" FileDescriptorName={CONTROL}, is right"
        )
    return sock
