"""Nothing outside a packet is read, ever: packets end and begin at pages that cannot be touched."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from support import tree


def run(case: str) -> subprocess.CompletedProcess[str]:
    script = tree.ROOT / "tests" / "support" / "guarded.py"
    command = [sys.executable, "-X", "faulthandler", str(script), case]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("case", "n_packets"), [("decap", 400_000), ("encap", 50_000), ("flows", 6_000), ("opened", 8_000)]
)
def test_nothing_is_read_outside_the_packet(case: str, n_packets: int) -> None:
    done = run(case)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > n_packets


def test_a_read_outside_the_packet_would_be_seen() -> None:
    done = run("overread")
    assert done.returncode == -signal.SIGSEGV
    assert "in overread" in done.stderr
