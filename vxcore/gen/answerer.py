"""Answers in the name of emulated VTEPs: ARP and neighbour discovery, so that a peer can reply.

Place in the house: beside receiver, below sender. One thread; the kernel hands it only what asks.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Collection
from contextlib import ExitStack

from vxcore._fast.suppress import asked, reply_to
from vxcore.addresses import IPAddress
from vxcore.packet import JEQ, RET, WHOLE, assemble, packet_socket
from vxcore.packet_overlay import listen_to_all
from vxcore.ports import attach_filter
from vxcore.wire import ETH_LEN, IPV6_LEN

_LD_B = 0x30  # linux/bpf_common.h
_ETH_P_ARP, _ETH_P_IPV6 = 0x0806, 0x86DD
_ICMP6, _SOLICITATION = 58, 135  # RFC 4861 section 4.3
_LONGEST = 2048


class Answerer:
    """Answers on a device for addresses of one family, from construction to ``close``.

    They have the link address `mac`, the device's. `count` is how often it has answered.
    """

    def __init__(self, device: str, mac: bytes, addresses: Collection[IPAddress]) -> None:
        self.count = 0
        version = next(iter(addresses)).version
        mapped = b"" if version == 6 else bytes(10) + b"\xff\xff"
        self._ours = {mapped + address.packed for address in addresses}
        self._mac = int.from_bytes(mac)
        protocol = _ETH_P_ARP if version == 4 else _ETH_P_IPV6
        self._stop = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        with ExitStack() as undo:
            undo.callback(os.close, self._stop)
            self._socket = undo.enter_context(packet_socket(vnet=False))
            if version == 6:
                attach_filter(self._socket, assemble(_solicitations()))
            self._socket.bind((device, protocol))
            listen_to_all(self._socket, socket.if_nametoindex(device))
            undo.pop_all()
        self._thread = threading.Thread(target=self._run, name="vxcore-gen-answers")
        self._thread.start()

    def _run(self) -> None:
        watched = [self._socket.fileno(), self._stop]
        while self._stop not in select.select(watched, [], [])[0]:
            try:
                frame, sender = self._socket.recvfrom(_LONGEST)
                self._answer(frame, sender[2])
            except OSError:  # the device went down, or somebody else took the frame
                continue

    def _answer(self, frame: bytes, packet_type: int) -> None:
        if packet_type == socket.PACKET_OUTGOING or len(frame) < ETH_LEN:
            return
        question = asked(frame)
        if question is not None and question[0] in self._ours:
            self._socket.send(reply_to(frame, self._mac))
            self.count += 1

    def close(self) -> None:
        """Answer no more."""
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        self._socket.close()
        os.close(self._stop)


def _solicitations() -> list[str | tuple[int, int] | tuple[int, int, str, str]]:
    """Lets in neighbour solicitations without extension headers, as all are."""
    return [
        *((_LD_B, ETH_LEN + 6), (JEQ, _ICMP6, "", "drop")),
        *((_LD_B, ETH_LEN + IPV6_LEN), (JEQ, _SOLICITATION, "", "drop")),
        *((RET, WHOLE), "drop", (RET, 0)),
    ]
