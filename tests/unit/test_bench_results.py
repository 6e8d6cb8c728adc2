"""What the benchmarks make of samples: medians, ratios, doubts, tables; and which cases words choose.

Place in the house: the suites themselves are run by tests/interop/test_bench*.py.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import jsonschema
import msgspec
import pytest
from msgspec import structs

from benchmarks import machine, page, report, results, suites, upgrades
from benchmarks.datapath import plan
from benchmarks.datapath.suite import DataPath, of_the_other_tree
from benchmarks.options import Options
from benchmarks.results import Cpu, Environment, Measurement, Missing, Result, Sample, Suite, measurement
from vxcore import cli
from vxcore.commands import bench
from vxcore.errors import ConfigError

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


def taken(name: str, *values: float, noise: tuple[str, ...] = ()) -> Measurement:
    """With each sample from a process of its own."""
    unit, better = plan.UNITS[name.partition("/")[0]]
    each = [structs.replace(one, process=n) for n, one in enumerate(samples(*values, noise=noise))]
    return measurement(name, unit, better, each, "all alike")


def run_of(**values: tuple[float, ...]) -> Suite:
    """Keyword `tcp_wire_1_kernel` names tcp/wire/1/kernel:kernel."""
    found = []
    for name, each in values.items():
        *path, who = name.split("_")
        found.append(taken("/".join([*path, f"{who}:{who}" if path[0] == "tcp" else who]), *each))
    missing = (Missing(name="pps/encap/1/ovs", reason="it is not there", kind="absent"),)
    return Suite(
        command="x",
        date="2026-01-01",
        seconds=1.0,
        quick=True,
        environment=QUIET,
        measurements=tuple(found),
        missing=missing,
    )


def section(run: Suite) -> str:
    """Of the data path, as it stands in the page."""
    return page.section("datapath", run)


def test_a_measurement_is_the_median_of_its_samples() -> None:
    made = taken("tcp/wire/1/a:b", 3.0, 1.0, 2.0)
    assert (made.median, made.low, made.high, made.unit) == (2.0, 1.0, 3.0, "Gb/s")
    assert (made.case, made.who) == ("tcp/wire/1", "a:b")


def test_a_ratio_is_taken_round_by_round() -> None:
    """The machine became ten times slower between the rounds: the ratio did not."""
    fast, slow = taken("tcp/wire/1/a:a", 10.0, 1.0, 5.0), taken("tcp/wire/1/b:b", 5.0, 0.5, 2.5)
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
    assert taken("pps/encap/1/a", *values, noise=noise).noisy == doubts


def test_one_noisy_sample_of_three_is_no_doubt() -> None:
    each = samples(1.0, 1.0) + samples(1.0, noise=("stolen time: 9%",))
    assert measurement("pps/encap/1/a", "packets/s", "higher", each, "").noisy == ()


def test_many_samples_with_one_outlier_are_no_doubt() -> None:
    """The interval of the median decides, not the extremes."""
    assert taken("pps/encap/1/a", *[1.0] * 14, 9.0).noisy == ()


def test_others_do_not_disturb_what_is_counted() -> None:
    each = samples(85.0, noise=("other processes: 70% of the CPU time",))
    assert measurement("packet/vxcore", "instructions", "lower", each, "").noisy == ()


def test_a_noisy_figure_is_not_told() -> None:
    text = section(run_of(tcp_wire_1_kernel=(4.0, 4.0), tcp_wire_1_vxcore=(1.0, 2.0, 3.0)))
    assert "| vxcore | too noisy to tell |" in text
    assert "Too noisy to tell: tcp/wire/1/vxcore:vxcore (wide spread)." in text


def test_the_tables_show_ratios_to_the_kernel() -> None:
    text = section(run_of(tcp_wire_1_kernel=(4.0, 4.0), tcp_wire_1_vxcore=(2.0, 2.0)))
    assert "| vxcore | **0.50x** 2.00 (2.00 s) |" in text
    assert "offload mode" not in text  # nothing of it was measured
    assert "| `tcp/wire/1/vxcore:vxcore` / `tcp/wire/1/kernel:kernel` | at least 1 | **0.50** |" in text
    assert "- pps/encap/1/ovs: it is not there" in text


def test_the_page_shows_the_result_that_is_kept() -> None:
    kept = results.read(page.RESULT)
    assert page.PAGE.read_text() == page.page(kept), "run `make docs`"
    assert page.HTML.read_text() == report.page(kept), "run `make docs`"


def test_the_schema_is_that_of_the_structs_and_what_is_kept_matches_it() -> None:
    assert page.SCHEMA.read_text() == page.schema(), "run `make docs`"
    jsonschema.validate(json.loads(page.RESULT.read_bytes()), json.loads(page.SCHEMA.read_bytes()))


def test_the_table_of_containers_shows_each_beside_dockers_overlay() -> None:
    left = {f"left_{kind}": float(n) for n, kind in enumerate(("devices", "rules", "namespaces", "files"))}
    made = []
    for who, seconds in (("vxcore", 4.0), ("overlay", 2.0), ("kernel", 1.0)):
        turns = [Sample(value=seconds * (1 + n / 100), details=left) for n in range(5)]
        made.append(measurement(f"set_up/{who}", "s", "lower", turns, "an answer to a ping"))
    text = page.section("containers", structs.replace(run_of(), measurements=tuple(made)))
    assert "| vxcore | **2.00x** 4.08 |  |  |  |  | 0, 1, 2, 3 |" in text
    assert "| Docker's overlay | 2.04 |" in text
    assert "| bridge and kernel vxlan | **0.50x** 1.02 |" in text


@pytest.mark.parametrize("name", page.SECTIONS)
def test_every_section_can_do_without_its_cases(name: str) -> None:
    empty = structs.replace(run_of(), measurements=())
    assert page.page(Result(suites={name: empty})).startswith(page.HEAD)


def test_results_survive_their_file(tmp_path: Path) -> None:
    result = Result(suites={"datapath": run_of(latency_idle_kernel=(17.0, 18.0))})
    results.write(result, tmp_path / "a" / "run.json")
    assert results.read(tmp_path / "a" / "run.json") == result
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


# Words


def test_words_choose_suites_and_cases() -> None:
    def of(*words: str) -> dict[str, tuple[str, ...]]:
        return {each.suite.name: each.patterns for each in suites.chosen(words, Options())}

    assert of() == dict.fromkeys(suites.SUITES, ())
    assert of("startup", "datapath") == {"datapath": (), "startup": ()}
    assert of("datapath/latency/*/veth") == {"datapath": ("latency/idle/veth", "latency/load/veth")}
    assert of("datapath/latency") == of("datapath/latency/*")
    assert of("datapath/latency/*/veth", "datapath") == {"datapath": ()}
    assert of("startup/imp*") == {"startup": ("import",)}
    quick = Options(quick=True)
    assert "containers" not in {each.suite.name for each in suites.chosen([], quick)}
    assert [each.suite.name for each in suites.chosen(["containers"], quick)] == ["containers"]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("codex", "codex: no suite or case is called so; did you mean codec?"),
        ("compere", "did you mean compare?"),
        ("datapath/latency/idle/kernl", "did you mean datapath/latency/idle/kernel?"),
        ("zzz", "suites are codec, tables"),
    ],
)
def test_a_word_that_chooses_nothing_is_a_mistake(word: str, meant: str) -> None:
    with pytest.raises(ConfigError) as raised:
        suites.chosen([word], Options())
    assert meant in str(raised.value)


def test_an_installed_package_says_where_the_benchmarks_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "_TREE", tmp_path)
    assert cli.main(["bench", "--quick"]) == 2
    assert "bench needs vxcore's source tree: in a clone of it, `make bench-peers`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("bench", "bench run"),
        ("bench codec --quick", "bench run"),
        ("-v bench --list", "bench run"),
        ("bench compare a b", "bench compare"),
        ("fdb", "fdb show"),
        ("fdb --json", "fdb show"),
    ],
)
def test_a_group_with_a_default_command_may_stand_without_it(words: str, command: str) -> None:
    assert cli.parser().parse_args(words.split()).chosen.prog == f"vxcore {command}"


def test_another_tree_is_measured_wherever_this_one_is() -> None:
    options = Options(against=Path("/nowhere"))
    known = set(DataPath().cases(options))
    for name in ("tcp/wire/1/vxcore-packet:vxcore-packet", "pps/encap/1/vxcore", "latency/idle/vxcore-busy"):
        other = of_the_other_tree(name)
        assert {name, other} <= known
        assert other.count("@against") == name.count("vxcore")
    assert DataPath().seconds((), options) > 1.5 * DataPath().seconds((), Options())
