"""Nothing outside a frame is read or written, whatever its headers and its virtio-net header say."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from support import tree


def run(case: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "faulthandler", "-m", "support.guarded_offload", case]
    return subprocess.run(command, check=False, cwd=tree.ROOT / "tests", capture_output=True, text=True)


@pytest.mark.parametrize("case", ["finished", "joined", "sent"])
def test_nothing_outside_the_frame_is_touched(case: str) -> None:
    done = run(case)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40_000


def test_a_read_outside_the_frame_would_be_seen() -> None:
    done = run("overread")
    assert done.returncode == -signal.SIGSEGV
    assert "in overread" in done.stderr
