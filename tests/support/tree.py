"""The source tree as data: where it is, which modules it has, which of them knows which.

Place in the house: under the tests of structure, source and packaging.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FAST = ROOT / "pyx" / "vxcore" / "_fast"

# What the build and the tools write into the tree; not part of the source.
GENERATED = {".git", ".venv", "build", "dist", "__pycache__", "verdict.pxd"}
GENERATED_SUFFIXES = {".so", ".pyc", ".egg-info", ".html"}

CIMPORT = re.compile(r"^\s*(?:from\s+(?P<package>[\w.]+)\s+)?(?:c?import)\s+(?P<names>[^#\n]+)", re.M)


def python_modules() -> dict[str, Path]:
    """Dotted name -> file of every Python module of the package."""
    return {dotted(path.relative_to(ROOT)): path for path in sorted((ROOT / "vxcore").rglob("*.py"))}


def compiled_modules() -> list[str]:
    """Name of every module in vxcore._fast that compiles."""
    return sorted(path.stem for path in FAST.glob("*.pyx"))


def dotted(path: Path) -> str:
    """The dotted name of the module in a file, given relative to where its package starts."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def source_files(top: Path) -> Iterator[Path]:
    """Every source file under `top`, relative to it; nothing that the build or a tool wrote."""
    for path in sorted(top.iterdir()):
        if is_generated(path):
            continue
        if path.is_dir():
            yield from (path.relative_to(top) / below for below in source_files(path))
        else:
            yield path.relative_to(top)


def is_generated(path: Path) -> bool:
    """Whether the build or a tool wrote this, by its name."""
    cache = path.name.startswith(".") and path.name.endswith(("_cache", "benchmarks", "hypothesis"))
    return path.name in GENERATED or path.suffix in GENERATED_SUFFIXES or cache


def python_imports(source: str, name: str = "") -> set[str]:
    """Our modules that Python source imports, inside functions and for type checkers too.

    `name` is the module's own, to resolve a relative import.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {ours(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = (
                ".".join([*name.split(".")[: -node.level], node.module or ""]) if node.level else node.module
            )
            found |= {ours(f"{(package or '').rstrip('.')}.{alias.name}") for alias in node.names}
    return found - {""}


def cython_imports(source: str) -> set[str]:
    """Our modules that the source of one of vxcore._fast imports or cimports, inside functions too."""
    found = set()
    for match in CIMPORT.finditer(flattened(source)):
        package = match["package"] or ""
        package = f"vxcore._fast.{package.lstrip('.')}".rstrip(".") if package.startswith(".") else package
        names = [words.split()[0] for words in match["names"].split(",") if words.split()]
        found |= {ours(f"{package}.{name}".lstrip(".")) for name in names}
    return found - {""}


def flattened(source: str) -> str:
    """Cython source without docstrings, whose prose may say "import", and each (list) on one line."""
    source = re.sub(r'"""(?s:.*?)"""', '""', source)
    source = re.sub(r"#[^\n]*", "", source)
    return re.sub(r"import\s*\(([^()]*)\)", lambda names: "import " + " ".join(names[1].split()), source)


def ours(name: str) -> str:
    """`vxcore.config.Settings` -> `config`, `vxcore._fast.codec.encap` -> `_fast.codec`, others -> ``."""
    parts = name.split(".")
    if parts[0] != "vxcore":
        return ""
    known = [".".join(parts[1:end]) for end in range(len(parts), 1, -1)]
    return next((part for part in known if is_module(part)), "__init__")


def is_module(name: str) -> bool:
    """Whether `vxcore.<name>` is a module or package of ours, in Python or Cython."""
    path = name.replace(".", "/")
    python = ROOT / "vxcore" / path
    suffixes = (".pyx", ".pxd")
    return (
        python.is_dir()
        or python.with_suffix(".py").exists()
        or any((ROOT / "pyx" / "vxcore" / (path + suffix)).exists() for suffix in suffixes)
    )
