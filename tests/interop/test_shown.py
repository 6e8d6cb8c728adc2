"""What README.md and docs/captures.md show and nobody plays runs: programs, and commands on capture files."""

from __future__ import annotations

import gzip
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import captures, pages
from support.hosts import Host, Lan
from support.tree import ROOT

import vxcore

pytestmark = pytest.mark.usefixtures("root", "nothing_is_left")
FRAME = bytes.fromhex("02000000000b 02000000000a 0800") + bytes(46)
TUNNEL = vxcore.Tunnel(
    local="192.0.2.1", remote="192.0.2.2", vni=42, ethernet=("02:00:00:00:00:02", "02:00:00:00:00:01")
)


PAGES = [(ROOT / page).read_text() for page in ("README.md", "docs/captures.md")]
PROGRAMS = [block for page in PAGES for block in pages.blocks(page, "python")]
COMMANDS = {
    line
    for page in PAGES
    for block in pages.blocks(page, "")
    for line in block.splitlines()
    if line.startswith(("vxcore decap", "vxcore encap", "vxcore inspect"))
}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """With the capture files that are spoken of."""
    (tmp_path / "inner.pcap").write_bytes(captures.pcap([FRAME] * 4))
    packets = [vxcore.encap_frame(FRAME, TUNNEL)[1]] * 4
    (tmp_path / "mirror.pcap").write_bytes(captures.pcap(packets))
    (tmp_path / "mirror.pcapng").write_bytes(captures.pcapng(packets))
    (tmp_path / "mirror.pcap.gz").write_bytes(gzip.compress(captures.pcap(packets)))
    with Lan(1) as lan:
        yield lan.hosts[0]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_runs(program: str, host: Host, tmp_path: Path) -> None:
    host.run("env", "-C", str(tmp_path), sys.executable, "-c", program)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_command_runs(command: str, host: Host, tmp_path: Path) -> None:
    path = f"PATH={Path(sys.executable).parent}:/usr/bin:/bin"
    done = host.run("env", "-C", str(tmp_path), path, "sh", "-c", command)
    assert re.search(r"4 packets|\b42\b", done.stderr + done.stdout), done


def test_there_are_such() -> None:
    assert len(PROGRAMS) == 3
    assert len(COMMANDS) == 4
