"""Compiled modules of the benchmarks: built when they are used, never part of the package.

Place in the house: low among the benchmarks, below those that use one.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import pyximport

from benchmarks import ROOT


def built(name: str) -> ModuleType:
    """The module benchmarks.NAME of NAME.pyx, up to date."""
    headers = {"include_dirs": [str(ROOT / "pyx" / "include")]}
    hook = pyximport.install(
        language_level=3, build_dir=str(ROOT / "build" / "benchmarks"), setup_args=headers
    )
    try:
        return importlib.import_module(f"benchmarks.{name}")
    finally:
        pyximport.uninstall(*hook)
