"""Handover: a VTEP goes from its process to another one, of a newer vxcore say, while it forwards.

Place in the house: above vtep, below control, whose socket the two processes talk over, and daemon, which
says when. Messages are MessagePack; descriptors go beside them (SCM_RIGHTS). What is said, in this order:

    new -> old   Want     it is there, and has read the reply of the control socket
    old -> new   Offer    settings, descriptors, and what was learned; the old one goes on forwarding
    new -> old   Ready    everything is prepared
    old -> new   Final    its lanes stand: where they stopped, and what was learned since the offer
    new -> old   Running  from here on the VTEP is the new one's

Before the last of them the old process takes its lanes up again whatever becomes of the new one, which has
hung up before, or is killed if it does not answer in time: never do both forward.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import time
from array import array
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import Struct

from vxcore import config
from vxcore._version import __version__
from vxcore.errors import VxcoreError
from vxcore.parts import Part, Parts

if TYPE_CHECKING:
    from vxcore.config import Settings
    from vxcore.state import Memory
    from vxcore.vtep import Vtep

VERSIONS = (1,)
"""Of what is said here, those that this vxcore knows."""
PREPARE_S = 60.0
"""How long a new process may take to prepare, while the old one forwards."""
RUN_S = 5.0
"""And how long to say that it runs, while nobody does."""

HOPS_S = 1.0
"""How long a new process waits for next hops that do not answer."""

_FRAME = struct.Struct("=QI")  # bytes of a message, and descriptors in front of it
_INT_LEN = 4
_AT_ONCE = 64  # descriptors; the kernel takes up to 253
_MOST_BYTES = 1 << 32
_END_S = 5.0

M = TypeVar("M", bound=Struct)


class HandoverError(VxcoreError):
    """The VTEP stays with the process that has it."""


class HungUpError(HandoverError):
    """The other process is gone, or has closed the connection: then it does not forward."""


class Kept(Struct, frozen=True):
    """What was learned (`vxcore.state.Learned`), as bytes; and what of hosts here, behind which place."""

    addresses: bytes
    rows: bytes
    saved_s: int
    behind: bytes


class Described(Struct, frozen=True):
    """A part but for its descriptors, of which it has so many."""

    n_fds: int
    facts: dict[str, Any]


class About(Struct, frozen=True):
    """What a process knows beside its VTEP."""

    file: str | None
    """What `reload` reads."""
    control: str | None
    """The option that outranks what the file says of the control socket."""
    environment: dict[str, str]
    """How to reach the service manager."""


class Want(Struct, frozen=True, tag=True):
    """As above; so are the others."""


class Offer(Struct, frozen=True, tag=True):
    """`settings` are TOML; `parts` are in the order of their descriptors."""

    vxcore: str
    settings: str
    about: About
    parts: dict[str, Described]
    places: dict[str, int]
    kept: Kept
    told: dict[str, list[Any]] = {}  # msgspec copies it
    """What control planes have said, by their names."""


class Ready(Struct, frozen=True, tag=True):
    """Of the new process."""


class Final(Struct, frozen=True, tag=True):
    """`stopped_ns` is by the monotonic clock."""

    stopped_ns: int
    rest: dict[str, list[bytes]]
    kept: Kept


class Running(Struct, frozen=True, tag=True):
    """Of the new process."""


class Channel:
    """The connection of the two; messages are whole, or HandoverError says what is wrong with the other."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def end(self) -> None:
        """From any thread: neither can say anything any more; what was said before can still be read."""
        with suppress(OSError):  # the other has hung up
            self._socket.shutdown(socket.SHUT_RDWR)

    def send(self, message: Struct, fds: Iterable[int] = (), seconds: float = RUN_S) -> None:
        """Say something, with descriptors, which stay open here."""
        body, fds = msgspec.msgpack.encode(message), list(fds)
        self._socket.settimeout(seconds)
        try:
            self._socket.sendall(_FRAME.pack(len(body), len(fds)))
            for start in range(0, len(fds), _AT_ONCE):
                socket.send_fds(self._socket, [b"\0"], fds[start : start + _AT_ONCE])
            self._socket.sendall(body)
        except TimeoutError:
            raise HandoverError("the other process does not read") from None
        except OSError as error:
            raise HungUpError(f"the other process is gone: {error.strerror}") from None

    def receive(self, kind: type[M], seconds: float) -> tuple[M, list[int]]:
        """The next message, which is to be of that kind, and its descriptors."""
        deadline = time.monotonic() + seconds
        fds: list[int] = []
        try:
            n_bytes, n_fds = _FRAME.unpack(self._bytes(_FRAME.size, deadline))
            if n_bytes > _MOST_BYTES:
                raise HandoverError(f"the other process speaks otherwise: a message of {n_bytes} bytes")
            while len(fds) < n_fds:
                fds += self._descriptors(deadline)
            return msgspec.msgpack.decode(self._bytes(n_bytes, deadline), type=kind), fds
        except BaseException as error:
            for fd in fds:
                os.close(fd)
            if isinstance(error, msgspec.DecodeError):
                text = f"the other process speaks otherwise: no {kind.__name__}: {error}"
                raise HandoverError(text) from None
            raise

    def hung_up(self, seconds: float) -> bool:
        """Wait until the other process has ended; False: it did not in time."""
        return bool(select.select([self._socket], [], [], seconds)[0])

    def _bytes(self, n: int, deadline: float) -> bytes:
        data = bytearray(n)
        view = memoryview(data)
        while view:
            got = self._within(deadline, self._socket.recv_into, view)
            if not got:
                raise HungUpError("the other process has hung up")
            view = view[got:]
        return bytes(data)

    def _descriptors(self, deadline: float) -> list[int]:
        room, fds = socket.CMSG_SPACE(_AT_ONCE * _INT_LEN), array("i")
        data, beside, flags, _ = self._within(
            deadline, self._socket.recvmsg, 1, room, socket.MSG_CMSG_CLOEXEC
        )
        if not data:
            raise HungUpError("the other process has hung up")
        for level, kind, content in beside:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(content[: len(content) // _INT_LEN * _INT_LEN])
        if flags & socket.MSG_CTRUNC or not fds:
            for fd in fds:
                os.close(fd)
            raise HandoverError("not all descriptors came through; raise the limit (`ulimit -n`)")
        return fds.tolist()

    def _within(self, deadline: float, call: Any, *arguments: Any) -> Any:
        self._socket.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            return call(*arguments)
        except TimeoutError:
            raise HandoverError("the other process does not answer") from None
        except OSError as error:
            raise HungUpError(f"the other process is gone: {error.strerror}") from None


# The old process


def hand_over(channel: Channel, vtep: Vtep, about: About, others: Mapping[str, Part], pid: int) -> None:
    """Give a VTEP to the process `pid`, with `others`, descriptors beside it.

    When this returns its lanes stand and the new process has it: end, and put nothing back. HandoverError
    says why the VTEP is still here; then it forwards as before.
    """
    process = _process(pid)
    try:
        channel.receive(Want, RUN_S)
        began = time.monotonic()
        _offer(channel, vtep, about, {**vtep.parts(), **others})
        channel.receive(Ready, PREPARE_S)
        _finish(channel, vtep, time.monotonic() - began)
    except BaseException as error:
        if not isinstance(error, HungUpError):
            _end(process)
        if vtep.stands:
            vtep.go_on()
        raise
    finally:
        os.close(process)


def _offer(channel: Channel, vtep: Vtep, about: About, parts: Mapping[str, Part]) -> None:
    from vxcore.told import as_words
    from vxcore.toml_writer import dumps

    offer = Offer(
        vxcore=__version__,
        settings=dumps(vtep.running()),
        about=about,
        parts={name: Described(len(part.fds), part.facts) for name, part in parts.items()},
        places=vtep.places(),
        kept=_kept(vtep.memory),
        told={source: as_words(vtep.told.routes(source)) for source in vtep.told.sources},
    )
    channel.send(offer, [fd for part in parts.values() for fd in part.fds], PREPARE_S)


def _finish(channel: Channel, vtep: Vtep, elapsed_s: float) -> None:
    """From here on nobody forwards, until one of the two does."""
    stopped_ns = time.monotonic_ns()
    vtep.stand()
    final = Final(stopped_ns, vtep.rest(), _kept(vtep.memory, int(elapsed_s) + 2))
    channel.send(final)
    channel.receive(Running, RUN_S)


def _process(pid: int) -> int:
    """A descriptor of a process, so that no other one of that number is ever taken for it."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise HungUpError("the other process has ended") from None
    except OSError:  # of number 0, as those are in other PID namespaces
        text = "the other process cannot be seen from here, nor ended if it fails; start it beside this one"
        raise HandoverError(text) from None


def _end(process: int) -> None:
    """See to it that a process is no more, before its ports are used again."""
    with suppress(OSError):  # it has ended
        signal.pidfd_send_signal(process, signal.SIGKILL)
        select.select([process], [], [], _END_S)


def _kept(memory: Memory, within_s: int | None = None) -> Kept:
    learned, behind = memory.take(within_s), memory.take_behind(within_s)
    rows = (learned.addresses.tobytes(), learned.rows.tobytes())
    return Kept(*rows, learned.saved_s, behind.tobytes())


# The new process


def ask_for(channel: Channel) -> tuple[Offer, Settings, Parts]:
    """What the old process offers; raises ConfigError for settings that this vxcore does not take."""
    channel.send(Want())
    offer, fds = channel.receive(Offer, PREPARE_S)
    if len(fds) != sum(each.n_fds for each in offer.parts.values()):
        raise HandoverError(f"the other process speaks otherwise: {len(fds)} descriptors")
    parts = {}
    for name, each in offer.parts.items():
        parts[name] = Part(fds[: each.n_fds], each.facts)
        fds = fds[each.n_fds :]
    settings = config.loads(f"the settings of vxcore {offer.vxcore}", offer.settings)
    return offer, settings, Parts(parts)


def begin(channel: Channel, vtep: Vtep, offer: Offer) -> int:
    """Go on where the old process stops; for how many nanoseconds nobody has forwarded.

    HandoverError says why not; then the old one forwards, and this VTEP must not.
    """
    from vxcore.told import from_words

    for source, words in offer.told.items():
        vtep.tell_all(source, from_words(words))
    _remember(vtep, offer, offer.kept)
    vtep.wait_for_next_hops(HOPS_S)
    channel.send(Ready())
    final, _ = channel.receive(Final, RUN_S)
    vtep.resume(final.rest)
    _remember(vtep, offer, final.kept)
    channel.send(Running())
    vtep.go()
    return time.monotonic_ns() - final.stopped_ns


def _remember(vtep: Vtep, offer: Offer, kept: Kept) -> None:
    import numpy as np

    from vxcore.state import ROW, Learned

    addresses = np.frombuffer(kept.addresses, np.uint8).reshape(-1, 16)
    vtep.memory.put(Learned(addresses, np.frombuffer(kept.rows, ROW), kept.saved_s))
    here = vtep.places()
    places = {was: here[name] for name, was in offer.places.items() if name in here}
    vtep.memory.put_behind(np.frombuffer(kept.behind, ROW), places)
