"""Who stands beside vxcore: packages and programs that may be absent, and are then named and left out.

Place in the house: low among the benchmarks, above nobody. `make bench-peers` installs them all.
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from support.rooms import PATH

INSTALL = "`make bench-peers` installs it"


class AbsentError(Exception):
    """Somebody who was to take part is not on this machine; the message names it and the remedy."""


def package(name: str) -> ModuleType:
    """Import a module of a package that may be absent."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise AbsentError(f"{name.partition('.')[0]} is not installed; {INSTALL}") from None


def program(name: str) -> str:
    """The path of a program that may be absent."""
    found = shutil.which(name, path=PATH)
    if found is None:
        raise AbsentError(f"{name} is not installed; {INSTALL}")
    return found


def asked(*command: str) -> Callable[[], str]:
    """Asks a program for its version: the first line that it says."""

    def ask() -> str:
        done = subprocess.run(
            [program(command[0]), *command[1:]], check=False, capture_output=True, text=True
        )
        return (done.stdout + done.stderr).strip().partition("\n")[0].rstrip(".")

    return ask


def installed(name: str) -> Callable[[], str]:
    """Asks for the version of a package."""

    def ask() -> str:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            raise AbsentError(f"{name} is not installed; {INSTALL}") from None

    return ask


VERSIONS: dict[str, Callable[[], str]] = {
    "numpy": installed("numpy"),
    "scapy": installed("scapy"),
    "dpkt": installed("dpkt"),
    "editcap": asked("editcap", "--version"),
    "iproute2": asked("ip", "-V"),
    "iperf3": asked("iperf3", "--version"),
    "docker": asked("docker", "--version"),
    "valgrind": asked("valgrind", "--version"),
}
"""How each says its version."""


def versions(names: tuple[str, ...]) -> dict[str, str]:
    """Of those of the names that are there."""
    found = {}
    for name in names:
        try:
            found[name] = VERSIONS[name]()
        except AbsentError:
            continue
    return found
