"""A sender of a plan: into an interface of the overlay, or to a VTEP, from this host or from thousands.

Place in the house: above plan, way, receiver and answerer. What is sent as this host goes by a UDP socket,
as a VTEP's packets do; in the name of others it goes by a packet socket, past the host's IP stack.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, NamedTuple, Self

from vxcore._fast.codec import Tunnel
from vxcore._fast.generator import Transmitter
from vxcore.addresses import AddressError, IPAddress, parse_unicast
from vxcore.errors import ConfigError
from vxcore.gen.answerer import Answerer
from vxcore.gen.plan import LARGEST, Plan, Rate, parse_vteps
from vxcore.gen.receiver import Receiver, interface
from vxcore.gen.report import Answers, Sent, sizes
from vxcore.gen.way import Way, way_to
from vxcore.packet import SOL_PACKET, packet_socket
from vxcore.ports import route_to, set_buffer, socket_name
from vxcore.wire import ETH_LEN, VXLAN_PORT

_QDISC_BYPASS = 20  # linux/if_packet.h: straight to the device, without a queue of the kernel's
_SO_SNDBUFFORCE = 32
_OVERHEAD = {4: 20 + 8 + 8, 6: 40 + 8 + 8}  # of an IP packet, around a frame
_FRAMES, _PACKETS = 0, 1  # kinds of a Transmitter; 4 and 6 are UDP sockets


class _Outlet(NamedTuple):
    """Where packets go out."""

    name: str
    most: int
    """Bytes of the largest frame."""
    kind: int
    tunnels: list[Tunnel]
    vteps: list[IPAddress]
    """Those that are emulated."""
    way: Way | None


class Sender:
    """Sends the frames of a plan; a context manager.

    Either `into` names an interface of the overlay, into which frames go as they are; or `to` is the address
    of a VTEP that gets them in VXLAN packets to UDP port `dstport`: from this host, by its IP stack and from
    one port, or, with `source_vteps`, an IP prefix, in the name of all its addresses. Then ARP requests and
    solicitations for them are answered on the device, which is that of the route or `dev`, and what VXLAN
    packets come is counted, both from construction to ``close``. `rate` is the text of a Rate, `burst` the
    most packets that go out together (0: those of 250 us, 64 at most). `options` are those of a Plan;
    ``most`` is what has a way.

    Raises ConfigError, OSError for what the host refuses, PermissionError without CAP_NET_RAW.
    """

    def __init__(
        self,
        *,
        to: str | None = None,
        into: str | None = None,
        source_vteps: str | None = None,
        dev: str | None = None,
        dstport: int = VXLAN_PORT,
        rate: str = "max",
        burst: int = 0,
        clock: str = "monotonic",
        **options: Any,
    ) -> None:
        pace = Rate(rate)
        outlet = _into(into) if into is not None else _to(to, source_vteps, dev, dstport)
        if "macs" not in options and outlet.vteps:
            options["macs"] = len(outlet.vteps)
        self.plan = Plan(most=outlet.most, **options)
        self._outlet = outlet
        generator = self.plan.generator(outlet.tunnels, clock)
        with ExitStack() as undo:
            self._socket = undo.enter_context(_socket_of(outlet, dev))
            self._transmitter = Transmitter(
                *(generator, self._socket.fileno(), outlet.kind),
                rate=pace.value,
                bits=pace.bits,
                burst=burst,
            )
            self._peer = _Emulated(outlet, dstport) if outlet.vteps else None
            undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, count: int = 0, seconds: float = 0.0) -> None:
        """Send `count` packets, or for so many `seconds` (0: without end), or until ``stop``.

        Raises OSError when the device goes or refuses the packets for what they are.
        """
        self._transmitter.run(count, seconds)
        code = self._transmitter.error
        if code == errno.EMSGSIZE:
            raise OSError(code, f"{self._outlet.name} takes no packets of this size; use a smaller --size")
        if code:
            raise OSError(code, f"{self._outlet.name}: {os.strerror(code)}")

    def stop(self) -> None:
        """End ``run``, from any thread."""
        self._transmitter.stop()

    def report(self) -> Sent:
        """What went out in ``run``, and what came back since."""
        t = self._transmitter
        seconds = (t.ended_ns - t.started_ns) / 1e9
        return Sent(
            seconds=round(seconds, 9),
            packets=t.sent,
            bytes=t.sent_bytes,
            packets_per_s=round(t.sent / seconds, 1) if seconds else 0.0,
            bits_per_s=round(8 * t.sent_bytes / seconds, 1) if seconds else 0.0,
            refused=t.refused,
            run=self.plan.run,
            streams=self.plan.n_streams,
            vteps=len(self._outlet.tunnels),
            sizes=sizes(self.plan.sizes),
            answers=None if self._peer is None else self._peer.answers(),
        )

    def close(self) -> None:
        """Give the sockets back, and answer no more."""
        self._socket.close()
        if self._peer is not None:
            self._peer.close()


class _Emulated:
    """The receiving side of emulated VTEPs."""

    def __init__(self, outlet: _Outlet, dstport: int) -> None:
        assert outlet.way is not None
        with ExitStack() as undo:
            self._receiver = undo.enter_context(Receiver(outlet.name, tunnel=True, dstport=dstport))
            self._answerer = Answerer(outlet.name, outlet.way.ethernet[1], outlet.vteps)
            undo.pop_all()
        self._thread = threading.Thread(target=self._run, name="vxcore-gen-back")
        self._thread.start()

    def _run(self) -> None:
        with suppress(OSError):  # the device went: the sender says so
            self._receiver.run()

    def answers(self) -> Answers:
        totals = self._receiver.checker.totals
        return Answers(asked=self._answerer.count, packets=totals["tunnelled"], stamped=totals["received"])

    def close(self) -> None:
        self._receiver.stop()
        self._thread.join()
        self._answerer.close()
        self._receiver.close()


# Ways out


def _into(device: str) -> _Outlet:
    link = interface(device, "into")
    return _Outlet(device, min(link.mtu + ETH_LEN, LARGEST), _FRAMES, [], [], None)


def _to(to: str | None, source_vteps: str | None, dev: str | None, dstport: int) -> _Outlet:
    try:
        remote = parse_unicast(to or "")
    except AddressError as error:
        raise ConfigError(f"to {error}") from None
    if source_vteps is None:
        source, mtu = route_to(remote, dev)
        tunnel = Tunnel(local=source, remote=remote, vni=0, dst_port=dstport)
        return _Outlet(f"{remote}", _most(mtu, remote), remote.version, [tunnel], [], None)
    vteps = parse_vteps(source_vteps)
    if vteps[0].version != remote.version:
        raise ConfigError(f"source-vteps {source_vteps}: {remote} is of the other family")
    way = way_to(remote, dev)
    common: dict[str, Any] = {"remote": remote, "vni": 0, "dst_port": dstport, "ethernet": way.ethernet}
    tunnels = [Tunnel(local=vtep, **common) for vtep in vteps]
    return _Outlet(way.device, _most(way.mtu, remote), _PACKETS, tunnels, vteps, way)


def _most(mtu: int, remote: IPAddress) -> int:
    return min(mtu - _OVERHEAD[remote.version], LARGEST)


def _socket_of(outlet: _Outlet, dev: str | None) -> socket.socket:
    if outlet.kind in (_FRAMES, _PACKETS):
        sock = packet_socket(vnet=False)
        sock.setsockopt(SOL_PACKET, _QDISC_BYPASS, 1)
        sock.bind((outlet.name, 0))
    else:
        sock = _udp_socket(outlet.tunnels[0], dev)
    set_buffer(sock, _SO_SNDBUFFORCE, socket.SO_SNDBUF)
    sock.setblocking(True)
    return sock


def _udp_socket(tunnel: Tunnel, dev: str | None) -> socket.socket:
    spec = tunnel.spec
    sock = socket.socket(socket.AF_INET if spec.remote.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    if dev is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, dev.encode())
    sock.connect(socket_name(spec.remote, spec.dst_port, dev))
    return sock
