"""The life cycle of a VTEP process: start, say so, wait for signals, stop.

Place in the house: above vtep and control, below commands. The packets are the business of the engine's
lanes; the thread here sleeps in sigtimedwait and wakes for a signal, or once a second to see that all lanes
live. What scripts read goes to stdout, one line each; what people read is logged.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from socket import socket
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from vxcore import activation, config, logs, succession
from vxcore.confine import confine, confine_like
from vxcore.control.client import Client
from vxcore.control.socket_file import peer_of
from vxcore.errors import ConfigError
from vxcore.handover import VERSIONS, About, Channel, Offer, ask_for, begin, hand_over
from vxcore.notify import ServiceManager, Watchdog
from vxcore.parts import NOTHING, Part, Parts, sockets
from vxcore.troubles import Troubles, uptime

if TYPE_CHECKING:
    from vxcore.config import Settings
    from vxcore.docker.driver import Driver
    from vxcore.engine import RemoteTraffic, Traffic
    from vxcore.metrics import MetricsServer
    from vxcore.plane_status import Status
    from vxcore.planes.serving import Planes
    from vxcore.vtep import Vtep

log = logging.getLogger("vxcore")

_STOP = frozenset({signal.SIGINT, signal.SIGTERM})
_REPORT = signal.SIGUSR1
_RELOAD = signal.SIGHUP
_WAKE_S = 1.0
_LEAVE_S = 10.0
_CONTROL, _METRICS = "control socket", "metrics"
_DOCKER_STAYS = "this VTEP serves Docker; restart it instead: containers keep their networks and connections"
_LATER = ("vxcore.control.server", "vxcore.metrics", "vxcore.state")


class RunningVtep(Protocol):
    """What is asked of a VTEP while it runs (`vxcore.vtep.Vtep`)."""

    def describe(self) -> list[dict[str, Any]]:
        """For each segment: vni, port (its kind), dev, mtu, and remotes as a list of strings."""

    def counters(self) -> dict[str, Any]:
        """What was carried and dropped so far, as JSON would have it."""

    def totals(self) -> dict[str, Any]:
        """As `counters`, without what there is one of for each segment and each remote."""

    def traffic(self) -> Traffic:
        """What each segment carried, and all together."""

    def remote_traffic(self) -> RemoteTraffic:
        """What each remote sent and got."""

    def turns(self) -> list[int]:
        """How often the loop of each lane has turned, at least once a second."""

    def lane_drops(self) -> dict[int, int]:
        """Packets that lanes have dropped, by verdict."""

    def offloads(self) -> dict[str, str]:
        """Each offload by name: "on", "off", or why the kernel does not do it."""

    def apply(self, settings: Settings) -> None:
        """Become what the settings say, or raise with nothing applied."""

    @property
    def failure(self) -> BaseException | None:
        """What made a lane end before it was told to."""


Reload = Callable[[], "Settings"]
Again = Callable[[], None]
VtepFactory = Callable[["Settings"], AbstractContextManager[RunningVtep]]


def serve(
    settings: Settings,
    vtep_factory: VtepFactory | None = None,
    reload: Reload | None = None,
    file: str | None = None,
    control: str | None = None,
) -> int:
    """Run a VTEP until SIGINT or SIGTERM; the exit code: 0, or 1 when a lane failed.

    When frames flow, stdout gets one line for each segment, ``ready vni 42 tap vx42 mtu 1450
    remotes 192.0.2.2``; on SIGUSR1 it gets one line of JSON, the counters. On SIGHUP, if there is
    `reload`, the settings that it returns are applied, or nothing of them, and stdout gets a line
    ``reloaded`` or ``not reloaded``; `file` is where they are from, and `control` the option that outranks
    it. Meanwhile the control socket of the settings is served. Must be called in the main thread. Raises
    what the engine raises when it cannot start; the host is then as it was.
    """
    logs.configure(settings.log)
    with suppress(AttributeError, ValueError, RuntimeError):  # standard error is no file
        faulthandler.enable()  # what the log says of a crash
    # Threads inherit the mask of the thread that starts them, and one thread that lets SIGTERM
    # through is enough to kill the process with its TAP devices half changed. So the mask comes
    # first of all, even before the import of numpy, which starts threads of its own.
    signals = _signals(reload)
    manager, given = ServiceManager(), activation.control_socket()
    confine(settings)  # while there is one thread
    with (
        _blocked(signals),
        (vtep_factory or _engine_vtep)(settings) as vtep,
        _planes(vtep, settings) as planes,
        _docker(vtep, settings, planes) as driver,
    ):
        about = About(file, control, manager.environment)
        life = _Life(
            vtep, settings, signals, manager, reload, about, planes, driver, given, given is not None
        )
        return life.live(NOTHING, lambda: _announce(vtep.describe()))


def take_over(path: str | None, tell: Callable[[dict[str, Any]], None]) -> int:
    """As ``serve``, of a VTEP that another process has, at whose control socket it is asked for.

    That process forwards until this one is ready to, and goes on if this one fails; then HandoverError,
    ConfigError or OSError says why. `tell` is called when the VTEP is here, and the other process has ended;
    from then on output goes where the other's went.
    """
    with Client(path) as client:
        _, connection = client.become("takeover", versions=VERSIONS)
        old_pid = client.pid
    with closing(Channel(connection)) as channel:
        succession.join(old_pid)
        confine_like(old_pid, peer_of(connection).uid)
        offer, settings, handed = ask_for(channel)
        about, manager = offer.about, ServiceManager(offer.about.environment)
        reload = None if about.file is None else partial(_load, about.file, about.control)
        confine(settings)
        with (
            _blocked(_signals(reload)),
            _engine_vtep(settings, handed) as vtep,
            _planes(vtep, settings) as planes,
        ):
            for module in _LATER:  # they must not be missing when nobody else forwards any more
                import_module(module)
            stood_ms = begin(channel, cast("Vtep", vtep), offer) / 1e6
            logs.configure(settings.log)
            taken = _Taken(channel, offer, handed, old_pid, round(stood_ms, 3))
            life = _Life(vtep, settings, _signals(reload), manager, reload, about, planes)
            return life.live(handed, lambda: taken.tell(tell))


class _Taken(NamedTuple):
    """A VTEP that was another process's until now."""

    channel: Channel
    offer: Offer
    handed: Parts
    was: int
    stood_ms: float

    def tell(self, tell: Callable[[dict[str, Any]], None]) -> None:
        """When the other process has ended, which it does at once."""
        if not self.channel.hung_up(_LEAVE_S):
            log.warning("process %d has given its VTEP away, and has not ended", self.was)
        parts = {name: part.n_fds for name, part in self.offer.parts.items()}
        tell({"pid": os.getpid(), "was": self.was, "stood_ms": self.stood_ms, "handed": parts})
        succession.use_outputs(self.handed)
        self.handed.close_rest()
        text = "process %d has the VTEP of process %d now; nothing was forwarded for %.1f ms"
        log.info(text, os.getpid(), self.was, self.stood_ms)
        _say(f"upgraded pid {os.getpid()}")


