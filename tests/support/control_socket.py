"""A control socket on a Vtep that carries nothing, and raw clients that say what they like.

Place in the house: above dry_vtep, under the tests of control and of the commands on top of it.
"""

from __future__ import annotations

import json
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from support.dry_vtep import DryVtep
from vxcore.config import Control
from vxcore.control.requests import Operated
from vxcore.control.server import serving

SEGMENT = {"vni": 42, "tap": "vx42", "remotes": ["192.0.2.2"]}


class Socket:
    """A VTEP with a control socket at `path`."""

    def __init__(self, vtep: DryVtep, path: Path) -> None:
        self.vtep, self.path = vtep, path

    def raw(self) -> Raw:
        return Raw(self.path)


class Raw:
    """A client that says what it is told, well formed or not."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(20)
        self.socket.connect(str(path))
        self.lines = self.socket.makefile("rb")

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *why: object) -> None:
        self.lines.close()
        self.socket.close()

    def read(self) -> Any:
        """The next line; None when the server has hung up."""
        try:
            line = self.lines.readline()
        except ConnectionResetError:
            return None
        return json.loads(line) if line.endswith(b"\n") else None

    def say(self, line: bytes) -> Any:
        """Send this as it is, and return what comes back; a server that has hung up does not mind."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(line)
        return self.read()

    def ask(self, do: str, ident: Any = 1, **given: Any) -> Any:
        return self.say(json.dumps({"id": ident, "do": do, "with": given}).encode() + b"\n")


@contextmanager
def serve(settings: Any = None, reload: Any = None, group: str | None = None) -> Iterator[Socket]:
    """A VTEP with segment 42, and a socket in a directory that everybody may enter."""
    with (
        tempfile.TemporaryDirectory(prefix="vxc") as directory,
        DryVtep({"segment": [SEGMENT]} if settings is None else settings) as vtep,
    ):
        Path(directory).chmod(0o755)
        path = Path(directory) / "control.sock"
        operated = Operated(vtep, reload, "/etc/vxcore.toml" if reload else None)
        with serving(operated, Control(socket=str(path), group=group)):
            yield Socket(vtep, path)
