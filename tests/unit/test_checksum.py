"""The Internet checksum of vx_csum.h: every length at every alignment, in each variant the build makes."""

from __future__ import annotations

import ctypes
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import tree

from vxcore import wire

MAX_LENGTH = 9001
ALIGNMENTS = 64
# As an extension gets it (run-time dispatch on x86-64), and each of the variants alone.
VARIANTS = {
    "dispatch": [],
    "baseline": ["-DVX_NO_CLONES"],
    "avx2": ["-DVX_NO_CLONES", "-mavx2"],
    "avx512f": ["-DVX_NO_CLONES", "-mavx512f"],
}


def processor_has(variant: str) -> bool:
    return not variant.startswith("avx") or variant in Path("/proc/cpuinfo").read_text().split()


@pytest.fixture(scope="module", params=[name for name in VARIANTS if processor_has(name)])
def checksum(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    library = tmp_path_factory.mktemp("csum") / "csum.so"
    compiler = sysconfig.get_config_var("CC").split()
    source = tree.ROOT / "tests" / "support" / "csum.c"
    flags = ["-O3", "-shared", "-fPIC", "-I", str(tree.ROOT / "pyx" / "include"), *VARIANTS[request.param]]
    subprocess.run([*compiler, *flags, "-o", str(library), str(source)], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.first_wrong.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    loaded.first_wrong.restype = ctypes.c_long
    loaded.checksum_sum.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    loaded.checksum_sum.restype = ctypes.c_uint16
    return loaded


CONTENTS = {
    "random": np.random.default_rng(1).integers(0, 256, MAX_LENGTH + ALIGNMENTS, np.uint8),
    "ones": np.full(MAX_LENGTH + ALIGNMENTS, 0xFF, np.uint8),
    "zeros": np.zeros(MAX_LENGTH + ALIGNMENTS, np.uint8),
}


@pytest.mark.parametrize("content", CONTENTS)
def test_every_length_at_every_alignment(checksum: Any, content: str) -> None:
    memory = np.empty(MAX_LENGTH + 3 * ALIGNMENTS, np.uint8)
    aligned = -memory.ctypes.data % ALIGNMENTS
    memory[aligned : aligned + MAX_LENGTH + ALIGNMENTS] = CONTENTS[content]
    for alignment in range(ALIGNMENTS):
        wrong = checksum.first_wrong(memory.ctypes.data + aligned + alignment, MAX_LENGTH)
        assert wrong == -1, f"{wrong} bytes at alignment {alignment}"


def test_the_longest_udp_datagram_of_ones_does_not_overflow(checksum: Any) -> None:
    data = b"\xff" * 65535
    assert checksum.checksum_sum(data, len(data)) == ~wire.internet_checksum(data) & 0xFFFF


@given(data=st.binary(max_size=300))
def test_wire_agrees(checksum: Any, data: bytes) -> None:
    assert checksum.checksum_sum(data, len(data)) == ~wire.internet_checksum(data) & 0xFFFF