def _load(file: str, control: str | None) -> Settings:
    return config.with_control(config.load(file), control)


def _signals(reload: Reload | None) -> frozenset[signal.Signals]:
    return _STOP | {_REPORT} | ({_RELOAD} if reload else set())


def _engine_vtep(settings: Settings, handed: Parts | None = None) -> AbstractContextManager[RunningVtep]:
    from vxcore.vtep import Vtep

    return Vtep(settings, handed)


def _planes(vtep: RunningVtep, settings: Settings) -> AbstractContextManager[Planes | None]:
    """The control planes, if settings may name any."""
    if settings.etcd is None and settings.evpn is None and settings.docker is None:
        return nullcontext()
    from vxcore.planes.serving import Planes

    return Planes(cast("Vtep", vtep), settings)


def _docker(
    vtep: RunningVtep, settings: Settings, planes: Planes | None
) -> AbstractContextManager[Driver | None]:
    """Docker's driver, if it is to be served."""
    if settings.docker is None:
        return nullcontext()
    from vxcore.docker.server import serving

    return serving(cast("Vtep", vtep), settings.docker, cast("Planes", planes))


@dataclass
class _Life:
    """A VTEP in this process, from the moment that it forwards."""

    vtep: RunningVtep
    settings: Settings
    signals: frozenset[signal.Signals]
    manager: ServiceManager
    reload: Reload | None
    about: About
    planes: Planes | None = None
    driver: Driver | None = None
    control: socket | None = None
    """The control socket, where a service manager listens on it."""
    keeps_control: bool = False
    """Whether its file is not ours."""
    metrics: MetricsServer | None = None
    leaving: bool = False
    stopping: bool = False
    heir: Channel | None = None
    """The process that is taking the VTEP over."""
    changing: threading.Lock = field(default_factory=threading.Lock)
    """Held while settings are read again: what is handed over is what they have made of it, or not yet."""
    began: float = field(default_factory=time.monotonic)

    def live(self, handed: Parts, started: Callable[[], None]) -> int:
        """Serve those who ask until the end, on sockets that may be `handed` over; the exit code."""
        with self._metrics(handed), self._controlled(handed):
            started()
            if self.planes is not None:
                self.planes.start()
            self.manager.ready(_status(self.vtep))
            code = _wait(self.vtep, self.signals, self._again(), self.manager)
            self._refuse_heirs()
            failure = self.vtep.failure
            self.manager.stopping(_words(failure) if failure else "stopping")
        log.info("%s", self._summary())
        return code

    def _again(self) -> Again | None:
        """What SIGHUP does; Docker's networks stay beside what the file says."""
        if self.reload is None:
            return None
        return self._apply if self.driver is None else self.driver.alone(self._apply)

    def _apply(self) -> None:
        """Read the settings again; what is wrong with them is told, and raised."""
        self.manager.reloading()
        status = ""
        try:
            with self.changing:
                settings = self._read_again()
                self.vtep.apply(settings)
            logs.configure(settings.log)
        except Exception as error:
            log.error("not reloaded, nothing has changed: %s", _words(error))
            log.debug("raised here:", exc_info=error)
            _say("not reloaded")
            status = f"; not reloaded: {_words(error)}"
            raise
        else:
            log.info("reloaded: %d segments", len(self.vtep.describe()))
            _say("reloaded")
        finally:
            self.manager.ready(_status(self.vtep) + status)

    def _read_again(self) -> Settings:
        assert self.reload is not None
        if self.leaving:
            raise ConfigError("another process is taking this VTEP over; reload it there")
        settings = self.reload()
        return settings if self.driver is None else self.driver.beside(settings)

    def _controlled(self, handed: Parts) -> AbstractContextManager[None]:
        from vxcore.control.requests import Operated
        from vxcore.control.server import serving

        hand_over, stays = (self._hand_over, "") if self.driver is None else (None, _DOCKER_STAYS)
        vtep = cast("Vtep", self.vtep)
        operated = Operated(vtep, self._again(), self.about.file, self._plane_statuses, hand_over, stays)
        part = handed.take(_CONTROL)
        if part is not None:
            (self.control,), self.keeps_control = sockets(part.fds), part.facts["keep_file"]
        return serving(operated, self.settings.control, self.control, self.keeps_control)

    def _metrics(self, handed: Parts) -> AbstractContextManager[object]:
        """The server of metrics, if there is to be one."""
        if self.settings.metrics is None:
            return nullcontext()
        from vxcore.metrics import MetricsServer

        part, planes = handed.take(_METRICS), self._plane_statuses
        self.metrics = MetricsServer(self.vtep, self.settings.metrics, part, planes)
        return self.metrics

    def _plane_statuses(self) -> list[Status]:
        """How the control planes are; there may be none."""
        return [] if self.planes is None else self.planes.status()

    def _hand_over(self, connection: socket, listening: socket, pid: int) -> None:
        """Give the VTEP to a process, and end; if that fails, say why, and go on."""
        log.info("process %d is to have this VTEP", pid)
        others = {name: Part([number], {}) for number, name in succession.OUTPUTS.items()}
        others[_CONTROL] = Part([listening.fileno()], {"keep_file": self.keeps_control})
        if self.metrics is not None:
            others[_METRICS] = self.metrics.part()
        with self.changing:
            self.leaving = True
        try:
            with closing(Channel(connection)) as self.heir:
                if self.stopping:
                    self.heir.end()
                hand_over(self.heir, cast("Vtep", self.vtep), self.about, others, pid)
                self._leave(pid)
        except Exception as error:
            log.error("not handed over to process %d, this one goes on: %s", pid, _words(error))
            log.debug("raised here:", exc_info=error)
        finally:
            self.leaving, self.heir = False, None

    def _refuse_heirs(self) -> None:
        """Who is told to end ends, and nobody has the VTEP after him unless he has it already."""
        self.stopping = True
        heir = self.heir
        if heir is not None:
            heir.end()

    def _leave(self, pid: int) -> None:
        """End at once, for all that would be put back is in use, and no thread has anything left to do."""
        try:
            self.manager.succeeded_by(pid)
            log.info("process %d goes on; %s", pid, self._summary())
            cast("Vtep", self.vtep).leave()
        finally:
            os._exit(0)

    def _summary(self) -> str:
        return _summary(self.vtep.counters(), time.monotonic() - self.began)


