"""Metrics: what a scrape holds and how much, who serves it, and that page, dashboard and alerts agree."""

from __future__ import annotations

import json
import re
import runpy
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain
from support import prometheus, tree
from support.hosts import wait_until

from vxcore import config, metrics
from vxcore.engine import RemoteTraffic, Traffic
from vxcore.errors import ConfigError
from vxcore.metrics import METRICS, MetricsServer
from vxcore.plane_status import Status, Trouble
from vxcore.verdict import Verdict

DOCS = tree.ROOT / "docs"
OF_PROCESS = {
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "up",
}
ANY = 1 << 24


class Fake:
    """A VTEP with `n` segments, the last of which have carried most, and a collector."""

    def __init__(self, n: int = 3) -> None:
        vni = np.array([*range(1, n), ANY], np.uint32)
        counts = np.arange(4 * n, dtype=np.uint64).reshape(-1, 4)
        self.now = Traffic(vni, np.arange(n, dtype=np.uint32), counts, counts.sum(axis=0) + 7, {ANY: "1-5,9"})
        self.remotes = of_remotes(np.arange(1, 3))
        self.fails = False

    def remote_traffic(self) -> RemoteTraffic:
        return self.remotes

    def traffic(self) -> Traffic:
        return self.now

    def totals(self) -> dict[str, Any]:
        if self.fails:
            raise RuntimeError("closed")
        fdb = ("learned", "moves", "frozen", "held", "refused", "overflow", "aged", "flushed")
        return {
            "drops": {"unknown_vni": 5},
            "fdb": {"entries": 1_000_000, **dict.fromkeys(fdb, 2)},
            "lanes": [{"wakeups": 10, "bursts": 20}, {"wakeups": 11, "bursts": 21}],
            "offloads": {"udp_gso": "on", "udp_gro": "off", "join": "refused by the kernel: EIO"},
            "events": {"told": 3, "dropped": 1, "strangers_refused": 0},
        }


def of_remotes(last: Any) -> RemoteTraffic:
    """Of 192.0.0.0/16 those with these last bits, which say how much they have carried."""
    numbers = np.asarray(last, np.uint32)
    address = np.zeros((len(numbers), 16), np.uint8)
    address[:, 10:12], address[:, 12] = 0xFF, 192
    address[:, 14], address[:, 15] = numbers >> 8, numbers & 0xFF
    return RemoteTraffic(numbers, address, np.outer(numbers, [1, 100, 2, 200]).astype(np.uint64))


STALE = Status(
    "etcd", "stale", 7.5, "http://192.0.2.1:2379", "no way", 3, 2, (Trouble("x", "y"),), {"splits": 1}
)


def scraped(vtep: Fake, **settings: Any) -> dict[tuple[str, str], float]:
    """The value of each series, by name and the value of its one label."""
    text = generate_latest(metrics.registry(vtep, config.Metrics(**settings), lambda: [STALE])).decode()
    return {
        (sample.name, "".join(sample.labels.values())): sample.value
        for family in plain(text)
        for sample in family.samples
    }


def test_a_scrape_has_what_the_list_says_and_nothing_else() -> None:
    names = {name for name, _ in scraped(Fake())}
    assert {name for name in names if not name.startswith("process_")} == {each.name for each in METRICS}
    assert {name for name in OF_PROCESS if name != "up"} <= names


