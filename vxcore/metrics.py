"""Counters for Prometheus: read from a running VTEP when somebody asks, and served by HTTP.

Place in the house: above engine, below daemon, which loads it when settings have a [metrics] table. Nothing
is counted here. `METRICS` is the one list of what there is; docs/metrics.md is made from it.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client import Metric as Family
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from vxcore import config
from vxcore._version import __version__
from vxcore.addresses import Listen
from vxcore.engine import COUNTED, RemoteTraffic, Traffic
from vxcore.errors import ConfigError
from vxcore.parts import Part, sockets
from vxcore.plane_status import Status
from vxcore.remotes import unpacked
from vxcore.verdict import Verdict

log = logging.getLogger("vxcore")

PATH = "/metrics"
_CLIENTS = 8  # at a time; others are turned away
_CLIENT_S = 5.0  # of silence, after which one is given up

Sample = tuple[tuple[str, ...], float]


class Metric(NamedTuple):
    """One metric, by its name in OpenMetrics: of a counter with ``_total``, of an info with ``_info``."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


_CARRIED = {
    "received_packets": "Frames accepted from the underlay",
    "received_bytes": "Bytes of frames accepted from the underlay",
    "sent_packets": "Frames sent to the underlay, each copy of a flooded one by itself",
    "sent_bytes": "Bytes of frames sent to the underlay",
}  # as in COUNTED

METRICS = (
    Metric("vxcore_build_info", "info", ("version",), "1, with the version as a label"),
    *(
        Metric(f"vxcore_{name}_total", "counter", (), f"{text}, in all segments that there are or were")
        for name, text in _CARRIED.items()
    ),
    *(
        Metric(f"vxcore_segment_{name}_total", "counter", ("vni",), f"{text}, in one segment")
        for name, text in _CARRIED.items()
    ),
    *(
        Metric(f"vxcore_remote_{name}_total", "counter", ("remote",), f"{text}, of one remote")
        for name, text in _CARRIED.items()
    ),
    Metric("vxcore_remotes", "gauge", (), "Remotes"),
    Metric("vxcore_remotes_shown", "gauge", (), "Remotes that have series of their own"),
    Metric("vxcore_segment_learned_entries", "gauge", ("vni",), "FDB entries that one segment has learned"),
    Metric("vxcore_segments", "gauge", (), "Segments and collectors"),
    Metric("vxcore_segments_shown", "gauge", (), "Segments that have series of their own"),
    Metric(
        "vxcore_dropped_packets_total",
        "counter",
        ("reason",),
        "Packets that were not delivered, by verdict (docs/verdicts.md)",
    ),
    Metric("vxcore_fdb_entries", "gauge", (), "FDB entries, those not yet swept among them"),
    Metric(
        "vxcore_fdb_changes_total",
        "counter",
        ("change",),
        "What became of addresses: learned, moves, frozen (moved too often), held (frozen, and so stayed),"
        " refused (is set elsewhere), overflow (no room), aged, flushed",
    ),
    Metric("vxcore_lane_wakeups_total", "counter", ("lane",), "How often a lane began a turn of its loop"),
    Metric("vxcore_lane_bursts_total", "counter", ("lane",), "Bursts of packets that a lane received"),
    Metric("vxcore_offload_on", "gauge", ("offload",), "1 while an offload is in use"),
    Metric(
        "vxcore_offload_refused", "gauge", ("offload",), "1 if the kernel does not have it, or refused it"
    ),
    Metric("vxcore_events_total", "counter", (), "Events that lanes told"),
    Metric("vxcore_events_dropped_total", "counter", (), "Events that found their ring or queue full"),
    Metric(
        "vxcore_strangers_refused_total",
        "counter",
        (),
        "Frames let in from a VTEP for which there was no room among the remotes",
    ),
    Metric("vxcore_plane_connected", "gauge", ("plane",), "1 while a control plane is connected"),
    Metric(
        "vxcore_plane_stale_seconds",
        "gauge",
        ("plane",),
        "For how long what it says has been from before its connection was lost; 0: it is not",
    ),
    Metric("vxcore_plane_heard", "gauge", ("plane",), "Members and endpoints that others announce"),
    Metric("vxcore_plane_announced", "gauge", ("plane",), "Members and endpoints that this VTEP announces"),
    Metric(
        "vxcore_plane_troubles",
        "gauge",
        ("plane",),
        "What it ignores, and what is not announced, for another VTEP has it (`vxcore show plane`)",
    ),
    Metric("vxcore_plane_done_total", "counter", ("plane", "what"), "What it has done: splits, messages"),
)


