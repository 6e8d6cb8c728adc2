"""Benchmarks: bench_*.py under pytest-benchmark, and datapath, hosts beside hosts.

Place in the house: beside tests, whose helpers (`support`) it shares.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SUPPORT = str(ROOT / "tests")  # pytest has it from pyproject.toml
if SUPPORT not in sys.path:
    sys.path.insert(0, SUPPORT)
