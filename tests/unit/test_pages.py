"""Pages of the documentation: how they are compared, their links, and what is no command in containers.md."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from support.pages import blocks, compared
from support.tree import ROOT, source_files

from vxcore import cli, config

PAGES = [ROOT / path for path in source_files(ROOT) if path.suffix == ".md"]
CONTAINERS = (ROOT / "docs" / "containers.md").read_text()
PAGE = """\
```console
# first <<END
of two lines
END
{output}
# second
```

```console unchecked
berlin# third
{unchecked}
```
"""


def test_pages_differ_by_what_they_say_not_by_times_and_numbers() -> None:
    one = PAGE.format(output="3 received, time 402ms, process 7, 0a:00:00:00:00:01", unchecked="anything")
    other = PAGE.format(output="3 received, time 9ms, process 812, 0a:00:00:00:00:09", unchecked="else")
    assert compared(one) == compared(other) != compared(one.replace("3 rec", "2 rec"))


def test_who_is_the_same_is_the_same_on_the_other_page() -> None:
    text = "{0} is there\n{1} asks"
    one, same, other = (
        PAGE.format(output=text.format(*macs), unchecked="")
        for macs in (
            ("0a:00:00:00:00:01", "0a:00:00:00:00:01"),
            ("0a:00:00:00:00:02", "0a:00:00:00:00:02"),
            ("0a:00:00:00:00:01", "0a:00:00:00:00:02"),
        )
    )
    assert compared(one) == compared(same) != compared(other)


def anchors(page: Path) -> set[str]:
    """What a link to the page may have after its #, as GitHub makes it of headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        other = page.parent / name if name else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


def shown() -> list[tuple[str, str]]:
    """Commands of vxcore's in blocks of pages that nobody plays."""
    found = []
    for page in PAGES:
        for block in blocks(page.read_text(), ""):
            for line in block.replace("\\\n", "").splitlines():
                command = re.match(r"(?:# )?vxcore (?!\d)([^|;&<>]*)", line)
                found += [(str(page.relative_to(ROOT)), command[1].strip())] if command else []
    return found


@pytest.mark.parametrize(("page", "command"), shown())
def test_commands_that_are_only_shown_are_right(page: str, command: str) -> None:
    assert cli.parser().parse_args(shlex.split(command, comments=True)).run


def test_the_settings_for_docker_are_right() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", CONTAINERS, re.DOTALL)
    settings = config.from_mapping(config.parse("page", text))
    assert settings.docker is not None
    names = set(config.Docker.__struct_fields__)
    assert set(re.findall(r"^#? ?(\w+) = ", text.partition("[docker]")[2], re.MULTILINE)) == names
    for line in re.findall(r"^# (\w+ = \".*?\")", text, re.MULTILINE):
        ((name, value),) = config.parse("page", line).items()
        assert getattr(config.Docker(), name) == value


def test_the_list_of_plugins_is_the_file_beside_it() -> None:
    (text,) = re.findall(r"```json\n(.*?)```", CONTAINERS, re.DOTALL)
    assert json.loads(text) == json.loads((ROOT / "docs" / "cni" / "blue.conflist").read_text())
