"""The pages of docs/ that are played with real Docker are true: their commands print what stands there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import pages
from support.peers import require_tool
from support.tree import ROOT

WHERE = "2 hosts with Docker"
PLAYED = [page for page, where in pages.played().items() if where == WHERE]


@pytest.fixture(scope="module")
def two_with_docker() -> Iterator[pages.Stage]:
    with pages.stage(WHERE) as stage:
        yield stage


@pytest.mark.usefixtures("root")
@pytest.mark.timeout(400)  # on a busy machine
@pytest.mark.parametrize("page", PLAYED, ids=lambda page: page.stem)
def test_the_commands_print_what_the_page_says(page: Path, two_with_docker: pages.Stage) -> None:
    require_tool("curl")
    assert not (differs := pages.differences(page, two_with_docker)), differs


def test_all_of_them_are_found() -> None:
    names = {str(page.relative_to(ROOT)) for page in PLAYED}
    modes = ("bridge", "host", "none", "container", "overlay")
    assert {"docs/containers.md", *(f"docs/modes/{mode}.md" for mode in modes)} <= names
