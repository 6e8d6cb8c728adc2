"""Addresses, by the plugin that the configuration names: host-local, dhcp, static.

Place in the house: in cni, above exchange. It is run as this one was, with the same environment and input.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vxcore.cni.exchange import CniError, Code, Config

_DELEGATE_S = 60


def delegate(config: Config, command: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """What the plugin says to a command; nothing, if addresses are nobody's business.

    Raises CniError with what it says when it fails.
    """
    if config.ipam is None:
        return {}
    import subprocess  # here, for it takes longer than all else

    path = _find(config.ipam, environment.get("CNI_PATH", ""))
    try:
        done = subprocess.run(
            [path],
            check=False,
            input=json.dumps(config.data).encode(),
            env={**environment, "CNI_COMMAND": command},
            stdout=subprocess.PIPE,
            timeout=_DELEGATE_S,
        )
        told = json.loads(done.stdout) if done.stdout.strip() else {}
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise CniError(Code.SYSTEM, f"ipam {config.ipam}: {error}") from None
    if not isinstance(told, dict):
        raise CniError(Code.SYSTEM, f"ipam {config.ipam}: it says {told!r}, which is no JSON object")
    if done.returncode:
        code = told.get("code")
        code = code if isinstance(code, int) and code else Code.SYSTEM
        raise CniError(code, f"ipam {config.ipam}: {told.get('msg', 'failed')}", told.get("details", ""))
    return told


def _find(name: str, paths: str) -> Path:
    for folder in filter(None, paths.split(os.pathsep)):
        path = Path(folder, name)
        if os.access(path, os.X_OK):
            return path
    raise CniError(Code.ENVIRONMENT, f"ipam {name}: there is no such plugin in CNI_PATH {paths!r}")
