"""Writes docs/metrics.md from vxcore/metrics.py, the one list of metrics (`make docs`).

Place in the house: a tool of the documentation; a test holds the page equal to what this writes.
"""

from __future__ import annotations

from pathlib import Path

from vxcore.metrics import METRICS, Metric

PAGE = Path(__file__).with_name("metrics.md")
HEAD = """\
# Metrics

<!-- Written by `make docs` from docs/metrics.py and vxcore/metrics.py; a change goes there. -->

A VTEP serves its counters to Prometheus when it is told to: with a table in its file,

```toml
[metrics]
listen = "127.0.0.1:9464"   # the default, so that `[metrics]` alone will do
segments = 1000             # how many have series of their own
remotes = 100               # and how many of these
```

or by `--metrics` (`--metrics 192.0.2.1:9464`) of `vxcore up` and `vxcore collect`. The address is plain HTTP
without a password: keep it on loopback or on a network for management. `http://127.0.0.1:9464/metrics` speaks
OpenMetrics and Prometheus's text format, to eight clients at a time. It cannot change while the VTEP runs.

Nothing is counted for this: lanes count, and a scrape reads what they have.

## How much there is

Whatever the tables hold, a scrape stays small. Nothing has a series of its own for each FDB entry or
address. Segments have five each and remotes four, but only the `segments`, and `remotes`, of them that have
carried most bytes since they are there; of equal ones, the segments with the lower VNI and the remotes that
came first. What the others carried together is the difference to the totals, which have all:

```
sum(rate(vxcore_received_bytes_total[5m])) - sum(rate(vxcore_segment_received_bytes_total[5m]))
```

The totals never go back, not when a segment is removed either. `vxcore_segments` and `vxcore_segments_shown`
say how many there are and how many have series, and so do `vxcore_remotes` and `vxcore_remotes_shown`. A
collector is a segment whose `vni` is the list of its VNIs; what it takes is no remote's.

`reason` of `vxcore_dropped_packets_total` is the verdict's name in lower case: [verdicts.md](verdicts.md)
says for each what it means and what to do. All reasons are there from the start, at 0.

## The list

| metric | kind | labels | |
|---|---|---|---|
"""
TAIL = """
Beside these there are the `process_*` metrics of Prometheus's client library: `process_cpu_seconds_total`,
`process_resident_memory_bytes`, `process_open_fds`, `process_start_time_seconds` and their like.

## Ready to use

- [prometheus/prometheus.yml](prometheus/prometheus.yml): a configuration for a VTEP on the same host.
- [prometheus/vxcore.rules.yml](prometheus/vxcore.rules.yml): alerts, each with what to do.
- [grafana/vxcore.json](grafana/vxcore.json): a dashboard, to be imported; it asks for the data source.

A test puts each of the dashboard's queries to Prometheus over real traffic: it gives data, with labels for
its legend. Grafana itself could not be obtained for this (it is not in Debian, nor on PyPI or npm), so nobody
has looked at the dashboard in it; its JSON keeps to Grafana's schema. The picture is of Prometheus's own
page, with the queries of three panels (`make screens` draws it again):

![Traffic, drops by reason and the busiest segments, as Prometheus draws them](screens/prometheus.png)
"""


def page() -> str:
    """The whole page."""
    return HEAD + "".join(_row(each) for each in METRICS) + TAIL


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |\n"


if __name__ == "__main__":
    PAGE.write_text(page())
