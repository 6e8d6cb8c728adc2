"""What the log says of trouble that the host makes: packets that nobody takes, a clock that was set.

Place in the house: beside notify, below daemon, which asks once a second; above verdict alone. Nothing is
done about it here: lanes go on by themselves, and count.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from vxcore.verdict import Verdict

log = logging.getLogger("vxcore")

QUIET_S = 10.0
"""How long a trouble must not be seen to be over."""
_STEP_S = 1.0
_STOOD_S = 5.0
# What the host is to blame for. Of missing next hops those tell who look for them.
_TOLD = (
    Verdict.UNDERLAY_FULL,
    Verdict.UNDERLAY_REFUSED,
    Verdict.OVERLAY_FULL,
    Verdict.OVERLAY_DOWN,
    Verdict.OVERLAY_REFUSED,
)


def uptime() -> float:
    """Seconds since the machine was started, those included in which it was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class _Trouble(NamedTuple):
    """Since how many packets, and until when it was seen."""

    before: int
    seen_s: float


class Troubles:
    """Tells when packets begin to be lost for one of the host's reasons, and when that is over.

    And of steps of the clock, and of time in which the process did not run. `drops` gives what lanes have
    dropped so far, by verdict; the clocks are for tests.
    """

    def __init__(
        self,
        drops: Callable[[], Mapping[int, int]],
        uptime: Callable[[], float] = uptime,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._drops, self._uptime, self._clock = drops, uptime, clock
        self._before = dict(drops())
        self._lasting: dict[Verdict, _Trouble] = {}
        self._offset = clock() - uptime()

    def look(self, overslept_s: float = 0.0) -> None:
        """To be called about once a second, by who has slept so much longer than he wanted."""
        if overslept_s >= _STOOD_S:
            log.warning(
                "stood still for %.0f s: stopped, or without a processor; what queues could not keep is lost",
                overslept_s,
            )
        self._look_at_clock()
        now, drops = self._uptime(), dict(self._drops())
        for verdict in _TOLD:
            before, count = self._before.get(verdict, 0), drops.get(verdict, 0)
            if count > before:
                self._seen(verdict, before, now)
            elif verdict in self._lasting and now >= self._lasting[verdict].seen_s + QUIET_S:
                lost = count - self._lasting.pop(verdict).before
                log.info("no packets are lost as %s any more; there were %d", verdict.label, lost)
        self._before = drops

    def _seen(self, verdict: Verdict, before: int, now: float) -> None:
        trouble = self._lasting.get(verdict)
        if trouble is None:
            log.warning("packets are lost as %s: %s; %s", verdict.label, verdict.text, verdict.remedy)
        self._lasting[verdict] = _Trouble(before if trouble is None else trouble.before, now)

    def _look_at_clock(self) -> None:
        offset = self._clock() - self._uptime()
        step = offset - self._offset
        self._offset = offset
        if abs(step) >= _STEP_S:
            way = "forth" if step > 0 else "back"
            log.warning("the clock was set %s by %.0f s; ageing and rates do not go by it", way, abs(step))
