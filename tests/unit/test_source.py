"""The source passes its linters; what each says is the message.

Place in the house: the one list of these commands; `make lint` runs this file.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.tree import ROOT

CHECKS = {
    "style": ["ruff", "check"],
    "format": ["ruff", "format", "--check", "--diff"],
    "types": ["mypy"],
    "cython": ["cython_lint.cython_lint", "pyx"],
}


@pytest.mark.parametrize("check", CHECKS)
def test_source_passes(check: str) -> None:
    command = [sys.executable, "-m", *CHECKS[check]]
    # cython-lint starts pycodestyle by name.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    run = subprocess.run(
        command, check=False, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert run.returncode == 0, f"{' '.join(CHECKS[check])}\n{run.stdout}{run.stderr}"
