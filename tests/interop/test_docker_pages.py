"""The pages of docs/ that are played with real Docker are true: their commands print what stands there."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import pages
from support.peers import require_tool
from support.rooms import program
from support.tree import ROOT

PLAYED = {page: where for page, where in pages.played().items() if "Docker" in where}


@pytest.mark.usefixtures("root")
@pytest.mark.timeout(400)  # on a busy machine
@pytest.mark.parametrize("page", PLAYED, ids=lambda page: page.stem)
def test_the_commands_print_what_the_page_says(page: Path) -> None:
    require_tool("curl")
    program("etcd")
    with pages.stage(PLAYED[page]) as stage:
        assert not (differs := pages.differences(page, stage)), differs


def test_all_of_them_are_found() -> None:
    names = {str(page.relative_to(ROOT)) for page in PLAYED}
    modes = ("bridge", "host", "none", "container", "overlay")
    assert {"docs/containers.md", "docs/etcd.md", *(f"docs/modes/{mode}.md" for mode in modes)} <= names
