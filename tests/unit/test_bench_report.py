"""The report is one page that needs nothing else, and in which everything is named.

Place in the house: what a page looks like people have to say; here is what can be checked.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from msgspec import structs

from benchmarks import page, plots, report, results
from benchmarks.results import Measurement, Sample, measurement
from vxcore import cli

KEPT = results.read(page.RESULT)
VOID = {"meta", "line", "rect", "path", "circle"}


class Nesting(HTMLParser):
    """Every element is closed where it was opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "data")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def plots_of(text: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(one) for one in re.findall(r"<svg viewBox.*?</svg>", text, re.DOTALL)]


def texts(plot: ElementTree.Element) -> list[str]:
    return [each.text or "" for each in plot.iter("text")]


def noisy(each: Measurement) -> Measurement:
    return structs.replace(each, noisy=("other processes",))


def settled(suite: str) -> results.Suite:
    """A suite of the kept run as if nothing had disturbed it: that depends on the day it was kept."""
    run = KEPT.suites[suite]
    return structs.replace(
        run, measurements=tuple(structs.replace(each, noisy=()) for each in run.measurements)
    )


def test_the_page_is_well_formed_and_needs_nothing_else() -> None:
    text = report.page(KEPT)
    parser = Nesting()
    parser.feed(text)
    assert not parser.open
    assert all(reference.startswith("#") for reference in parser.references)
    assert not re.search(r"https?:|url\((?!#)|@import|<script", text)
    used, made = (set(re.findall(form, text)) for form in (r"url\(#(\w+)\)", r'pattern id="(\w+)"'))
    assert used <= made


def test_every_series_and_every_axis_is_named() -> None:
    run = settled("datapath")
    for figure in report.FIGURES["datapath"]:
        (plot,) = plots_of(figure.draw(run))
        assert plot.find("title") is not None
        assert any("is better" in text for text in texts(plot))
    tcp = texts(plots_of(report.FIGURES["datapath"][0].draw(run))[0])
    for each in run.measurements:
        if each.name.startswith("tcp/wire/1/"):
            assert report.called(each.who) in tcp


def test_what_stands_beside_another_differs_by_more_than_its_colour() -> None:
    (plot,) = plots_of(report.FIGURES["codec"][0].draw(settled("codec")))
    fills = [each.get("fill") for each in plot.iter("rect") if each.get("fill")]
    assert len(set(fills)) == 2  # memcpy, and memcpy inlined; vxcore has none
    table = plots_of(report.FIGURES["tables"][0].draw(settled("tables")))[0]
    assert (
        len(
            {
                re.sub(r"[\d.]+", "", each.get("d") or "o")
                for each in table.iter()
                if each.get("class") == "mark fill0"
            }
        )
        == 1
    )
    assert {"vxcore", "a dict"} <= set(texts(table))


@pytest.mark.parametrize("name", [name for name in report.FIGURES if name in KEPT.suites])
def test_what_is_too_noisy_is_named_and_has_no_figure(name: str) -> None:
    run = KEPT.suites[name]
    doubtful = structs.replace(run, measurements=tuple(noisy(each) for each in run.measurements))
    for figure in report.FIGURES[name]:
        for plot in plots_of(figure.draw(doubtful)):
            assert any("too noisy to tell: other processes" in text for text in texts(plot))
            assert not [
                each for each in plot.iter() if (each.get("class") or "").startswith(("fill", "mark", "line"))
            ]


def test_a_page_without_measurements_can_be_made() -> None:
    empty = {name: structs.replace(run, measurements=()) for name, run in KEPT.suites.items()}
    assert "<figure>" not in report.page(structs.replace(KEPT, suites=empty))


def test_names_are_escaped() -> None:
    odd = measurement("decap/<b>&", "s", "lower", [Sample(value=1.0)], "<i>")
    suite = structs.replace(KEPT.suites["capture"], measurements=(odd,))
    text = report.page(structs.replace(KEPT, suites={"capture": suite}))
    assert "<b>" not in text
    assert "<i>" not in text


@pytest.mark.parametrize(
    ("values", "log", "ticks"),
    [
        ([7.2, 3.0], False, [0, 2, 4, 6, 8]),
        ([0.02, 1.5], True, [0.01, 0.1, 1, 10]),
        ([5.0], True, [1, 10]),
        ([0.0], False, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
    ],
)
def test_ticks_are_round_and_enclose_the_values(values: list[float], log: bool, ticks: list[float]) -> None:
    axis = plots.Axis(values, 0, 100, log)
    assert axis.ticks == pytest.approx(ticks)
    assert 0 <= axis.at(min(values)) <= axis.at(max(values)) <= 100


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (7.234, "7.23"), (0.0226, "0.0226"), (924265, "924,000"), (155.4, "155")]
)
def test_figures_have_three_digits(value: float, shown: str) -> None:
    assert plots.number(value) == shown


def test_the_command_writes_both_forms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, form in ((["-o", str(tmp_path / "report")], report.page), (["--markdown"], page.page)):
        assert cli.main(["bench", "report", str(page.RESULT), *options]) == 0
        file = tmp_path / "report"
        shown = capsys.readouterr().out or file.read_text()
        assert shown.rstrip("\n") == form(KEPT).rstrip("\n")
    (tmp_path / "report").write_text("{}")
    assert cli.main(["bench", "report", str(tmp_path / "report")]) == 2
    assert "no result of `vxcore bench`" in capsys.readouterr().err
    assert cli.main(["bench", "report", str(tmp_path / "none")]) == 2
