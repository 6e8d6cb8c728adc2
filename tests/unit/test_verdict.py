"""The one list of verdicts, and the page that is made of it."""

from __future__ import annotations

import re
import runpy

import pytest
from support import tree

from vxcore.verdict import Verdict

PAGE = tree.ROOT / "docs" / "verdicts.md"


def test_the_page_is_what_the_list_says() -> None:
    written = runpy.run_path(str(tree.ROOT / "docs" / "verdicts.py"))["page"]()
    assert PAGE.read_text() == written, "run `make docs`"


@pytest.mark.parametrize("verdict", Verdict, ids=lambda verdict: verdict.name)
def test_each_verdict_says_what_it_means_and_what_to_do(verdict: Verdict) -> None:
    assert verdict.text
    assert verdict.remedy
    assert not re.search(r"[|\n]", verdict.text + verdict.remedy), "it stands in a table's cell"


def test_values_are_dense_so_that_counters_are_an_array() -> None:
    assert [verdict.value for verdict in Verdict] == list(range(len(Verdict)))


def test_compiled_code_has_the_same_list() -> None:
    compiled = (tree.FAST / "verdict.pxd").read_text()
    assert re.findall(r"^    (\w+) = (\d+)$", compiled, re.MULTILINE) == [
        (verdict.name, str(verdict.value)) for verdict in Verdict
    ]
