"""A receiver of generated frames on an interface, of the overlay or of the underlay.

Place in the house: above report, beside way; `vxcore gen receive` and, for what emulated VTEPs get, the
sender.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from vxcore._fast.checker import Checker, Taker
from vxcore._fast.codec import Rules
from vxcore.errors import ConfigError
from vxcore.gen.plan import CLOCKS
from vxcore.gen.report import Received, received
from vxcore.packet import RingSize, ring_drops
from vxcore.packet_overlay import Link, listen_to_all, look_at, receiver_on
from vxcore.wire import ETH_LEN, VXLAN_PORT

_TAG_LEN = 4
_LARGEST_SLOT = 9018  # larger ones come another way; see packet_ring
_ARPHRD_ETHER = 1


def interface(name: str, key: str) -> Link:
    """An Ethernet interface that is up; raises ConfigError, naming `key`, when there is none."""
    link = look_at(name)
    if link is None:
        raise ConfigError(f"{key} {name}: there is no such device; see `ip link`")
    if link.kind != _ARPHRD_ETHER:
        raise ConfigError(f"{key} {name}: it is no Ethernet device, such as a TAP, a veth or a NIC")
    if not link.up:
        raise ConfigError(f"{key} {name}: it is down; `ip link set {name} up`")
    return link


class Receiver:
    """Takes all that an interface receives; a context manager.

    With `tunnel` it looks for frames in VXLAN packets to UDP port `dstport`, as they come on the underlay.
    Up to `max_streams` streams are told apart. `clock` is that of the sender. It receives from when it is
    made, and counts in ``run``, which blocks, without the GIL, until another thread calls ``stop`` or one of
    its ends.

    Raises ConfigError for an interface that cannot be used, PermissionError, UnsupportedError.
    """

    def __init__(
        self,
        device: str,
        *,
        tunnel: bool = False,
        dstport: int = VXLAN_PORT,
        max_streams: int = 65536,
        clock: str = "monotonic",
    ) -> None:
        link = interface(device, "device")
        self.device, self.tunnel = device, tunnel
        self.checker = Checker(max_streams, CLOCKS[clock])
        ring = RingSize.fit_for(min(link.mtu + ETH_LEN + _TAG_LEN, _LARGEST_SLOT))
        rules = Rules(ports=(dstport,), zero_checksum6="accept") if tunnel else None
        with ExitStack() as undo:
            self._socket = undo.enter_context(receiver_on(device, ring))
            listen_to_all(self._socket, link.number)
            self._taker = Taker(self.checker, self._socket.fileno(), ring.blocks, ring.slot_len, rules)
            undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, count: int = 0, seconds: float = 0.0, idle: float = 0.0) -> None:
        """Receive `count` frames with a stamp, or for so many `seconds`; 0: without end.

        It ends, too, when none came for `idle` seconds after the first. Raises OSError when the
        interface goes.
        """
        self._taker.run(count, seconds, idle)
        if self._taker.error:
            raise OSError(self._taker.error, f"{self.device}: {os.strerror(self._taker.error)}")

    def stop(self) -> None:
        """End ``run``, from any thread."""
        self._taker.stop()

    def report(self, limit: int = 10) -> Received:
        """What came so far, with up to `limit` streams; not while ``run`` goes on."""
        return received(self.checker, ring_drops(self._socket), limit, self.tunnel)

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()