@contextmanager
def _blocked(signals: frozenset[signal.Signals]) -> Iterator[None]:
    """Keep `signals` pending for sigtimedwait; at the end forget those nobody waited for."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        while signal.sigtimedwait(signals, 0):
            pass  # a second Ctrl-C must not interrupt what follows
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _announce(segments: list[dict[str, Any]]) -> None:
    for segment in segments:
        vni, mtu, remotes = (segment[key] for key in ("vni", "mtu", "remotes"))
        port = f"{segment['port']} {segment['dev']}"
        if segment.get("collects"):
            log.info("collecting VNIs %s: %s", vni, port)
            _say(f"ready collect {vni} {port}")
            continue
        log.info("segment %s: %s, mtu %s, remotes %s", vni, port, mtu, ", ".join(remotes) or "none")
        _say(f"ready vni {vni} {port} mtu {mtu} remotes {','.join(remotes) or 'none'}")


def _status(vtep: RunningVtep) -> str:
    """What `systemctl status` says of it."""
    return f"{len(vtep.describe())} segments, {len(vtep.turns())} lanes"


def _wait(
    vtep: RunningVtep, signals: frozenset[signal.Signals], again: Again | None, manager: ServiceManager
) -> int:
    """Answer signals until one says stop (0) or a lane has failed (1)."""
    offloads, watchdog = vtep.offloads(), Watchdog(manager, vtep.turns)
    troubles = Troubles(vtep.lane_drops)
    while vtep.failure is None:
        due = uptime() + _WAKE_S
        received = signal.sigtimedwait(signals, _WAKE_S)
        logs.tell_left_out()
        watchdog.look()
        troubles.look(overslept_s=uptime() - due)
        offloads = _log_changes(offloads, vtep.offloads())
        if received is None:
            continue
        if received.si_signo in _STOP:
            return 0
        if received.si_signo == _RELOAD and again is not None:
            with suppress(Exception):  # it was told
                again()
            continue
        _say(json.dumps(vtep.counters()))
    log.error("a lane failed: %s", _words(vtep.failure))
    return 1


def _log_changes(before: dict[str, str], now: dict[str, str]) -> dict[str, str]:
    """An offload that the kernel turned out not to have is told once."""
    for name, state in now.items():
        if before.get(name) != state:
            log.warning("offload %s: %s", name, state)
    return now


def _words(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _say(line: str) -> None:
    """A line on stdout at once. A reader who went away, or a full disk, is no reason to carry no frames."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        log.warning("nobody reads stdout any more: %s", line)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        log.warning("stdout cannot be written: %s: %s", error.strerror, line)
        _forget_unwritten()


def _forget_unwritten() -> None:
    """What print would write first, the next time: nobody waits for it any more."""
    fd = sys.stdout.fileno()
    before, nowhere = os.dup(fd), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, fd)
    sys.stdout.flush()
    os.dup2(before, fd)
    os.close(before)
    os.close(nowhere)


def _summary(counters: dict[str, Any], seconds: float) -> str:
    def total(key: str) -> int:
        return sum(segment[key] for segment in counters["segments"])

    carried = (
        f"stopped after {seconds:.0f} s: received {total('rx_packets')} packets ({total('rx_bytes')} bytes), "
        f"sent {total('tx_packets')} packets ({total('tx_bytes')} bytes)"
    )
    drops = ", ".join(f"{name} {n}" for name, n in counters["drops"].items() if n)
    return f"{carried}; dropped: {drops}" if drops else carried
