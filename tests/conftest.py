"""Fixtures for all tests.

Place in the house: names for `support.peers`, so that a test can ask for what it needs in its
signature; everything else a test imports from `support`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import peers
from support.no_lookups import forbid_lookups

forbid_lookups()  # here, for test modules build packets while they are imported


@pytest.fixture
def require_tool() -> Callable[[str], str]:
    """``require_tool("tshark")`` gives the program's path, or skips (fails in CI)."""
    return peers.require_tool


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """``run("decap", "in", "out")`` in the test's own directory gives exit code and standard error."""
    from vxcore import cli

    def call(*arguments: str) -> tuple[int, str]:
        code = cli.main(arguments)
        return code, capsys.readouterr().err

    monkeypatch.chdir(tmp_path)
    return call


@pytest.fixture(scope="session")
def root() -> None:
    """The test needs root, for namespaces and TAP devices."""
    peers.require_root()
