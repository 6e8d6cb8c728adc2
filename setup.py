"""The extension list and the build switches; metadata is in pyproject.toml.

Switches (environment): VXCORE_DEBUG=1 (no optimisation, assertions), VXCORE_SANITIZE=1 (ASan and
UBSan), VXCORE_FUZZ=1 (these and libFuzzer's coverage, with CC=clang), VXCORE_ANNOTATE=1 (Cython's HTML
beside the C), VXCORE_MODULES="batch codec" (these alone; "": none, where they are built already). C and
objects go to build/.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PYX = Path("pyx")
FAST = PYX / "vxcore" / "_fast"
VERDICTS = FAST / "verdict.pxd"
NAMES = sorted(path.stem for path in FAST.glob("*.pyx"))
WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-missing-field-initializers"]
DIRECTIVES = {
    "language_level": "3",
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "binding": True,
    "freethreading_compatible": False,
}


def switch(name: str) -> bool:
    return os.environ.get(f"VXCORE_{name}", "0") not in ("", "0")


def sanitizers() -> list[str]:
    """Flags of compiler and linker; what the sanitizers find ends the process."""
    if switch("FUZZ"):
        return ["-fsanitize=fuzzer-no-link,address,undefined", "-shared-libasan"]
    return ["-fsanitize=address,undefined"] if switch("SANITIZE") else []


def compiler_flags() -> list[str]:
    if sanitizers():
        flags = ["-O1", "-g", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all", "-DVX_NO_CLONES"]
        return flags + sanitizers()
    return ["-O0", "-g"] if switch("DEBUG") else ["-O3", "-g1"]


def extension(name: str) -> Extension:
    # What is named here goes into the sdist too, which must not hold what the build writes.
    headers = {*PYX.rglob("*.h"), *PYX.rglob("*.pxd")} - {VERDICTS}
    return Extension(
        f"vxcore._fast.{name}",
        [str(FAST / f"{name}.pyx")],
        include_dirs=[str(PYX / "include")],
        depends=sorted(map(str, headers)),
        extra_compile_args=[*compiler_flags(), *WARNINGS],
        extra_link_args=sanitizers(),
    )


def write_verdicts() -> None:
    """Write the C names of vxcore/verdict.py, where the verdicts are defined, for cimport."""
    spec = importlib.util.spec_from_file_location("verdict", "vxcore/verdict.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names = [f"    {v.name} = {v.value}" for v in module.Verdict]
    lines = ["# Written by setup.py from vxcore/verdict.py.", "cdef enum Verdict:", *names]
    lines += ["", f"cdef enum: N_VERDICTS = {len(names)}", ""]
    if not VERDICTS.exists() or VERDICTS.read_text() != "\n".join(lines):
        VERDICTS.write_text("\n".join(lines))


def refuse_hint(position, message, env):
    """A performance hint means a hidden Python call or a missing noexcept: fail the build."""
    file, line, _ = position
    raise SystemExit(f"{file.get_description()}:{line}: performance hint: {message}")


def refuse_hints() -> None:
    """Setuptools has imported much of the compiler by now, and many of its modules have the function."""
    from Cython.Compiler import Errors

    given = Errors.performance_hint
    for name, module in list(sys.modules.items()):
        if name.startswith("Cython.") and getattr(module, "performance_hint", None) is given:
            module.performance_hint = refuse_hint


class CythonBuild(build_ext):
    """Runs Cython only when something is built, so that an sdist holds the .pyx and no C."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def build_extensions(self) -> None:
        from Cython.Build import cythonize
        from Cython.Compiler import Options

        refuse_hints()
        Options.warning_errors = True
        write_verdicts()
        multiprocessing.set_start_method("fork", force=True)  # Cython's workers have what was set above
        self.extensions = cythonize(
            self.extensions,
            include_path=[str(PYX)],
            build_dir="build/c",
            annotate=switch("ANNOTATE"),
            compiler_directives=DIRECTIVES,
            nthreads=int(self.parallel),
        )
        for ext in self.extensions:
            ext._needs_stub = False
        super().build_extensions()


names = os.environ["VXCORE_MODULES"].split() if "VXCORE_MODULES" in os.environ else NAMES
setup(ext_modules=[extension(name) for name in names], cmdclass={"build_ext": CythonBuild})