def test_values_are_what_the_vtep_has() -> None:
    values = scraped(Fake())
    planes = ("connected", "stale_seconds", "heard", "announced", "troubles")
    assert [values[f"vxcore_plane_{name}", "etcd"] for name in planes] == [0, 7.5, 3, 2, 1]
    assert values["vxcore_plane_done_total", "etcdsplits"] == 1
    assert values["vxcore_segment_received_packets_total", "2"] == 4
    assert values["vxcore_segment_sent_bytes_total", "1-5,9"] == 11
    assert values["vxcore_segment_learned_entries", "2"] == 1
    assert values["vxcore_received_bytes_total", ""] == 1 + 5 + 9 + 7
    assert values["vxcore_dropped_packets_total", "unknown_vni"] == 5
    assert values["vxcore_fdb_entries", ""] == 1_000_000
    assert values["vxcore_lane_bursts_total", "1"] == 21
    assert values["vxcore_remote_received_bytes_total", "192.0.0.2"] == 200
    assert values["vxcore_remote_sent_packets_total", "192.0.0.1"] == 2
    offloads = [
        [values[f"vxcore_offload_{what}", name] for what in ("on", "refused")]
        for name in ("udp_gso", "udp_gro", "join")
    ]
    assert offloads == [[1, 0], [0, 0], [0, 1]]


def test_every_verdict_but_delivered_is_a_reason_from_the_start() -> None:
    reasons = {label for name, label in scraped(Fake()) if name == "vxcore_dropped_packets_total"}
    assert reasons == {verdict.name.lower() for verdict in Verdict} - {"delivered"}


def test_a_hundred_thousand_segments_make_a_small_scrape_of_the_busiest() -> None:
    vtep = Fake(100_000)
    started = time.process_time()
    text = generate_latest(metrics.registry(vtep, config.Metrics(segments=100)))
    assert time.process_time() - started < 2
    assert len(text) < 100_000
    values = scraped(vtep, segments=100)
    shown = [label for name, label in values if name == "vxcore_segment_sent_packets_total"]
    assert shown == [*map(str, range(99_901, 100_000)), "1-5,9"]
    assert values["vxcore_segments", ""] == 100_000
    assert values["vxcore_segments_shown", ""] == 100


def test_of_segments_that_carried_as_much_the_first_are_shown_and_none_if_none_is_wanted() -> None:
    vtep = Fake(5)
    vtep.now.counts[:] = 0
    assert [vtep.now.vni[row] for row in metrics.busiest(vtep.now.vni, vtep.now.counts, 2)] == [1, 2]
    assert not [name for name, _ in scraped(vtep, segments=0) if name.startswith("vxcore_segment_")]


def test_sixty_thousand_remotes_make_a_small_scrape_of_the_busiest() -> None:
    vtep = Fake()
    vtep.remotes = of_remotes(np.arange(60_000))
    values = scraped(vtep, remotes=3)
    shown = [label for name, label in values if name == "vxcore_remote_sent_bytes_total"]
    assert shown == ["192.0.234.93", "192.0.234.94", "192.0.234.95"]
    assert (values["vxcore_remotes", ""], values["vxcore_remotes_shown", ""]) == (60_000, 3)
    assert not [name for name, _ in scraped(vtep, remotes=0) if name.startswith("vxcore_remote_")]


@pytest.fixture
def vtep() -> Fake:
    return Fake()


@pytest.fixture(params=["127.0.0.1:0", "[::1]:0"])
def server(request: pytest.FixtureRequest, vtep: Fake) -> Iterator[MetricsServer]:
    settings = config.Metrics(listen=metrics.Listen(request.param))
    with MetricsServer(vtep, settings) as server:
        yield server


def get(server: MetricsServer, path: str = "/metrics", **options: Any) -> tuple[int, str, str]:
    """Status, content type and body."""
    request = urllib.request.Request(f"http://{server.listen}{path}", **options)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, "", error.read().decode()


def ends(server: MetricsServer) -> tuple[str, int]:
    address, port = server.listen.ends
    return str(address), port


def test_it_speaks_both_formats_and_says_which(server: MetricsServer) -> None:
    status, kind, text = get(server)
    assert (status, kind.split(";")[0]) == (200, "text/plain")
    assert len(list(plain(text))) > len(METRICS)
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    status, kind, text = get(server, headers=accept)
    assert (status, kind.split(";")[0]) == (200, "application/openmetrics-text")
    assert text.endswith("# EOF\n")
    assert len(list(openmetrics(text))) > len(METRICS)


