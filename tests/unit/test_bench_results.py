"""What the data-path benchmark makes of its samples: medians, ratios, doubts, tables.

Place in the house: the suite itself is run by tests/interop/test_bench_datapath.py.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest
from support.tree import ROOT

from benchmarks import performance, upgrades
from benchmarks.datapath import machine, plan, report, results
from benchmarks.datapath.results import Cpu, Environment, Missing, Run, Sample, measurement

CPU = Cpu(elapsed=1.0, busy=1.5, user=0.5, system=0.5, softirq=0.5, vtep_user=0.1, vtep_system=0.4)
QUIET = Environment(
    cpu="A CPU",
    n_cpus=2,
    kernel="6.1",
    distribution="Debian",
    commit="0123456789ab",
    python="3.11",
    tools={"iperf3": "iperf 3.12"},
    offloads={},
    load_average=(0.0, 0.0, 0.0),
    steal_share=0.0,
    foreign_share=0.0,
)


def samples(*values: float, noise: tuple[str, ...] = ()) -> list[Sample]:
    details = {"cpu_s_per_gigabyte": 2.0, "core_s_per_million": 3.0, "p99_us": 4.0, "p999_us": 5.0}
    return [Sample(value=value, cpu=CPU, details=details, noise=noise) for value in values]


def run_of(**values: tuple[float, ...]) -> Run:
    """Keyword `tcp_wire_1_kernel` names tcp/wire/1/kernel:kernel."""
    taken = []
    for name, each in values.items():
        *path, who = name.split("_")
        full = "/".join([*path, f"{who}:{who}" if path[0] == "tcp" else who])
        taken.append(measurement(full, samples(*each), "all alike"))
    missing = (Missing(name="pps/encap/1/ovs", reason="it is not there"),)
    return Run(
        command="x",
        date="2026-01-01",
        seconds=1.0,
        environment=QUIET,
        measurements=tuple(taken),
        missing=missing,
    )


def test_a_measurement_is_the_median_of_its_samples() -> None:
    taken = measurement("tcp/wire/1/a:b", samples(3.0, 1.0, 2.0), "all alike")
    assert (taken.median, taken.low, taken.high, taken.unit) == (2.0, 1.0, 3.0, "Gb/s")


def test_a_ratio_is_taken_round_by_round() -> None:
    """The machine became ten times slower between the rounds: the ratio did not."""
    fast = measurement("tcp/wire/1/a:a", samples(10.0, 1.0, 5.0), "")
    slow = measurement("tcp/wire/1/b:b", samples(5.0, 0.5, 2.5), "")
    assert results.ratio(slow, fast) == 0.5


@pytest.mark.parametrize(
    ("values", "noise", "doubts"),
    [
        ((1.0, 1.1, 1.2), (), ()),
        ((1.0, 2.0, 3.0), (), ("wide spread",)),
        ((1.0, 1.0), ("other processes: 30% of the CPU time",), ("other processes",)),
    ],
)
def test_noise_is_named(values: tuple[float, ...], noise: tuple[str, ...], doubts: tuple[str, ...]) -> None:
    assert measurement("pps/encap/1/a", samples(*values, noise=noise), "").noisy == doubts


def test_one_noisy_sample_of_three_is_no_doubt() -> None:
    taken = samples(1.0, 1.0) + samples(1.0, noise=("stolen time: 9%",))
    assert measurement("pps/encap/1/a", taken, "").noisy == ()


def test_the_tables_show_ratios_to_the_kernel() -> None:
    text = report.section(run_of(tcp_wire_1_kernel=(4.0, 4.0), tcp_wire_1_vxcore=(2.0, 2.0)))
    assert "| vxcore | **0.50x** 2.00 (2.00 s) |" in text
    assert "offload mode" not in text  # nothing of it was measured
    assert "| `tcp/wire/1/vxcore:vxcore` / `tcp/wire/1/kernel:kernel` | at least 1 | **0.50** |" in text
    assert "- pps/encap/1/ovs: it is not there" in text


def test_the_section_takes_the_place_of_the_old_one() -> None:
    old, new = run_of(pps_encap_1_kernel=(1e6,)), run_of(pps_encap_1_kernel=(2e6,))
    page = report.placed("# Speed\n\nThe codec.\n", report.section(old))
    assert report.placed(page + "\n## After\n", report.section(new)) == (
        f"# Speed\n\nThe codec.\n\n{report.section(new)}\n## After\n"
    )


def test_the_page_shows_the_results_that_are_kept() -> None:
    assert (ROOT / "docs" / "performance.md").read_text() == performance.page(), "run `make docs`"


def test_a_page_without_data_path_or_without_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(performance, "RESULTS", tmp_path)
    assert performance.page() == performance.HEAD
    results.write(run_of(latency_idle_kernel=(17.0, 18.0)), tmp_path / "datapath.json")
    assert performance.page().startswith(f"{performance.HEAD}\n{report.BEGIN}")


def test_results_survive_their_file(tmp_path: Path) -> None:
    run = run_of(latency_idle_kernel=(17.0, 18.0))
    results.write(run, tmp_path / "a" / "run.json")
    assert results.read(tmp_path / "a" / "run.json") == run
    (tmp_path / "run.json").write_text('{"format": "something else"}')
    with pytest.raises(msgspec.ValidationError):
        results.read(tmp_path / "run.json")


def test_patterns_choose_by_name() -> None:
    chosen = [name for _, names in plan.selected(["tcp/wire/8/kernel:*"]) for name in names]
    assert chosen == ["tcp/wire/8/kernel:kernel", "tcp/wire/8/kernel:vxcore"]
    names = [name for _, names in plan.selected([]) for name in names]
    assert len(set(names)) == len(names)
    assert plan.selected(["nothing/*"]) == []


def test_the_meter_sees_our_own_work() -> None:
    meter, started = machine.Meter(), time.process_time()
    while time.process_time() < started + 0.2:
        pass
    assert meter.read()[0].busy > 0.1


def test_the_table_of_upgrades_is_what_was_measured() -> None:
    text = upgrades.PAGE.read_text()
    assert text == upgrades.page(text)
