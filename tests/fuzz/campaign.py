"""Coverage-guided fuzzing of the compiled modules with libFuzzer, ASan and UBSan (`make fuzz`).

Place in the house: builds instrumented modules into build/fuzz, links libFuzzer into a library, and
runs each target of targets.py in a process of its own, where libFuzzer calls it through ctypes. A
finding ends the run with exit 1 and is kept in build/fuzz/found, what raised coverage in
build/fuzz/learned; `--merge` puts that into the corpus, minimised.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "fuzz"
CORPUS = HERE / "corpus"
FUZZER = BUILD / "libfuzzer.so"
FOUND = BUILD / "found"
MAX_LEN = "-max_len=4096"
NAMES = ("decap", "encap", "flow", "pcap", "gen")
MODULES = (
    "batch checker codec events flow hops packet_ring pcap port stamp table vlan"  # that the targets use
)
# Python's own allocator would hide overruns; its one-time allocations are no leaks.
ENVIRONMENT = {
    "PYTHONMALLOC": "malloc",
    "PYTHONPATH": str(BUILD / "lib"),
    "ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


def runtime(name: str) -> str:
    """The path of one of clang's runtime libraries."""
    file = f"libclang_rt.{name}"
    done = subprocess.run(["clang", f"-print-file-name={file}"], check=True, capture_output=True, text=True)
    path = done.stdout.strip()
    if not Path(path).is_absolute():
        raise SystemExit(f"{file} is not installed; `make fuzz` installs it (libclang-rt-dev)")
    return path


def build() -> None:
    """Bring build/fuzz up to date."""
    library = ["--build-lib", str(BUILD / "lib")]
    command = [sys.executable, "setup.py", "-q", "build_py", *library, "build_ext", *library]
    command += ["--build-temp", str(BUILD / "temp"), "--parallel", str(os.cpu_count())]
    env = {**os.environ, "CC": "clang", "VXCORE_FUZZ": "1", "VXCORE_MODULES": MODULES}
    subprocess.run(command, check=True, cwd=ROOT, env=env)
    if not FUZZER.exists():
        archive = runtime(f"fuzzer_no_main-{platform.machine()}.a")
        whole = ["-Wl,--whole-archive", archive, "-Wl,--no-whole-archive", "-lstdc++", "-lm", "-lpthread"]
        subprocess.run(["clang", "-shared", "-o", str(FUZZER), *whole], check=True)


def start(name: str, *options: str) -> subprocess.Popen[str]:
    """A process in which libFuzzer drives the target, with libFuzzer's own options and folders."""
    # libFuzzer first: the coverage callbacks of ASan's runtime do nothing.
    preload = f"{FUZZER} {runtime(f'asan-{platform.machine()}.so')}"
    env = {**os.environ, **ENVIRONMENT, "LD_PRELOAD": preload}
    FOUND.mkdir(exist_ok=True)
    command = [sys.executable, "-P", __file__, "--inside", name]
    command += ["--", f"-artifact_prefix={FOUND}/{name}-", "-print_final_stats=1", "-timeout=20", *options]
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


def run(name: str, seconds: int) -> tuple[int, str]:
    """Fuzz one target for a while from its corpus; returns the exit code and what libFuzzer said."""
    learned = BUILD / "learned" / name
    learned.mkdir(parents=True, exist_ok=True)
    process = start(name, f"-max_total_time={seconds}", MAX_LEN, str(learned), str(CORPUS / name))
    said = process.communicate()[1]
    return process.returncode, said


def merge(name: str) -> None:
    """Make the corpus the smallest set that covers what it and all earlier runs here cover."""
    with tempfile.TemporaryDirectory() as smallest:
        process = start(
            name, "-merge=1", MAX_LEN, smallest, str(CORPUS / name), str(BUILD / "learned" / name)
        )
        said = process.communicate()[1]
        if process.returncode or not any(Path(smallest).iterdir()):
            raise SystemExit(said)
        shutil.rmtree(CORPUS / name)
        shutil.copytree(smallest, CORPUS / name)


def inside(name: str, options: list[str]) -> None:
    """In the started process: hand the target to libFuzzer, which does not come back."""
    sys.path.insert(0, str(HERE))
    import targets

    import vxcore._fast.codec as codec

    if not Path(codec.__file__).is_relative_to(BUILD):
        raise SystemExit(f"{codec.__file__} is not the instrumented build")
    target = targets.TARGETS[name]

    def one_input(data: int, size: int) -> int:
        try:
            target(ctypes.string_at(data, size))
        except BaseException:
            import traceback

            traceback.print_exc()
            os.abort()
        return 0

    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)(one_input)
    words = [os.fsencode(itself(name)), *map(os.fsencode, options)]
    argv = (ctypes.c_char_p * (len(words) + 1))(*words)
    argc = ctypes.c_int(len(words))
    ctypes.CDLL(str(FUZZER)).LLVMFuzzerRunDriver(
        ctypes.byref(argc), ctypes.byref(ctypes.cast(argv, ctypes.POINTER(ctypes.c_char_p))), callback
    )


def itself(name: str) -> Path:
    """A program that starts this process again, as libFuzzer does to merge; the environment is inherited."""
    script = BUILD / name
    script.write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P {__file__} --inside {name} -- "$@"\n'
    )
    script.chmod(0o755)
    return script


def main() -> int:
    """The command line of `make fuzz`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="in all, shared by the targets")
    parser.add_argument("--target", action="append", choices=NAMES)
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument(
        "--merge", action="store_true", help="put what was learned into the corpus, minimised"
    )
    parser.add_argument("options", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        inside(arguments.inside, arguments.options)
    build()
    names = arguments.target or NAMES
    failed = [name for name in names if not fuzz(name, arguments.seconds // len(names))]
    if arguments.merge and not failed:
        for name in names:
            merge(name)
    return bool(failed)


def fuzz(name: str, seconds: int) -> bool:
    """Run and tell; whether nothing was found."""
    code, said = run(name, seconds)
    if code:
        print(said)
    covered = re.findall(r" cov: (\d+) ", said)
    runs = re.search(r"number_of_executed_units: (\d+)", said)
    n_runs, edges = runs[1] if runs else "?", covered[-1] if covered else "no"
    print(
        f"{name}: {n_runs} inputs, {edges} edges, "
        + (f"exit {code}: see {FOUND}" if code else "nothing found")
    )
    return code == 0


if __name__ == "__main__":
    sys.exit(main())
