"""Segments, remotes and entries come and go at random, and no frame is ever where it should not be."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from support import churn
from support.hosts import Host, Lan
from support.tree import ROOT

pytestmark = pytest.mark.usefixtures("root")
PROGRAM = str(Path(churn.__file__))
# An hour on demand: VXCORE_SOAK_SECONDS=3600.
SECONDS = float(os.environ.get("VXCORE_SOAK_SECONDS", "20"))
SEED = os.environ.get("VXCORE_SOAK_SEED", "1")
SLACK = 16 << 20  # what Python's and malloc's arenas may take more, however long it runs


def start(host: Host, *words: str) -> Any:
    process = host.start("env", f"PYTHONPATH={ROOT}", sys.executable, PROGRAM, *words, stdin=-1)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == "ready\n", process.communicate()[1]
    return process


def result(process: Any) -> dict[str, Any]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert not err, err
    return dict(json.loads(out))


@pytest.mark.timeout(SECONDS + 120)
def test_no_frame_strays_while_everything_changes() -> None:
    with Lan(2) as lan:
        one, two = lan.hosts
        remotes = [f"192.0.2.{100 + n}" for n in range(churn.N_REMOTES)]
        for remote in remotes:
            two.ip("address", "add", f"{remote}/24", "dev", "eth")
        peers = start(two, "peers", *remotes)
        vtep = start(one, "vtep", one.v4, str(SECONDS), SEED, *remotes)
        peers.stdin.write(f"{one.v4}\n")
        peers.stdin.flush()
        vtep.wait(timeout=SECONDS + 60)
        ours, theirs = result(vtep), result(peers)
    print({**ours, "counters": ours["counters"]["drops"]}, theirs["arrived"])  # shown on failure, or with -s
    assert ours["wrong"] == theirs["wrong"] == []
    assert ours["failure"] == "None"
    assert ours["changes"] > SECONDS
    assert ours["refused"] > 0
    assert ours["arrived"] > 10 * SECONDS
    assert theirs["arrived"] > 10 * SECONDS
    assert ours["grown"] < SLACK
    drops = ours["counters"]["drops"]
    assert {"source_refused", "unknown_vni"} <= set(drops)  # what was not let in was there to be refused
