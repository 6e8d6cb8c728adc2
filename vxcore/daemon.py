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
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

from vxcore import activation, logs
from vxcore.confine import confine
from vxcore.notify import ServiceManager, Watchdog
from vxcore.troubles import Troubles

if TYPE_CHECKING:
    from socket import socket

    from vxcore.config import Settings
    from vxcore.docker.driver import Driver
    from vxcore.engine import RemoteTraffic, Traffic
    from vxcore.vtep import Vtep

log = logging.getLogger("vxcore")

_STOP = frozenset({signal.SIGINT, signal.SIGTERM})
_REPORT = signal.SIGUSR1
_RELOAD = signal.SIGHUP
_WAKE_S = 1.0


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
) -> int:
    """Run a VTEP until SIGINT or SIGTERM; the exit code: 0, or 1 when a lane failed.

    When frames flow, stdout gets one line for each segment, ``ready vni 42 tap vx42 mtu 1450
    remotes 192.0.2.2``; on SIGUSR1 it gets one line of JSON, the counters. On SIGHUP, if there is
    `reload`, the settings that it returns are applied, or nothing of them, and stdout gets a line
    ``reloaded`` or ``not reloaded``; `file` is where they are from. Meanwhile the control socket of the
    settings is served. Must be called in the main thread. Raises what the engine raises
    when it cannot start; the host is then as it was.
    """
    logs.configure(settings.log)
    with suppress(AttributeError, ValueError, RuntimeError):  # standard error is no file
        faulthandler.enable()  # what the log says of a crash
    # Threads inherit the mask of the thread that starts them, and one thread that lets SIGTERM
    # through is enough to kill the process with its TAP devices half changed. So the mask comes
    # first of all, even before the import of numpy, which starts threads of its own.
    signals = _STOP | {_REPORT} | ({_RELOAD} if reload else set())
    manager, given = ServiceManager(), activation.control_socket()
    confine(settings)  # while there is one thread
    with (
        _blocked(signals),
        (vtep_factory or _engine_vtep)(settings) as vtep,
        _docker(vtep, settings) as driver,
    ):
        started = time.monotonic()
        again = None if reload is None else _again(vtep, reload, manager, driver)
        with _controlled(vtep, settings, again, file, given), _metrics(vtep, settings):
            _announce(vtep.describe())
            manager.ready(_status(vtep))
            code = _wait(vtep, signals, again, manager)
            manager.stopping(_words(vtep.failure) if vtep.failure else "stopping")
        log.info("%s", _summary(vtep.counters(), time.monotonic() - started))
        return code


def _engine_vtep(settings: Settings) -> AbstractContextManager[RunningVtep]:
    from vxcore.vtep import Vtep

    return Vtep(settings)


def _docker(vtep: RunningVtep, settings: Settings) -> AbstractContextManager[Driver | None]:
    """Docker's driver, if it is to be served."""
    if settings.docker is None:
        return nullcontext()
    from vxcore.docker.server import serving

    return serving(cast("Vtep", vtep), settings.docker)


def _again(vtep: RunningVtep, reload: Reload, manager: ServiceManager, driver: Driver | None) -> Again:
    """What SIGHUP does; Docker's networks stay beside what the file says."""
    if driver is None:
        return partial(_apply, vtep, reload, manager)
    return driver.alone(partial(_apply, vtep, lambda: driver.beside(reload()), manager))


def _controlled(
    vtep: RunningVtep, settings: Settings, again: Again | None, file: str | None, given: socket | None
) -> AbstractContextManager[None]:
    from vxcore.control.requests import Operated
    from vxcore.control.server import serving

    return serving(Operated(cast("Vtep", vtep), again, file), settings.control, given)


def _metrics(vtep: RunningVtep, settings: Settings) -> AbstractContextManager[object]:
    """The server of metrics, if there is to be one."""
    if settings.metrics is None:
        return nullcontext()
    from vxcore.metrics import MetricsServer

    return MetricsServer(vtep, settings.metrics)


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
        due = time.monotonic() + _WAKE_S
        received = signal.sigtimedwait(signals, _WAKE_S)
        logs.tell_left_out()
        watchdog.look()
        troubles.look(overslept_s=time.monotonic() - due)
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


def _apply(vtep: RunningVtep, reload: Reload, manager: ServiceManager) -> None:
    """Read the settings again; what is wrong with them is told, and raised."""
    manager.reloading()
    status = ""
    try:
        settings = reload()
        vtep.apply(settings)
        logs.configure(settings.log)
    except Exception as error:
        log.error("not reloaded, nothing has changed: %s", _words(error))
        log.debug("raised here:", exc_info=error)
        _say("not reloaded")
        status = f"; not reloaded: {_words(error)}"
        raise
    else:
        log.info("reloaded: %d segments", len(vtep.describe()))
        _say("reloaded")
    finally:
        manager.ready(_status(vtep) + status)


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
