"""A Vtep in a Python process of its own, told what to do by lines of JSON: `[name, arguments, options]`.

Place in the house: a program that interop tests run in a namespace, with its settings as JSON for an
argument; `Controlled` is their side of it. Answers are `["ok", result]` or `["error", type, message]`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import numpy as np

import vxcore
from support.hosts import DEADLINE_S, Host, wait_until
from support.tree import ROOT
from vxcore import Vtep, config, trace
from vxcore.engine import COUNTED
from vxcore.remotes import unpacked

QUEUE_LEN = 10_000


class Controlled:
    """A Vtep in a host's namespace; ready when constructed, and ended by the Lan, or by ``stop``."""

    def __init__(self, host: Host, **settings: Any) -> None:
        given = {"underlay": {"local": host.v4, **settings.pop("underlay", {})}, **settings}
        environment = ["env", f"PYTHONPATH={ROOT / 'tests'}"]
        command = [*environment, sys.executable, __file__, json.dumps(given)]
        self.process = host.start(*command, stdin=subprocess.PIPE)
        self._told: list[dict[str, Any]] = []
        self._answer()

    def __call__(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the Vtep and return its result; an exception there is raised here by its name."""
        assert self.process.stdin is not None
        print(json.dumps([name, arguments, options]), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        answer = json.loads(line)
        if answer[0] == "error":
            raise getattr(vxcore, answer[1], RuntimeError)(answer[2])
        return answer[1]

    def drops(self, verdict: str) -> int:
        return int(self("counters")["drops"].get(verdict, 0))

    def counted(self, vni: int) -> dict[str, int]:
        return next(row for row in self("counters")["segments"] if row["vni"] == vni)

    def happens(self, **wanted: Any) -> dict[str, Any]:
        """Wait for an event that has these values, later than those waited for before, and return it."""

        def event() -> Any:
            self._told += self("take")
            for at, each in enumerate(self._told):
                if wanted.items() <= each.items():
                    del self._told[: at + 1]
                    return each
            return None

        return dict(wait_until(event, f"an event with {wanted}"))

    def stop(self) -> None:
        _, err = self.process.communicate(timeout=DEADLINE_S)
        assert self.process.returncode == 0, err


class Program:
    """What runs in the namespace."""

    def __init__(self, vtep: Vtep) -> None:
        self.vtep = vtep
        self.events = vtep.subscribe(size=QUEUE_LEN)
        self.called: Counter[str] = Counter()
        vtep.on_event(lambda event: self.called.update([event.kind]), ["learned", "remote_added"])

    def do(self, name: str, arguments: list[Any], options: dict[str, Any]) -> Any:
        """One of the methods here, or else of the Vtep."""
        if name == "apply":
            arguments = [config.from_mapping(arguments[0])]
        return getattr(self if name in vars(Program) else self.vtep, name)(*arguments, **options)

    def take(self) -> list[Any]:
        return [plain(event._asdict()) for event in self.events.take()]

    def tidy(self) -> None:
        self.vtep.events.tidy()

    def told(self) -> dict[str, int]:
        return dict(self.called)

    def snapshot(self, table: str) -> list[dict[str, Any]]:
        rows = self.vtep.snapshot(table)
        return [dict(zip(rows.dtype.names, plain(row), strict=True)) for row in rows.tolist()]

    def remote_counts(self) -> dict[str, dict[str, int]]:
        """What each remote, by its address, sent and got."""
        traffic = self.vtep.remote_traffic()
        rows = zip(traffic.address, traffic.counts.tolist(), strict=True)
        return {str(unpacked(bytes(each))): dict(zip(COUNTED, row, strict=True)) for each, row in rows}

    def watch(self, **options: Any) -> None:
        self.watched = self.vtep.watch(**options).__enter__()

    def seen(self) -> list[dict[str, Any]]:
        return [
            {
                **plain(s._asdict()),
                "data": s.data.hex(),
                "headline": trace.headline(s),
                "steps": trace.steps(s),
            }
            for s in self.watched.take()
        ]

    def foretell(self, way: str, data: str, where: Any) -> dict[str, Any]:
        """Of a frame in a VNI, or of a packet from an address."""
        packet = bytes.fromhex(data)
        told = self.vtep.foretell_out(where, packet) if way == "out" else self.vtep.foretell_in(packet, where)
        return {**plain(told._asdict()), "data": told.data.hex(), "steps": trace.steps(told)}

    def unwatch(self) -> int:
        self.watched.__exit__(None, None, None)
        return self.watched.lost

    def answer_misses(self, vni: int, remote: str) -> None:
        """Say of each address that is asked for that it is at a remote."""
        self.vtep.on_event(lambda event: self.vtep.set_fdb(vni, event.mac or "", remote), ["miss"])

    def rewrite(self, vni: int, addresses: list[str], n: int, rounds: int) -> float:
        """Set and move `n` entries at a time; how many of them in a second of the thread's processor."""
        macs = (0x060000000000 + np.arange(n)).astype(np.uint64)
        numbers = [self.vtep.add_remote(address) for address in addresses]
        start = time.thread_time()
        for turn in range(rounds):
            self.vtep.set_fdb(vni, macs, numbers[(turn + 1) % len(numbers)])
        return n * rounds / (time.thread_time() - start)


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(each) for each in value]
    return value if isinstance(value, (int, str, bool, type(None))) else str(value)


def main() -> None:
    with Vtep(json.loads(sys.argv[1])) as vtep:
        program = Program(vtep)
        print(json.dumps(["ok", None]), flush=True)
        for line in sys.stdin:
            try:
                answer = ["ok", program.do(*json.loads(line))]
            except Exception as error:
                answer = ["error", type(error).__name__, str(error)]
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
