"""Fixtures for all tests.

Place in the house: names for `support.peers`, so that a test can ask for what it needs in its
signature; everything else a test imports from `support`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support import peers


@pytest.fixture
def require_tool() -> Callable[[str], str]:
    """``require_tool("tshark")`` gives the program's path, or skips (fails in CI)."""
    return peers.require_tool


@pytest.fixture(scope="session")
def root() -> None:
    """The test needs root, for namespaces and TAP devices."""
    peers.require_root()
