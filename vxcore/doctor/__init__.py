"""`vxcore doctor`: what of this host stands in a VTEP's way, and what to do about it.

Place in the house: above ports and config, below cli. host.py looks at the kernel and its limits,
underlay.py at addresses and routes, firewall.py at nftables; finding.py is what they share. Nothing is
changed; a TAP device is made for a moment, and packets are sent to ourselves.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator

from vxcore import config
from vxcore.doctor import firewall, host, underlay
from vxcore.doctor.finding import WARNING, WRONG, Check, Finding, Subject

CHECKS: tuple[Check, ...] = (*host.CHECKS, *underlay.CHECKS, *firewall.CHECKS)
_WIDTH = 12
INDENT = 8 + 1 + _WIDTH + 1 + 3
"""Where a line goes on that is too long, behind state, check and arrow."""


def examine(path: str | None) -> list[Finding]:
    """All findings, for the settings in a file, or for any VTEP on this host.

    Raises ConfigError for a file that `vxcore check` would refuse.
    """
    subject = Subject(config.load(path) if path else None)
    return [finding for check in CHECKS for finding in _tried(check, subject)]


def _tried(check: Check, subject: Subject) -> Iterator[Finding]:
    try:
        yield from check(subject)
    except OSError as error:
        text = f"could not be looked at: {error.strerror or os.strerror(error.errno or errno.EIO)}"
        yield Finding(check.__name__, WARNING, text, "run it as root, in the network namespace of the VTEP")


def exit_code(findings: list[Finding]) -> int:
    """1 if anything is wrong."""
    return int(any(finding.state == WRONG for finding in findings))


def as_text(findings: list[Finding]) -> str:
    """A line for each, and one more for what to do."""
    lines = []
    for check, state, what, todo in findings:
        lines.append(f"{state:<8} {check:<{_WIDTH}} {what}")
        if todo:
            lines.append(f"{'':<8} {'':<{_WIDTH}} -> {todo}")
    return "\n".join(lines)


def as_json(findings: list[Finding]) -> str:
    """A list of objects with the keys check, state, what and todo."""
    return json.dumps([finding._asdict() for finding in findings], indent=2, ensure_ascii=False)
