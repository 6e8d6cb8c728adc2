"""A BGP speaker, GoBGP, by its API.

Place in the house: in planes.evpn, above routes. gRPC by grpclib, which is Python all through: it has no
threads of its own, and a sixth of the memory of Google's. One connection; when it is lost, whoever waits gets
a SpeakerError, and so does everybody after that.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple, Self

from grpclib.client import Channel, StreamUnaryMethod, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from vxcore.planes.evpn.messages import Message, kind_of, make
from vxcore.planes.evpn.routes import FAMILY

_ESTABLISHED = 6
_BEST, _GLOBAL = 0, 0
_AT_ONCE = 500  # paths in one message, far below what gRPC allows


class SpeakerError(Exception):
    """The speaker cannot be reached, does not answer, or refuses; the text says so."""


class Neighbour(NamedTuple):
    """A neighbour of the speaker's, with whom it exchanges EVPN routes."""

    address: str
    is_up: bool
    says_when: bool
    """Whether it says when it has told all (RFC 4724)."""
    told_all: bool


class Speaker:
    """The speaker that listens at `api`, and has so many seconds to answer; ``async with`` connects.

    `counts` gets requests and messages.
    """

    def __init__(self, api: str, timeout_s: float, counts: Counter[str]) -> None:
        self._timeout_s, self._counts = timeout_s, counts
        if api.startswith("unix:"):
            self._channel = Channel(path=api.removeprefix("unix:").removeprefix("//"))
        else:
            host, _, port = api.rpartition(":")
            self._channel = Channel(host.strip("[]"), int(port))

    async def __aenter__(self) -> Self:
        async with self._in_time():
            await self._channel.__connect__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._channel.close()

    async def about(self) -> tuple[int, str]:
        """Its AS number and its router id."""
        method = UnaryUnaryMethod(self._channel, *_names("GetBgp"))
        async with self._in_time():
            about = (await method(self._asked("GetBgpRequest"))).bgp
        if not about.asn:
            raise SpeakerError("it does not run BGP yet")
        return about.asn, about.router_id

    async def neighbours(self) -> list[Neighbour]:
        """With whom it exchanges EVPN routes."""
        method = UnaryStreamMethod(self._channel, *_names("ListPeer"))
        async with self._in_time():
            peers = [reply.peer for reply in await method(self._asked("ListPeerRequest"))]
        return [_neighbour(peer, each) for peer in peers for each in peer.afi_safis if _is_evpn(peer, each)]

    async def paths(self) -> list[Message]:
        """All EVPN routes that it has, the best of each."""
        method = UnaryStreamMethod(self._channel, *_names("ListPath"))
        async with self._in_time():
            replies = await method(self._asked("ListPathRequest", table_type=_GLOBAL, family=FAMILY))
        self._counts["messages"] += len(replies)
        return [path for reply in replies for path in reply.destination.paths[:1]]

    async def watch(self) -> AsyncIterator[list[Message]]:
        """The EVPN routes that it has, and those that come and go from now on; it ends by SpeakerError."""
        method = UnaryStreamMethod(self._channel, *_names("WatchEvent"))
        filters = [make("WatchFilter", type=_BEST, init=True)]
        with _named_errors():
            async with method.open() as stream:
                asked = self._asked("WatchEventRequest", table=make("WatchedTable", filters=filters))
                await stream.send_message(asked, end=True)
                async for event in stream:
                    self._counts["messages"] += 1
                    yield [path for path in event.table.paths if path.family == FAMILY]
        raise SpeakerError("it hung up")

    async def say(self, paths: Sequence[Message]) -> None:
        """Announce these, or take back those that are withdrawn."""
        method = StreamUnaryMethod(self._channel, *_names("AddPathStream", "Empty"))
        batches = [paths[at : at + _AT_ONCE] for at in range(0, len(paths), _AT_ONCE)]
        async with self._in_time():
            await method(
                [self._asked("AddPathStreamRequest", table_type=_GLOBAL, paths=each) for each in batches]
            )

    def _asked(self, name: str, **fields: Any) -> Message:
        self._counts["requests"] += 1
        return make(name, **fields)

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        with _named_errors():
            async with asyncio.timeout(self._timeout_s):
                yield


@contextmanager
def _named_errors() -> Iterator[None]:
    """What goes wrong with a connection is a SpeakerError."""
    try:
        yield
    except TimeoutError:
        raise SpeakerError("it does not answer") from None
    except GRPCError as error:
        if error.status is Status.UNIMPLEMENTED:
            raise SpeakerError("its API is not that of GoBGP 3") from error
        raise SpeakerError(f"it says {error.message or error.status.name}") from error
    except (StreamTerminatedError, ProtocolError) as error:
        raise SpeakerError(str(error) or "it hung up") from error
    except OSError as error:
        raise SpeakerError(error.strerror or str(error)) from error


def _names(method: str, reply: str | None = None) -> tuple[str, type[Message], type[Message]]:
    """Where a method is, and the messages that go there and come back."""
    return f"/apipb.GobgpApi/{method}", kind_of(f"{method}Request"), kind_of(reply or f"{method}Response")


def _is_evpn(peer: Message, family: Message) -> bool:
    return family.config.family == FAMILY and not peer.conf.admin_down


def _neighbour(peer: Message, family: Message) -> Neighbour:
    restart = family.mp_graceful_restart.state
    return Neighbour(
        address=peer.state.neighbor_address or peer.conf.neighbor_address,
        is_up=peer.state.session_state == _ESTABLISHED,
        says_when=restart.received,
        told_all=restart.end_of_rib_received,
    )
