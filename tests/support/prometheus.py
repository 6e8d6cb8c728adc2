"""Prometheus, which reads what we say: its programs, and a server in a host's namespace.

Place in the house: under the tests of metrics. `make test` unpacks the Debian package beside the tests'
Python; one that is installed will do as well.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.parse
from pathlib import Path
from typing import Any

from support import peers
from support.hosts import Host, wait_until

UNPACKED = Path(sys.prefix, "prometheus", "usr", "bin")
LISTEN = "127.0.0.1:9090"
CONFIG = """\
global: {{ scrape_interval: {interval}, scrape_timeout: {interval}, evaluation_interval: {interval} }}
rule_files: [{rules}]
scrape_configs: [{{ job_name: vxcore, static_configs: [{{ targets: ["{target}"] }}] }}]
"""


def program(name: str) -> str:
    """The path of ``prometheus`` or ``promtool``; skips the test without it, or fails it in CI."""
    found = shutil.which(name, path=str(UNPACKED)) or shutil.which(name, path=peers.SEARCH)
    return found or peers.missing(f"{name} is not there; `make test` unpacks it")


class Prometheus:
    """A server on `host` that scrapes `target`, and has `interval` for it each time; the Lan ends it.

    `before` is the start of its command: a program that runs the rest of it.
    """

    def __init__(
        self,
        host: Host,
        target: str,
        rules: Path,
        folder: Path,
        before: tuple[str, ...] = (),
        interval: str = "200ms",
    ) -> None:
        self._host = host
        file = folder / "prometheus.yml"
        file.write_text(CONFIG.format(rules=rules, target=target, interval=interval))
        words = [f"--config.file={file}", f"--storage.tsdb.path={folder}", f"--web.listen-address={LISTEN}"]
        host.start(*before, program("prometheus"), *words, "--log.level=error")

    def value(self, query: str) -> float | None:
        """The first value of an instant query; None while there is none."""
        found = self._ask(f"query?query={urllib.parse.quote(query)}")
        result = found["data"]["result"] if found else []
        return float(result[0]["value"][1]) if result else None

    def series(self, query: str) -> list[dict[str, str]]:
        """The labels of each series of an instant query."""
        found = self._ask(f"query?query={urllib.parse.quote(query)}")
        return [each["metric"] for each in found["data"]["result"]] if found else []

    def becomes(self, query: str, value: float) -> None:
        """Wait until a query has a value."""
        wait_until(lambda: self.value(query) == value, f"{query} is {value}")

    def rules(self) -> list[dict[str, Any]]:
        """The alerts that it evaluates."""
        found = wait_until(lambda: self._ask("rules"), "Prometheus answers")
        return [rule for group in found["data"]["groups"] for rule in group["rules"]]

    def _ask(self, what: str) -> Any:
        script = (
            f"import urllib.request as r; print(r.urlopen('http://{LISTEN}/api/v1/{what}').read().decode())"
        )
        try:
            return json.loads(self._host.run(sys.executable, "-c", script, check=False).stdout or "null")
        except subprocess.TimeoutExpired:
            return None
