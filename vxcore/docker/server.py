"""Docker's requests, by HTTP on the driver's socket.

Place in the house: outermost of docker, below daemon. A thread for each connection; what is refused is an
answer with the reason, which Docker shows to whoever asked.
"""

from __future__ import annotations

import json
import logging
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import msgspec

from vxcore import config
from vxcore._version import __version__
from vxcore.control.socket_file import listening
from vxcore.docker.driver import METHODS, Driver
from vxcore.errors import VxcoreError
from vxcore.planes.serving import Planes
from vxcore.vtep import Vtep

log = logging.getLogger("vxcore")

_MAX_BODY = 1 << 20
_CLIENT_S = 600.0  # for that long Docker may keep a connection and say nothing
_TYPE = "application/vnd.docker.plugins.v1.2+json"


@contextmanager
def serving(vtep: Vtep, settings: config.Docker, planes: Planes) -> Iterator[Driver]:
    """Serve Docker meanwhile: its networks are back, and then the socket is there; `planes` hear of both.

    Raises ConfigError, VxcoreError and OSError when one of the two cannot be had.
    """
    driver = Driver(vtep, settings, planes.again)
    planes.add_source(driver.stations)
    path = Path(settings.plugin)
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with listening(path, None, "docker.plugin", "--plugin") as sock:
        server = _Server(driver, sock)
        thread = threading.Thread(target=server.serve_forever, args=(0.2,), name="vxcore-docker", daemon=True)
        thread.start()
        log.info("docker: network driver %s at %s", path.stem, path)
        try:
            yield driver
        finally:
            server.shutdown()
            thread.join()


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, driver: Driver, sock: socket.socket) -> None:
        self.driver = driver
        super().__init__(sock.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = sock

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("docker: a client went away", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    timeout = _CLIENT_S
    server: _Server
    server_version = f"vxcore/{__version__}"
    sys_version = ""

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > _MAX_BODY:
            self.close_connection = True
            self._reply(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"Err": "no length, or more than 1 MiB"})
            return
        method, body = self.path.removeprefix("/"), self.rfile.read(int(length))
        self._reply(*self._done(method, body))

    def _done(self, method: str, body: bytes) -> tuple[HTTPStatus, dict[str, Any]]:
        log.debug("docker: %s %s", method, body.decode(errors="replace"))
        if method not in METHODS:
            return HTTPStatus.NOT_FOUND, {"Err": f"{method}: vxcore has no such method"}
        try:
            return HTTPStatus.OK, self.server.driver.answer(method, body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return HTTPStatus.BAD_REQUEST, {"Err": f"{method}: {error}"}
        except (VxcoreError, OSError) as error:
            reason = str(error) if isinstance(error, VxcoreError) else error.strerror or str(error)
            log.warning("docker: %s refused: %s", method, reason)
            return HTTPStatus.OK, {"Err": f"vxcore: {reason}"}
        except Exception as error:
            log.exception("docker: %s", method)
            return HTTPStatus.INTERNAL_SERVER_ERROR, {"Err": f"{method}: internal error: {error!r}"}

    def _reply(self, status: HTTPStatus, told: dict[str, Any]) -> None:
        text = json.dumps(told).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", _TYPE)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments: Any) -> None:
        log.debug("docker: %s", arguments[0] % arguments[1:])