def test_what_it_does_not_have_it_says(server: MetricsServer, vtep: Fake) -> None:
    assert get(server, "/")[0] == 404
    assert get(server, method="POST", data=b"x")[0] == 501
    vtep.fails = True
    assert get(server)[0] == 500
    vtep.fails = False
    assert get(server)[0] == 200


def test_clients_that_are_slow_or_many_do_not_stop_it(
    server: MetricsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics._Handler, "timeout", 0.5)
    clients = [socket.create_connection(ends(server), timeout=10) for _ in range(12)]
    try:
        for client in clients:
            client.sendall(b"GET /metr")
        turned_away = [client for client in clients[8:] if client.recv(1) == b""]
        assert len(turned_away) == 4
        wait_until(lambda: answers(server), "those who said nothing were given up")
    finally:
        for client in clients:
            client.close()


def answers(server: MetricsServer) -> bool:
    try:
        return get(server)[0] == 200
    except OSError:
        return False


def test_garbage_is_answered_and_forgotten(server: MetricsServer) -> None:
    for request in (b"\r\n\r\n", b"\0" * 100_000 + b"\n", b"GET " + b"x" * 70_000 + b"\r\n"):
        with socket.create_connection(ends(server), timeout=10) as client:
            try:
                client.sendall(request)
                client.recv(1000)
            except ConnectionError:
                pass  # it was too much
    assert get(server)[0] == 200


def test_a_taken_port_and_a_foreign_address_are_named(server: MetricsServer, vtep: Fake) -> None:
    with pytest.raises(OSError, match=r"metrics: TCP port \d+ on (127.0.0.1|::1): Address already in use"):
        MetricsServer(vtep, config.Metrics(listen=server.listen))
    with pytest.raises(ConfigError, match=r"metrics: 198\.51\.100\.1 is not an address of this host"):
        MetricsServer(vtep, config.Metrics(listen=metrics.Listen("198.51.100.1:0")))


# What is made from the list, or speaks of it


def test_the_page_is_what_the_list_says() -> None:
    written = runpy.run_path(str(DOCS / "metrics.py"))["page"]()
    assert (DOCS / "metrics.md").read_text() == written, "run `make docs`"


def expressions() -> dict[str, list[str]]:
    """All queries, by the file that they stand in."""
    board = json.loads((DOCS / "grafana" / "vxcore.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [each["definition"] for each in board["templating"]["list"] if "definition" in each]
    rules = (DOCS / "prometheus" / "vxcore.rules.yml").read_text()
    alerts = re.findall(r"expr: (?:>-\n\s+)?(.*)", rules)
    assert len(alerts) == rules.count("- alert:")
    return {"dashboard": queries, "alerts": alerts}


@pytest.mark.parametrize("file", ["dashboard", "alerts"])
def test_they_speak_of_metrics_labels_and_reasons_that_there_are(file: str) -> None:
    known = {metric.name: set(metric.labels) for metric in METRICS} | {name: set() for name in OF_PROCESS}
    for query in expressions()[file]:
        named = re.findall(r"\b((?:vxcore|process)_\w+|up)\b", query)
        assert named, query
        assert set(named) <= set(known), query
        labels = set().union(*(known[name] for name in named)) | {"job", "instance"}
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", query)) <= labels, query
        reasons = {verdict.label for verdict in Verdict}
        for listed in re.findall(r'reason[=!~]+"([\w|]+)"', query):
            assert set(listed.split("|")) <= reasons


def test_prometheus_takes_the_files() -> None:
    promtool = prometheus.program("promtool")
    for words in (["check", "config", "prometheus.yml"], ["check", "rules", "vxcore.rules.yml"]):
        run = subprocess.run(
            [promtool, *words], check=False, cwd=DOCS / "prometheus", capture_output=True, text=True
        )
        assert run.returncode == 0, run.stdout + run.stderr


def test_panels_stand_beside_each_other() -> None:
    board = json.loads((DOCS / "grafana" / "vxcore.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
