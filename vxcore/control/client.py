"""The client of the control socket, behind the commands.

Place in the house: in control, above socket_file; it imports neither numpy nor msgspec, so that a command
starts at once.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vxcore.control import MAX_LINE, PROTOCOL
from vxcore.control.socket_file import default_path, peer_of
from vxcore.errors import ConfigError, TableFullError, UnsupportedError, VxcoreError

GREETING_S = 10.0
ANSWER_S = 300.0
_ERRORS: dict[str, type[VxcoreError]] = {
    "config": ConfigError,
    "full": TableFullError,
    "unsupported": UnsupportedError,
}


class ControlError(VxcoreError):
    """No VTEP answers at the control socket, or it does not as it should."""


class Client:
    """A connection to a VTEP; a context manager.

    `path` is the socket's; None: that of ``VXCORE_CONTROL``, or of this network namespace. Raises
    ControlError when nobody answers there.
    """

    def __init__(self, path: str | None = None) -> None:
        given = path or os.environ.get("VXCORE_CONTROL")
        self.path = Path(given) if given else default_path()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(GREETING_S)
        try:
            self._connect()
            self._socket.settimeout(ANSWER_S)
        except BaseException:
            self._socket.close()
            raise

    def _connect(self) -> None:
        try:
            self._socket.connect(os.fspath(self.path))
        except (FileNotFoundError, ConnectionRefusedError):
            text = f"{self.path}: no vxcore answers here; does one run? (--control PATH asks another)"
            raise ControlError(text) from None
        except PermissionError:
            text = f"{self.path}: only root, and the group of `[control]`, may ask this VTEP"
            raise ControlError(text) from None
        except OSError as error:
            raise ControlError(f"{self.path}: {error.strerror or error}") from None
        self._lines = self._socket.makefile("rb")
        self.vtep = self._line()
        if self.vtep.get("protocol") != PROTOCOL:
            theirs = f"vxcore {self.vtep.get('vxcore')} there speaks version {self.vtep.get('protocol')}"
            raise ControlError(f"{self.path}: {theirs} of the protocol, and this one version {PROTOCOL}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._socket.close()

    @property
    def pid(self) -> int:
        """The process that the VTEP is in."""
        return int(self.vtep["pid"])

    def ask(self, do: str, **given: Any) -> dict[str, Any]:
        """What the reply to a request says; raises what was raised there, by its code."""
        (only,) = self.pages(do, **given)
        return only

    def rows(self, do: str, **given: Any) -> Iterator[dict[str, Any]]:
        """The rows of a list, as they come."""
        for page in self.pages(do, **given):
            yield from page["rows"]

    def pages(self, do: str, **given: Any) -> Iterator[dict[str, Any]]:
        """What each reply to a request says, which may be many."""
        wanted = {name: value for name, value in given.items() if value is not None}
        self._say({"id": 1, "do": do, "with": wanted})
        more = True
        while more:
            reply = self._line()
            yield reply["ok"]
            more = reply.get("more", False)

    def events(self, kinds: list[str]) -> Iterator[dict[str, Any]]:
        """Events as they happen, ``{"event": {...}}``, and how many were dropped, ``{"dropped": 3}``."""
        return self.stream("monitor", kinds=kinds)

    def stream(self, do: str, **given: Any) -> Iterator[dict[str, Any]]:
        """Ask at once; the lines that follow the reply, until one side hangs up."""
        self.ask(do, **given)
        self._socket.settimeout(None)
        return iter(self._line, None)

    def become(self, do: str, **given: Any) -> tuple[dict[str, Any], socket.socket]:
        """What the reply to a request says, after which the connection is something else's: it, too.

        The other side must not speak before it is spoken to.
        """
        return self.ask(do, **given), self._socket.dup()

    def _say(self, message: dict[str, Any]) -> None:
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        if len(line) > MAX_LINE:
            raise ConfigError(f"{message['do']}: more than the control socket takes in one request, 1 MiB")
        try:
            self._socket.sendall(line)
        except OSError as error:
            raise ControlError(f"{self.path}: {error.strerror or error}") from None

    def _line(self) -> dict[str, Any]:
        try:
            line = self._lines.readline()
        except TimeoutError:
            pid = peer_of(self._socket).pid
            raise ControlError(f"{self.path}: process {pid} has this socket, and does not answer") from None
        except OSError as error:
            raise ControlError(f"{self.path}: {error.strerror or error}") from None
        if not line.endswith(b"\n"):
            raise ControlError(f"{self.path}: the VTEP has hung up")
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            fault = said["error"]
            raise _ERRORS.get(fault["code"], ControlError)(fault["message"])
        return said
