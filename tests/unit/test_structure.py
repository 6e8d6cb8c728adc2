"""The picture in docs/architecture.md holds: who may know whom, and each file says its place.

Place in the house: reads sources only. The two lists below are the arrows; a new module is a new
word in one of them.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest
from support import tree

# From the ground up. A module may import what stands on a line above its own; on one line,
# only what BESIDE allows.
FLOORS = [
    "verdict errors _version toml_lines columns files parts kernel_watch plane_status",
    "addresses bpf pcapng",
    "sizes",
    "wire problem",
    "config probes",
    "faults toml_writer logs",
    "_fast",
    "journal",
    "remotes",
    "segments",
    "fdb neighbours",
    "events state mender watches told",
    "trace rehearsal",
    "ports capture scapy",
    "packet nexthops gsotap xdp loops doctor",
    "packet_overlay pcapng_overlay endpoints",
    "gen",
    "xdp_ports",
    "overlays",
    "engine",
    "running",
    "vtep metrics notify activation troubles confine succession",
    "handover",
    "control",
    "planes",
    "docker cni",
    "daemon",
    "lab",
    "commands",
    "cli",
    "__main__ __init__",
]
BESIDE = {("c_table", "c_events")}

# The same for what compiles; a line above its own is what a module may cimport.
FAST_FLOORS = [
    "c_batch",
    "c_* verdict",
    "batch",
    "flow",
    "codec pcap vlan links tally events watch stamp",
    "table hops generator",
    "port",
    "packet_ring xsk",
    "udp tap packet gso gro icmp suppress hold trunk repeats checker",
    "gsotap packet_overlay pcapng_overlay xdp_underlay xdp_overlay rehearsal",
    "lane",
]
# The Python modules that compiled ones may import, for exceptions and for set-up.
FAST_KNOWS = {"_fast", "errors", "verdict", "wire", "addresses"}

KNOW_FAST = {"__init__", "ports", "gsotap", "nexthops", "packet_overlay", "capture", "scapy", "engine"}
KNOW_FAST |= {"pcapng_overlay", "xdp", "xdp_ports", "journal", "segments", "fdb", "neighbours", "events"}
KNOW_FAST |= {"state", "watches", "rehearsal", "overlays", "gen", "told"}
WITHOUT_PLACE = {"vxcore", "vxcore._fast", "vxcore._version"}

PYTHON = tree.python_modules()
CYTHON = sorted(
    path for path in tree.FAST.glob("*.p[yx][xd]") if not tree.is_generated(path) and path.stat().st_size
)


def floor_of(module: str, floors: list[str]) -> int:
    """The line that names the module, counted from the ground."""
    named = any(module in names.split() for names in floors)
    name = "c_*" if module.startswith("c_") and not named else module
    for number, names in enumerate(floors):
        if name in names.split():
            return number
    pytest.fail(
        f"{module} stands in no line of the table in {__file__}: add it where it belongs", pytrace=False
    )


def upward(module: str, imports: set[str], floors: list[str]) -> list[str]:
    """Of what `module` imports, what does not stand below it."""
    here = floor_of(module, floors)
    other = sorted(imports - {module})
    return [name for name in other if floor_of(name, floors) >= here and (module, name) not in BESIDE]


def short(name: str) -> str:
    """`vxcore.config` -> `config`, `vxcore` -> `__init__`."""
    return name.removeprefix("vxcore").lstrip(".") or "__init__"


@pytest.mark.parametrize("name", PYTHON)
def test_python_modules_import_only_from_below(name: str) -> None:
    imports = {one.partition(".")[0] for one in tree.python_imports(PYTHON[name].read_text(), name)}
    module = short(name).partition(".")[0]
    assert not upward(module, imports, FLOORS), f"{name} imports what does not stand below it"


@pytest.mark.parametrize("name", PYTHON)
def test_only_the_door_ports_and_engine_know_the_compiled_modules(name: str) -> None:
    imports = tree.python_imports(PYTHON[name].read_text(), name)
    fast = {one for one in imports if one.partition(".")[0] == "_fast"}
    assert not fast or short(name).partition(".")[0] in KNOW_FAST, f"{name} imports {fast}"


@pytest.mark.parametrize("module", ["verdict", "errors"])
def test_verdict_and_errors_know_nobody(module: str) -> None:
    assert tree.python_imports(PYTHON[f"vxcore.{module}"].read_text()) == set()


@pytest.mark.parametrize("path", CYTHON, ids=lambda path: path.name)
def test_compiled_modules_import_only_from_below(path: tree.Path) -> None:
    imports = tree.cython_imports(path.read_text())
    fast = {one.removeprefix("_fast.") for one in imports if one.startswith("_fast.")}
    assert not upward(path.stem, fast, FAST_FLOORS), f"{path.name} cimports what does not stand below it"
    assert {one.partition(".")[0] for one in imports} <= FAST_KNOWS


@pytest.mark.parametrize("path", CYTHON, ids=lambda path: path.name)
def test_c_is_declared_in_a_file_of_its_own(path: tree.Path) -> None:
    declares = re.search(r"^cdef extern from [\"<]", path.read_text(), re.MULTILINE)
    assert not declares or path.name.startswith("c_"), f"{path.name}: move `cdef extern` to a c_*.pxd"


@pytest.mark.parametrize("name", [name for name in PYTHON if name not in WITHOUT_PLACE])
def test_python_modules_say_their_place(name: str) -> None:
    docstring = ast.get_docstring(ast.parse(PYTHON[name].read_text())) or ""
    assert "Place in the house: " in docstring


@pytest.mark.parametrize(
    "path", [path for path in CYTHON if path.suffix == ".pyx"], ids=lambda path: path.name
)
def test_compiled_modules_say_their_place(path: tree.Path) -> None:
    opening = re.match(r'(?:#.*\n)*"""(?s:(.*?))"""', path.read_text())
    assert opening, f"{path.name} has no docstring at its head"
    assert "Place in the house: " in opening[1]


@pytest.mark.parametrize("path", sorted((tree.ROOT / "pyx").rglob("*.h")), ids=lambda path: path.name)
def test_headers_open_with_a_comment_and_know_only_each_other(path: tree.Path) -> None:
    text = path.read_text()
    assert text.startswith(("/*", "//"))
    for name in re.findall(r'^#include "(.*)"', text, re.MULTILINE):
        assert path.with_name(name).exists(), f"{path.name} includes {name}, which is not beside it"


def test_the_plan_of_the_house_names_every_module() -> None:
    plan = (tree.ROOT / "docs" / "architecture.md").read_text()
    plan = re.sub(r"\{(.*?)\}(\.\w+)", lambda names: names[1].replace(",", names[2] + " ") + names[2], plan)
    files = {path.name for path in [*PYTHON.values(), *tree.FAST.glob("*.pyx")]} - {"_version.py"}
    assert not {name for name in files if not re.search(rf"\b{re.escape(name)}\b", plan)}


def test_every_compiled_module_has_a_stub() -> None:
    stubs = {path.stem for path in (tree.ROOT / "vxcore" / "_fast").glob("*.pyi")}
    assert stubs == set(tree.compiled_modules())


def test_stubs_agree_with_the_built_modules() -> None:
    modules = [f"vxcore._fast.{name}" for name in tree.compiled_modules()]
    command = [sys.executable, "-m", "mypy.stubtest", "--concise", *modules]
    command += ["--mypy-config-file", "pyproject.toml", "--allowlist", "tests/unit/stubtest_allowlist.txt"]
    run = subprocess.run(command, check=False, cwd=tree.ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


# The readers of imports are rules' only eyes: they see every form of import.


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import vxcore.config", {"config"}),
        ("import vxcore", {"__init__"}),
        ("from vxcore import errors, PacketBatch", {"errors", "__init__"}),
        ("from vxcore.config import Settings", {"config"}),
        ("from . import errors", {"errors"}),
        ("from .config import Settings as S", {"config"}),
        ("def later():\n    from vxcore._fast.batch import PacketBatch", {"_fast.batch"}),
        ("if TYPE_CHECKING:\n    from vxcore._fast import batch", {"_fast.batch"}),
        ("import os, numpy as np\nfrom vxcorelike import x", set()),
    ],
)
def test_every_form_of_python_import_is_seen(source: str, found: set[str]) -> None:
    assert tree.python_imports(source, "vxcore.somebody") == found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from vxcore._fast.batch cimport PacketBatch, Packets", {"_fast.batch"}),
        ("cimport vxcore._fast.batch as b", {"_fast.batch"}),
        ("from vxcore._fast cimport c_bytes, batch", {"_fast.c_bytes", "_fast.batch"}),
        ("from .batch cimport PacketBatch", {"_fast.batch"}),
        ("from . cimport batch", {"_fast.batch"}),
        (
            "from vxcore._fast cimport (  # why\n    c_bytes,\n    batch as b,\n)",
            {"_fast.c_bytes", "_fast.batch"},
        ),
        ("def f():\n    from vxcore.errors import ConfigError", {"errors"}),
        ('def f():\n    """\n    from vxcore.errors import ConfigError\n    """', set()),
        ("from libc.string cimport memcpy\nimport numpy as np", set()),
    ],
)
def test_every_form_of_cython_import_is_seen(source: str, found: set[str]) -> None:
    assert tree.cython_imports(source) == found


def test_an_upward_import_is_caught() -> None:
    assert upward("errors", {"config"}, FLOORS) == ["config"]
    assert upward("ports", {"engine", "config"}, FLOORS) == ["engine"]
    assert upward("codec", {"batch", "lane"}, FAST_FLOORS) == ["lane"]
