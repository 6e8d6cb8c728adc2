"""The pages of docs/ that are played are true: their commands are typed again, and print what stands there.

Those with Docker have a file of their own, test_docker_pages.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support import pages
from support.peers import missing, require_tool
from support.tree import ROOT

pytestmark = pytest.mark.usefixtures("root", "nothing_is_left")
TOOLS = ("tshark", "curl", "nft", "qemu-system-x86_64")
PLAYED = {page: where for page, where in pages.played().items() if "Docker" not in where}


@pytest.mark.timeout(400)  # on a busy machine
@pytest.mark.parametrize("page", PLAYED, ids=lambda page: page.stem)
def test_the_commands_print_what_the_page_says(page: Path) -> None:
    for tool in TOOLS:
        require_tool(tool)
    if not Path("/usr/lib/ipxe/ipxe.lkrn").exists():
        missing("ipxe.lkrn of Debian's package ipxe is not there")
    with pages.stage(PLAYED[page]) as stage:
        assert not (differs := pages.differences(page, stage)), differs


def test_all_of_them_are_found() -> None:
    names = {str(page.relative_to(ROOT)) for page in PLAYED}
    assert {"docs/first-hour.md", *(f"docs/modes/{vm}.md" for vm in ("bridged", "host-only", "nat"))} <= names
