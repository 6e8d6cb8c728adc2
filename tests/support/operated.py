"""A VTEP on a host with a control plane, asked by the commands that a user has.

Place in the house: above hosts, under the sites of etcd and of evpn.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from support.hosts import Host, wait_until


class Operated:
    """What is at the control socket `control` on `host`."""

    host: Host
    control: str

    def command(self, *words: str) -> str:
        """What a command that speaks with it prints."""
        line = (sys.executable, "-m", "vxcore", *words, "--control", self.control)
        return self.host.run(*line).stdout

    def show(self, what: str, *words: str) -> list[dict[str, Any]]:
        return list(json.loads(self.command("show", what, *words, "--json")))

    @property
    def plane(self) -> dict[str, Any]:
        """How its control plane is."""
        (row,) = self.show("plane")
        return row

    def becomes(self, state: str) -> None:
        wait_until(lambda: self.plane["state"] == state, f"host {self.host.number} is {state}")

    def troubles(self) -> dict[str, str]:
        return {each["what"]: each["why"] for each in self.plane["troubles"]}
