"""Fuzzing as a test: the corpus replayed as it is, then a minute of coverage-guided fuzzing in CI.

Place in the house: `make fuzz` is the same for longer; campaign.py says how it works.
"""

from __future__ import annotations

import importlib.util
import os
import signal
from pathlib import Path
from types import ModuleType

import pytest
from support import peers

HERE = Path(__file__).parent
NAMES = ("decap", "encap", "flow", "pcap", "gen")
SECONDS = 15 if os.environ.get("CI", "").lower() in ("1", "true") else 3


def load(name: str) -> ModuleType:
    """A module beside this one, which is in no package."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NAMES)
def test_the_corpus_replays(name: str) -> None:
    target = load("targets").TARGETS[name]
    inputs = sorted((HERE / "corpus" / name).iterdir())
    for path in inputs:
        target(path.read_bytes())
    assert len(inputs) > 20


@pytest.fixture(scope="module")
def campaign() -> ModuleType:
    peers.require_tool("clang")
    module = load("campaign")
    module.build()
    return module


@pytest.mark.timeout(600)  # the first builds
def test_a_read_behind_the_packet_would_be_found(campaign: ModuleType) -> None:
    process = campaign.start("overread", "-runs=1")
    said = process.communicate()[1]
    assert process.returncode not in (0, -signal.SIGSEGV)
    assert "use-after-poison" in said


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMES)
def test_fuzzing_finds_nothing(campaign: ModuleType, name: str) -> None:
    code, said = campaign.run(name, SECONDS)
    assert code == 0, said
    assert "new_units_added" in said
    assert " cov: " in said, "the build gives no coverage feedback"