class Metered(Protocol):
    """What is read of a VTEP (`vxcore.vtep.Vtep`)."""

    def totals(self) -> dict[str, Any]:
        """Drops, FDB, lanes, offloads, events."""

    def traffic(self) -> Traffic:
        """What each segment carried, and all together."""

    def remote_traffic(self) -> RemoteTraffic:
        """What each remote sent and got."""


Planes = Callable[[], Iterable[Status]]


class VtepCollector(Collector):
    """What prometheus-client asks for values; so many segments and remotes have series of their own."""

    def __init__(self, vtep: Metered, n_segments: int, n_remotes: int, planes: Planes) -> None:
        self._vtep, self._n_segments, self._n_remotes = vtep, n_segments, n_remotes
        self._planes = planes

    def collect(self) -> Iterator[Family]:
        """All metrics as they are now."""
        totals, traffic = self._vtep.totals(), self._vtep.traffic()
        samples: dict[str, Iterable[Sample]] = {
            "vxcore_build_info": [((__version__,), 1.0)],
            **_of_traffic(traffic, self._n_segments),
            **_of_remotes(self._vtep.remote_traffic(), self._n_remotes),
            **_of_totals(totals),
            **_of_planes(list(self._planes())),
        }
        for metric in METRICS:
            yield _family(metric, samples[metric.name])


