"""What a test needs of the machine: a program, root. Missing, it skips the test, or fails it in CI.

Place in the house: called first in a test or fixture. The reason names what is missing and where to
get it, so that a skip is a decision one can read in pytest's summary.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

# Where root's programs are, which a user's PATH may lack.
SEARCH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def require_tool(name: str) -> str:
    """The full path of a program, such as ``tshark``."""
    return shutil.which(name, path=SEARCH) or missing(f"{name} is not installed; `make test` installs it")


def require_root() -> None:
    """Namespaces and TAP devices need root and /dev/net/tun."""
    if os.geteuid() != 0:
        missing("root is needed for network namespaces; `make test` asks sudo for it")
    if not Path("/dev/net/tun").exists():
        missing("/dev/net/tun is missing; `modprobe tun` brings it")


def missing(what: str) -> NoReturn:
    """Skip the running test, or fail it where nothing may be missing (CI=true)."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"{what} (CI is set, so this is no reason to skip)", pytrace=False)
    pytest.skip(what)
