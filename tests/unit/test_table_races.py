"""Lanes and a writer at the same tables, in a plain C program under the compiler's sanitizers.

Place in the house: builds and runs tests/races/tables.c, which says what it checks.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support import tree
from support.peers import require_tool

# Enough that each has caught every race that was put into the headers on trial.
ROUNDS = {"thread": 600, "address,undefined": 1500}


@pytest.mark.parametrize("sanitizer", ROUNDS)
def test_lanes_and_the_writer_do_not_disturb_each_other(sanitizer: str, tmp_path: Path) -> None:
    program = tmp_path / "tables"
    source = [str(tree.ROOT / "tests" / "races" / "tables.c"), f"-I{tree.ROOT / 'pyx' / 'include'}"]
    flags = ["-g", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", f"-fsanitize={sanitizer}"]
    built = subprocess.run(
        [require_tool("gcc"), *flags, *source, "-o", str(program)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    run = subprocess.run([program, str(ROUNDS[sanitizer])], check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
