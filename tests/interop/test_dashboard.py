"""The Grafana dashboard over real traffic: each panel's query gives data, and its legend has words.

Grafana itself is asked nothing: its queries are put to Prometheus, as it would.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.hosts import DEADLINE_S, Host, Lan, VtepProcess, wait_until
from support.prometheus import Prometheus
from support.tree import ROOT

pytestmark = pytest.mark.usefixtures("root", "nothing_is_left")
BOARD = json.loads((ROOT / "docs" / "grafana" / "vxcore.json").read_text())
RULES = ROOT / "docs" / "prometheus" / "vxcore.rules.yml"
VARIABLES = {"$job": ".*", "$instance": ".*", "$__rate_interval": "10s"}
OF_GRAFANA = {"short", "pps", "bps", "cps", "s", "bytes", "percentunit"}
UNKNOWN_VNI = (b"\x08\0\0\0\0\0\x2b\0" + b"\x02" * 12 + bytes(50)).hex()
SEND = "import socket, sys; socket.socket(type=2).sendto(bytes.fromhex(sys.argv[1]), (sys.argv[2], 4789))"


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[tuple[Prometheus, Host, Host]]:
    with Lan(2) as lan:
        one, two = lan.hosts
        vtep = lan.vtep(one, "--metrics")
        two.kernel_vxlan([one])
        yield Prometheus(one, "127.0.0.1:9464", RULES, tmp_path), one, two
        assert isinstance(vtep, VtepProcess)


def asked(query: str) -> str:
    """As Grafana asks it, its variables filled in."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    assert "$" not in query
    return query


def happens(one: Host, two: Host) -> None:
    """Something of all that a panel shows: traffic, a drop, an address that is learned anew."""
    one.ping("10.42.0.2", count=5)
    two.run(sys.executable, "-c", SEND, UNKNOWN_VNI, one.v4)
    one.run(sys.executable, "-m", "vxcore", "fdb", "flush", "all")


def test_each_query_gives_data_and_each_legend_words(prometheus: tuple[Prometheus, Host, Host]) -> None:
    server, one, two = prometheus
    left = [(panel["title"], target) for panel in BOARD["panels"] for target in panel["targets"]]
    n_panels = len(left)

    def all_have() -> bool:
        happens(one, two)
        for title, target in list(left):
            found = server.series(asked(target["expr"]))
            if found:
                legends(title, target["legendFormat"], found)
                left.remove((title, target))
        return not left

    wait_until(all_have, f"each of {n_panels} queries gives data; left are {left}", 3 * DEADLINE_S)


def legends(title: str, form: str, found: list[dict[str, str]]) -> None:
    """Different series have different names, made of labels that they have."""
    shown = {form.replace("{{", "{").replace("}}", "}").format(**labels) for labels in found}
    assert len(shown) == len(found), (title, shown)
    assert "" not in shown or len(found) == 1, title


def test_the_variables_have_values(prometheus: tuple[Prometheus, Host, Host]) -> None:
    server, _, _ = prometheus
    for variable in BOARD["templating"]["list"][1:]:
        metric, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
        found = wait_until(lambda metric=metric: server.series(asked(metric)), "Prometheus has scraped")
        assert all(label in labels for labels in found)


def panels() -> list[Any]:
    return [pytest.param(panel, id=panel["title"]) for panel in BOARD["panels"]]


@pytest.mark.parametrize("panel", panels())
def test_a_panel_says_what_it_shows_and_in_which_unit(panel: dict[str, Any]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"] in OF_GRAFANA
    assert panel["description"]
    assert panel["type"] in ("stat", "timeseries")
    assert {target["refId"] for target in panel["targets"]} == set("ABC"[: len(panel["targets"])])
    assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
    if panel["type"] == "stat":
        assert defaults["thresholds"]["steps"][0]["value"] is None  # or 80 and more were red