def _family(metric: Metric, samples: Iterable[Sample]) -> Family:
    name = metric.name.removesuffix("_total").removesuffix("_info")
    if metric.kind == "info":
        info = InfoMetricFamily(name, metric.help)
        for labels, _ in samples:
            info.add_metric([], dict(zip(metric.labels, labels, strict=True)))
        return info
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(name, metric.help, labels=metric.labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def _of_traffic(traffic: Traffic, n_segments: int) -> dict[str, list[Sample]]:
    shown = busiest(traffic.vni, traffic.counts, n_segments)
    labels = [(traffic.titles.get(vni, str(vni)),) for vni in traffic.vni[shown].tolist()]
    columns = traffic.counts[shown].T.tolist()
    samples: dict[str, list[Sample]] = {
        "vxcore_segments": [((), len(traffic.vni))],
        "vxcore_segments_shown": [((), len(shown))],
        "vxcore_segment_learned_entries": list(zip(labels, traffic.n_learned[shown].tolist(), strict=True)),
    }
    for place, name in enumerate(_CARRIED):
        samples[f"vxcore_{name}_total"] = [((), int(traffic.total[place]))]
        samples[f"vxcore_segment_{name}_total"] = list(zip(labels, columns[place], strict=True))
    return samples


def _of_remotes(traffic: RemoteTraffic, n_remotes: int) -> dict[str, list[Sample]]:
    shown = busiest(traffic.remote, traffic.counts, n_remotes)
    labels = [(str(unpacked(bytes(address))),) for address in traffic.address[shown]]
    samples: dict[str, list[Sample]] = {
        "vxcore_remotes": [((), len(traffic.remote))],
        "vxcore_remotes_shown": [((), len(shown))],
    }
    for name, column in zip(_CARRIED, traffic.counts[shown].T.tolist(), strict=True):
        samples[f"vxcore_remote_{name}_total"] = list(zip(labels, column, strict=True))
    return samples


def busiest(numbers: NDArray[np.uint32], counts: NDArray[np.uint64], n: int) -> NDArray[np.intp]:
    """The rows, by number, of the `n` that have carried most bytes; of equal ones, the lower numbers.

    What was carried so far changes its order slowly, so series seldom begin or end.
    """
    of_bytes = [place for place, name in enumerate(COUNTED) if name.endswith("_bytes")]
    carried = counts[:, of_bytes].sum(axis=1)
    most = np.lexsort((numbers, ~carried))[:n]
    return most[np.argsort(numbers[most])]


def _of_totals(totals: dict[str, Any]) -> dict[str, list[Sample]]:
    drops, changes, events = totals["drops"], dict(totals["fdb"]), totals["events"]
    offloads = totals["offloads"].items()
    entries = changes.pop("entries")
    return {
        "vxcore_dropped_packets_total": [
            ((verdict.label,), drops.get(verdict.label, 0)) for verdict in Verdict if verdict
        ],
        "vxcore_fdb_entries": [((), entries)],
        "vxcore_fdb_changes_total": [((name,), n) for name, n in changes.items()],
        **{
            f"vxcore_lane_{name}_total": [((str(n),), lane[name]) for n, lane in enumerate(totals["lanes"])]
            for name in ("wakeups", "bursts")
        },
        "vxcore_offload_on": [((name,), state == "on") for name, state in offloads],
        "vxcore_offload_refused": [((name,), state not in ("on", "off")) for name, state in offloads],
        "vxcore_events_total": [((), events["told"])],
        "vxcore_events_dropped_total": [((), events["dropped"])],
        "vxcore_strangers_refused_total": [((), events["strangers_refused"])],
    }


def _of_planes(planes: Sequence[Status]) -> dict[str, list[Sample]]:
    def each(value: Callable[[Status], float]) -> list[Sample]:
        return [((plane.plane,), value(plane)) for plane in planes]

    return {
        "vxcore_plane_connected": each(lambda plane: plane.state == "connected"),
        "vxcore_plane_stale_seconds": each(lambda plane: plane.since_s if plane.state == "stale" else 0.0),
        "vxcore_plane_heard": each(lambda plane: plane.heard),
        "vxcore_plane_announced": each(lambda plane: plane.announced),
        "vxcore_plane_troubles": each(lambda plane: len(plane.troubles)),
        "vxcore_plane_done_total": [
            ((plane.plane, what), n) for plane in planes for what, n in plane.counts.items()
        ],
    }


def registry(vtep: Metered, settings: config.Metrics, planes: Planes = tuple) -> CollectorRegistry:
    """What a scrape reads: the VTEP's metrics, and this process's."""
    both = CollectorRegistry()
    both.register(VtepCollector(vtep, settings.segments, settings.remotes, planes))
    ProcessCollector(registry=both)
    return both


# Serving them


class MetricsServer:
    """The HTTP server of a VTEP's metrics, in threads of its own while inside ``with``.

    Raises ConfigError for an address that is not this host's, OSError for a port that is taken. A `handed`
    part is the socket of another process, which listens.
    """

    def __init__(
        self, vtep: Metered, settings: config.Metrics, handed: Part | None = None, planes: Planes = tuple
    ) -> None:
        served = registry(vtep, settings, planes)
        self._server = _open(settings.listen, served) if handed is None else _taken(handed, served)
        address, port = settings.listen.ends[0], self._server.server_address[1]
        self.listen = Listen(f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}")
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.2,), name="vxcore-metrics", daemon=True
        )

    def part(self) -> Part:
        """What another process goes on with."""
        return Part([self._server.fileno()], {})

    def __enter__(self) -> Self:
        self._thread.start()
        log.info("metrics: http://%s%s", self.listen, PATH)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _open(listen: Listen, served: CollectorRegistry) -> _Server:
    address, port = listen.ends
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        return _Server(family, (str(address), port), served)
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise ConfigError(f"metrics: {address} is not an address of this host") from None
        text = os.strerror(error.errno or errno.EIO)
        raise OSError(error.errno, f"metrics: TCP port {port} on {address}: {text}") from None


def _taken(handed: Part, served: CollectorRegistry) -> _Server:
    (sock,) = sockets(handed.fds)
    return _Server(sock.family, sock.getsockname()[:2], served, sock)


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A thread for each client, but not for more than `_CLIENTS` at a time."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(
        self,
        family: int,
        address: tuple[str, int],
        served: CollectorRegistry,
        listening: socket.socket | None = None,
    ) -> None:
        self.address_family = family
        self.served = served
        self._room = threading.BoundedSemaphore(_CLIENTS)
        super().__init__(address, _Handler, bind_and_activate=listening is None)
        if listening is not None:
            self.socket.close()
            self.socket, self.server_address = listening, address

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            log.warning("metrics: %d clients at a time are served, one was turned away", _CLIENTS)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("metrics: a client went away", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    timeout = _CLIENT_S
    server: _Server
    server_version = f"vxcore/{__version__}"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != PATH:
            self.send_error(HTTPStatus.NOT_FOUND, explain=f"The metrics are at {PATH}.")
            return
        try:
            encode, content_type = choose_encoder(self.headers.get("Accept", ""))
            text = encode(self.server.served)
        except Exception:
            log.exception("metrics: they could not be read")
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments: Any) -> None:
        log.debug("metrics: %s: %s", self.client_address[0], arguments[0] % arguments[1:])
