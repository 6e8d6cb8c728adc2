"""Two results are compared: known samples have known verdicts, and CI gets its exit code.

Place in the house: intervals and compare of the benchmarks.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import jsonschema
import pytest
from msgspec import structs

from benchmarks import intervals, page, results
from benchmarks.compare import Comparison, Row, compared
from benchmarks.results import Better, Environment, Measurement, Result, Sample, Suite, measurement
from vxcore import cli

WHERE = Environment(
    cpu="A CPU",
    n_cpus=2,
    kernel="6.1",
    distribution="Debian",
    commit="0123456789ab",
    python="3.11",
    tools={},
    steal_share=0.0,
    foreign_share=0.0,
)
RANDOM = random.Random(1)


def taken(
    name: str,
    middle: float,
    spread: float = 0.005,
    unit: str = "ns",
    better: Better = "lower",
    processes: int = 3,
    noise: tuple[str, ...] = (),
) -> Measurement:
    """Five samples of each process around a middle."""
    samples = [
        Sample(value=middle * RANDOM.gauss(1, spread), process=n, noise=noise)
        for n in range(processes)
        for _ in range(5)
    ]
    return measurement(name, unit, better, samples, "all bytes")


def result(*measurements: Measurement, quick: bool = False, cpu: str = "A CPU") -> Result:
    return Result(
        suites={
            "codec": Suite(
                command="x",
                date="2026-01-01",
                seconds=1.0,
                quick=quick,
                environment=structs.replace(WHERE, cpu=cpu),
                measurements=measurements,
            )
        }
    )


def of(comparison: Comparison, name: str = "codec/encap/vxcore") -> Row:
    return next(row for row in comparison.rows if row.name == name)


@pytest.mark.parametrize(
    ("new", "verdict"), [(100.0, "same"), (102.0, "same"), (120.0, "slower"), (80.0, "faster")]
)
def test_times_are_told_apart(new: float, verdict: str) -> None:
    row = of(compared(result(taken("encap/vxcore", 100.0)), result(taken("encap/vxcore", new))))
    assert (row.verdict, row.why) == (verdict, "")
    assert row.low is not None
    assert row.high is not None
    assert row.low <= (row.ratio or 0) <= row.high
    assert row.low <= new / 100 * 1.01
    assert row.high >= new / 100 * 0.99


def test_of_a_rate_more_is_faster() -> None:
    old, new = (taken("encap/vxcore", value, unit="GB/s", better="higher") for value in (10.0, 12.0))
    assert of(compared(result(old), result(new))).verdict == "faster"
    assert of(compared(result(new), result(old))).verdict == "slower"


def test_what_spreads_widely_cannot_be_told() -> None:
    old, new = taken("encap/vxcore", 100.0, 0.15), taken("encap/vxcore", 104.0, 0.15)
    row = of(compared(result(old), result(new)))
    assert (row.verdict, row.why) == ("cannot tell", "a wide interval")


def test_the_threshold_is_the_users() -> None:
    old, new = result(taken("encap/vxcore", 100.0)), result(taken("encap/vxcore", 104.0))
    assert of(compared(old, new, 0.1)).verdict == "same"
    assert of(compared(old, new, 0.01)).verdict == "slower"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (result(taken("encap/vxcore", 1.0)), result(taken("encap/vxcore", 2.0), cpu="B"), "cpu was A CPU"),
        (result(taken("encap/vxcore", 1.0)), result(taken("encap/vxcore", 2.0), quick=True), "was quick"),
        (
            result(taken("encap/vxcore", 1.0, noise=("stolen time: 9%",))),
            result(taken("encap/vxcore", 2.0)),
            "the old one is noisy: stolen time",
        ),
        (
            result(taken("encap/vxcore", 1.0)),
            result(taken("encap/vxcore", 2.0, processes=1)),
            "one process measured it",
        ),
        (
            result(taken("encap/vxcore", 1.0), taken("encap/memcpy", 1.0)),
            result(taken("encap/vxcore", 2.0), taken("encap/memcpy", 2.0)),
            "memcpy is slower too: the machine changed",
        ),
    ],
    ids=["another processor", "quick", "noise", "one process", "a neighbour too"],
)
def test_what_cannot_be_told_says_why(old: Result, new: Result, why: str) -> None:
    row = of(compared(old, new))
    assert row.verdict == "cannot tell"
    assert why in row.why


@pytest.mark.parametrize(
    ("count", "verdict"), [(85.0, "same"), (85.3, "same"), (86.0, "slower"), (84.0, "faster")]
)
def test_instructions_are_compared_to_half_a_percent_on_any_machine(count: float, verdict: str) -> None:
    def counted(value: float) -> Measurement:
        return measurement("encap/vxcore", "instructions", "lower", [Sample(value=value)], "")

    assert of(compared(result(counted(85.0)), result(counted(count), cpu="B"))).verdict == verdict


def test_what_is_in_one_result_alone_is_named() -> None:
    old, new = result(taken("encap/vxcore", 1.0)), result(taken("decap/vxcore", 1.0))
    rows = {row.name: row.verdict for row in compared(old, new).rows}
    assert rows == {"codec/encap/vxcore": "gone", "codec/decap/vxcore": "new"}
    other = Result(suites={"tables": old.suites["codec"]})
    assert {row.verdict for row in compared(old, other).rows} == {"gone", "new"}


def test_an_interval_grows_with_what_differs_between_processes() -> None:
    """Fifteen values that lie together by fives are worth little more than three."""
    alike = [[9.0, 10.0, 11.0, 9.5, 10.5]] * 3
    apart = [[9.0] * 5, [10.0] * 5, [11.0] * 5]
    widths = [high - low for low, high in map(intervals.of_median, (alike, apart))]
    assert widths[0] < widths[1] == 2.0
    assert intervals.of_median(alike) == intervals.of_median(alike)
    assert intervals.of_median([[1.0, 2.0, 3.0], [2.0]])[0] >= 1.0  # of unequal length


def test_the_command_tells_and_fails_where_it_should(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    results.write(result(taken("encap/vxcore", 100.0), taken("encap/memcpy", 50.0)), old)
    results.write(result(taken("encap/vxcore", 120.0), taken("encap/memcpy", 50.0)), new)
    command = ["bench", "compare", str(old), str(new)]
    assert cli.main(command) == 0
    told = capsys.readouterr().out
    assert "codec/encap/vxcore  slower" in told
    assert "of vxcore: 1 slower, 0 same" in told
    assert cli.main([*command, "--fail-on", "slower"]) == 1
    assert cli.main([*command, "--fail-on", "slower", "--threshold", "30"]) == 0
    assert cli.main(["bench", "compare", str(new), str(old), "--fail-on", "unsure"]) == 0
    capsys.readouterr()
    assert cli.main([*command, "--json"]) == 0
    schema = json.loads(page.SCHEMA.read_bytes()) | {"$ref": "#/$defs/Comparison"}
    jsonschema.validate(json.loads(capsys.readouterr().out), schema)
    assert cli.main([*command, "--threshold", "x"]) == 2
