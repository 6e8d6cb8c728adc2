"""What is built holds what it should, installs in an empty environment, and starts quickly."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from pathlib import Path

import pytest
from support import tree


def python(*arguments: str, cwd: Path | None = None) -> str:
    """Run the tests' own Python; a failure shows what it printed."""
    done = subprocess.run([sys.executable, *arguments], check=False, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """An sdist, the wheel built from it and nothing else, and what the compiler said.

    Everything is compiled: minutes, and many of them beside other tests on a small machine.
    """
    out = tmp_path_factory.mktemp("dist")
    source = tmp_path_factory.mktemp("source") / "vxcore"
    ignored = shutil.ignore_patterns(
        ".git", ".venv", "build", "*.so", "*.egg-info", "__pycache__", "verdict.pxd"
    )
    shutil.copytree(tree.ROOT, source, ignore=ignored)
    log = python("-m", "build", "--outdir", str(out), str(source))
    return next(out.glob("*.tar.gz")), next(out.glob("*.whl")), log


@pytest.mark.timeout(1800)
def test_the_compiler_has_nothing_to_warn_of(built: tuple[Path, Path, str]) -> None:
    assert "-Wextra" in built[2]
    assert [line for line in built[2].splitlines() if ": warning:" in line] == []


HINTED = """\
cdef void may_raise() except * nogil:
    pass

cdef void call() noexcept nogil:
    may_raise()
"""


def test_a_performance_hint_of_cython_ends_the_build(tmp_path: Path) -> None:
    fast = tmp_path / "pyx" / "vxcore" / "_fast"
    fast.mkdir(parents=True)
    (tmp_path / "vxcore").mkdir()
    for name in ("setup.py", "vxcore/verdict.py"):
        shutil.copy(tree.ROOT / name, tmp_path / name)
    (fast / "hinted.pyx").write_text(HINTED)
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "hinted.pyx:1: performance hint: Exception check on 'may_raise'" in done.stderr


@pytest.mark.timeout(1800)
def test_the_sdist_holds_every_source(built: tuple[Path, Path, str]) -> None:
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("pyx", "vxcore"):
        wanted = {f"{folder}/{path}" for path in tree.source_files(tree.ROOT / folder)}
        assert wanted <= names, wanted - names
    assert not {name for name in names if name.endswith((".so", ".c", "verdict.pxd"))}
    assert {"LICENSE", "README.md", "setup.py", "pyproject.toml"} <= names


@pytest.mark.timeout(1800)
def test_the_wheel_holds_what_runs(built: tuple[Path, Path, str]) -> None:
    names = zipfile.ZipFile(built[1]).namelist()
    for module in tree.compiled_modules():
        assert any(name.startswith(f"vxcore/_fast/{module}.") and name.endswith(".so") for name in names)
        assert f"vxcore/_fast/{module}.pyi" in names
    assert "vxcore/py.typed" in names
    assert "vxcore/lab/__init__.py" in names
    assert not [name for name in names if name.endswith((".pyx", ".pxd", ".c", ".h"))]


USE = """
import vxcore
packet = vxcore.encap_frame(bytes(60), vxcore.Tunnel(local="192.0.2.1", remote="192.0.2.2", vni=7))[1]
assert vxcore.decap_frame(packet, layer=vxcore.Layer.IP).vni == 7
assert "site-packages" in vxcore.__file__, vxcore.__file__
"""


@pytest.mark.timeout(1800)
def test_what_the_sdist_builds_installs_in_an_empty_environment(
    built: tuple[Path, Path, str], tmp_path: Path
) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    inside = str(tmp_path / "venv" / "bin" / "python")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
    for command in (
        ["-m", "pip", "install", "-q", str(built[1])],
        ["-c", USE],
        ["-m", "vxcore", "--version"],
    ):
        done = subprocess.run(
            [inside, *command], check=False, cwd=tmp_path, env=clean, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


def seconds(code: str) -> float:
    started = time.perf_counter()
    python("-c", code, cwd=tree.ROOT)
    return time.perf_counter() - started


def test_import_costs_little_more_than_numpy() -> None:
    """With the compiled modules too, not only the lazy front door; the best of three tries counts."""
    ratios = []
    for _ in range(3):
        pairs = [(seconds("import vxcore; vxcore.encap"), seconds("import numpy")) for _ in range(7)]
        ratios.append(statistics.median(ours / numpys for ours, numpys in pairs))
        if ratios[-1] <= 1.5:
            return
    pytest.fail(f"import vxcore takes {ratios} times what import numpy does")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["up", "--help"], ["decap", "--help"], ["fdb", "add", "--help"], ["--version"]]
)
def test_help_needs_no_heavy_imports(arguments: list[str]) -> None:
    shown = python("-X", "importtime", "-m", "vxcore", *arguments, cwd=tree.ROOT)
    imported = {
        line.rpartition("|")[2].strip().partition(".")[0] for line in shown.splitlines() if "|" in line
    }
    assert "vxcore" in imported
    assert not imported & {"numpy", "pyroute2", "msgspec"}
