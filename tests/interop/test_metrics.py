"""Metrics of a running VTEP: as its counters have them, through reloads, and as Prometheus reads them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.hosts import Host, Lan, VtepProcess, wait_until
from support.prometheus import Prometheus
from support.tree import ROOT

pytestmark = pytest.mark.usefixtures("root")
LISTEN = "127.0.0.1:9464"
RULES = ROOT / "docs" / "prometheus" / "vxcore.rules.yml"
FILE = """\
[underlay]
local = "192.0.2.1"

[metrics]
{metrics}

[[segment]]
vni = 42
tap = "vx42"
remotes = ["192.0.2.2"]
"""
SECOND = """
[[segment]]
vni = 43
tap = "vx43"
remotes = ["192.0.2.2"]
"""


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan(2) as lan:
        yield lan


def scrape(host: Host) -> dict[tuple[str, str], float]:
    """The value of each series, by name and the value of its label."""
    script = f"import urllib.request as r; print(r.urlopen('http://{LISTEN}/metrics').read().decode())"
    text = host.run(sys.executable, "-c", script).stdout
    return {
        (sample.name, "".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_prometheus_reads_what_the_vtep_counts(lan: Lan, tmp_path: Path) -> None:
    one, two = lan.hosts
    vtep = lan.vtep(one, "--metrics")
    two.kernel_vxlan([one])
    prometheus = Prometheus(one, LISTEN, RULES, tmp_path)
    one.ping("10.42.0.2", count=20)
    two.run("ip", "link", "set", "vx42", "down")  # nothing more comes
    one.run("ip", "link", "set", "vx42", "down")
    (segment,) = wait_until(lambda: settled(vtep), "nothing is counted any more")
    prometheus.becomes('up{job="vxcore"}', 1)
    assert segment["rx_packets"] >= 20
    for ours, theirs in (("rx", "received"), ("tx", "sent")):
        for what in ("packets", "bytes"):
            prometheus.becomes(f'vxcore_segment_{theirs}_{what}_total{{vni="42"}}', segment[f"{ours}_{what}"])
            prometheus.becomes(f"vxcore_{theirs}_{what}_total", segment[f"{ours}_{what}"])
    assert prometheus.value('vxcore_dropped_packets_total{reason="unknown_vni"}') == 0
    assert prometheus.value("vxcore_segment_learned_entries") == 1
    wait_until(lambda: all(rule["health"] == "ok" for rule in prometheus.rules()), "alerts are evaluated")
    vtep.stop()
    prometheus.becomes('up{job="vxcore"}', 0)


def settled(vtep: VtepProcess) -> object:
    before = vtep.counters()["segments"]
    return before if before == vtep.counters()["segments"] else None


def test_series_follow_the_segments_and_the_totals_keep_those_that_went(lan: Lan, tmp_path: Path) -> None:
    one, two = lan.hosts
    file = tmp_path / "vx.toml"
    file.write_text(FILE.format(metrics="segments = 1"))
    two.kernel_vxlan([one])
    vtep = VtepProcess(one, "run", str(file))
    one.overlay("vx42")
    one.ping("10.42.0.2", count=5)
    file.write_text(FILE.format(metrics="segments = 1") + SECOND)
    assert reload(vtep) == "reloaded"
    values = scrape(one)
    assert values["vxcore_segments", ""] == 2
    assert values["vxcore_segments_shown", ""] == 1
    shown = {label for name, label in values if name.startswith("vxcore_segment_")}
    assert shown == {"42"}  # which has carried more
    assert values["vxcore_segment_received_packets_total", "42"] >= 5
    file.write_text(FILE.format(metrics="segments = 1").partition("[[segment]]")[0] + SECOND)
    assert reload(vtep) == "reloaded"
    after = scrape(one)
    assert {label for name, label in after if name.startswith("vxcore_segment_")} == {"43"}
    assert after["vxcore_segment_received_packets_total", "43"] == 0
    for name in ("vxcore_received_packets_total", "vxcore_sent_bytes_total"):
        assert after[name, ""] >= values[name, ""] > 0
    file.write_text(FILE.format(metrics="segments = 2"))
    assert reload(vtep) == "not reloaded"
    assert "metrics: it cannot change while this runs; restart it" in vtep.stop()


def reload(vtep: VtepProcess) -> str:
    vtep.process.send_signal(1)
    assert vtep.process.stdout is not None
    return vtep.process.stdout.readline().strip()


def test_a_segment_begins_at_nothing_though_its_place_was_anothers(lan: Lan, tmp_path: Path) -> None:
    one, two = lan.hosts
    file = tmp_path / "vx.toml"
    file.write_text(FILE.format(metrics=""))
    two.kernel_vxlan([one])
    vtep = VtepProcess(one, "run", str(file))
    one.overlay("vx42")
    one.ping("10.42.0.2", count=5)
    for vni in (44, 45):
        file.write_text(FILE.format(metrics="").replace("42", str(vni)))
        assert reload(vtep) == "reloaded"
    values = scrape(one)
    counted = next(row for row in vtep.counters()["segments"] if row["vni"] == 45)
    assert values["vxcore_segment_received_packets_total", "45"] == counted["rx_packets"] == 0
    assert values["vxcore_received_packets_total", ""] >= 5


def test_a_port_that_is_taken_is_one_line_and_nothing_is_left(lan: Lan) -> None:
    one, two = lan.hosts
    server = one.start(sys.executable, "-m", "http.server", "9464", "--bind", "127.0.0.1")
    wait_until(lambda: "9464" in one.run("ss", "-tln").stdout, "somebody listens there")
    options = ("--vni", "42", "--local", one.v4, "--remote", two.v4, "--tap", "vx42", "--metrics")
    run = one.run(sys.executable, "-m", "vxcore", "up", *options, check=False)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.splitlines()[-1].endswith("metrics: TCP port 9464 on 127.0.0.1: Address already in use")
    assert "vx42" not in json.dumps(one.ip("-j", "link").stdout)
    assert server.poll() is None
