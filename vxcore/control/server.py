"""The server of the control socket: a thread that listens, whatever clients do.

Place in the house: in control, above session and socket_file, below daemon. Lanes never wait for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from socket import socket

from vxcore.config import Control
from vxcore.control import MAX_LINE
from vxcore.control.protocol import fault_of
from vxcore.control.requests import Operated
from vxcore.control.session import HangUpError, Session, Worker
from vxcore.control.socket_file import Peer, default_path, group_id, listening, taken
from vxcore.errors import ConfigError

log = logging.getLogger("vxcore")

MAX_CLIENTS = 64
_AGAIN_S = 1.0


@contextmanager
def serving(
    operated: Operated, settings: Control, given: socket | None = None, keep_file: bool = False
) -> Iterator[None]:
    """Serve a VTEP's control socket meanwhile; or one that is `given`, and listens, wherever it is.

    Raises ConfigError and OSError when the settings name a path that cannot be had; without one in the
    settings, the log says why there is no socket.
    """
    if settings.socket == "none":
        if given is not None:
            raise ConfigError('control.socket: "none", and the service manager gives one')
        yield
        return
    gid = None if settings.group is None else group_id(settings.group)
    path = default_path() if settings.socket is None else Path(settings.socket)
    with ExitStack() as stack:
        try:
            opened = listening(path, gid) if given is None else taken(given, keep_file)
            server = Server(operated, stack.enter_context(opened), gid)
        except (ConfigError, OSError) as error:
            if settings.socket is not None:
                raise
            log.warning("going on without %s", fault_of(error).message)
        else:
            server.start()
            stack.callback(server.stop)
            log.debug("control socket %s", path if given is None else given.getsockname())
        yield


def _same(protocol: asyncio.StreamReaderProtocol) -> asyncio.StreamReaderProtocol:
    return protocol


class Server:
    """Serves a VTEP on a socket that listens, from ``start`` to ``stop``.

    Beside root and this process's user, members of the group `gid` may use it.
    """

    def __init__(self, operated: Operated, sock: socket, gid: int | None = None) -> None:
        self._sock, self._gid = sock, gid
        self._sock.setblocking(False)
        self._worker = Worker(operated, sock, self._accept_again)
        self._clients: set[asyncio.Task[None]] = set()
        self._coming: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._shut = False
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="vxcore-control", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Hang up on everybody; what is being done is done first."""
        with suppress(RuntimeError):  # it has failed, and its loop is closed
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._worker.close()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._accept_again(True)
        await self._stop.wait()
        self._accept_again(False)
        await asyncio.gather(*self._coming, return_exceptions=True)
        await asyncio.sleep(0)  # those who came last are clients then
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    def _accept_again(self, accepts: bool) -> None:
        """Whether clients are let in; others wait outside."""
        if accepts:
            self._loop.add_reader(self._sock, self._let_in)
        else:
            self._loop.remove_reader(self._sock)

    def _let_in(self) -> None:
        try:
            client, _ = self._sock.accept()
        except BlockingIOError:  # it is gone again
            return
        except OSError as error:  # of descriptors, say
            self._tell_shut(error)
            self._accept_again(False)
            self._loop.call_later(_AGAIN_S, self._accept_again, True)
            return
        coming = self._loop.create_task(self._connect(client))
        self._coming.add(coming)
        coming.add_done_callback(partial(self._has_come, client))

    def _has_come(self, client: socket, coming: asyncio.Task[None]) -> None:
        self._coming.discard(coming)
        if coming.cancelled() or coming.exception():
            client.close()

    async def _connect(self, client: socket) -> None:
        reader = asyncio.StreamReader(MAX_LINE, self._loop)
        protocol = asyncio.StreamReaderProtocol(reader, self._greet, self._loop)
        await self._loop.connect_accepted_socket(partial(_same, protocol), client)

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._shut = False
        session = Session(self._worker, reader, writer)
        self._clients.add(task)
        try:
            await session.talk(self._refusal(session.peer))
        except asyncio.CancelledError:  # by `stop`; left to asyncio, it would be logged as an error
            log.debug("control socket: process %d was there at the end", session.peer.pid)
        except Exception:
            log.exception("control socket: a client")
        finally:
            self._clients.discard(task)

    def _tell_shut(self, error: OSError) -> None:
        """Once, until somebody is let in again."""
        if not self._shut:
            self._shut = True
            log.warning("control socket: no client is let in for now: %s", error.strerror)

    def _refusal(self, peer: Peer) -> HangUpError | None:
        """Why a client may not come in."""
        if peer.uid not in (0, os.geteuid()) and self._gid not in peer.gids:
            return HangUpError("denied", f"user {peer.uid} may not use this socket")
        if len(self._clients) > MAX_CLIENTS:
            return HangUpError("busy", f"{MAX_CLIENTS} clients are here already")
        return None
