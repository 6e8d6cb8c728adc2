"""A newcomer's first hour is as docs/first-hour.md says: its commands are typed again."""

from __future__ import annotations

import os
import runpy
from difflib import unified_diff

import pytest
from support.peers import require_tool
from support.tree import ROOT

pytestmark = pytest.mark.usefixtures("root", "nothing_is_left")
HOUR = runpy.run_path(str(ROOT / "docs" / "first_hour.py"))


@pytest.mark.timeout(400)  # on a busy machine
def test_the_commands_print_what_the_page_says() -> None:
    for tool in ("tshark", "curl"):
        require_tool(tool)
    page = HOUR["PAGE"].read_text()
    played = HOUR["play"](page, {host: f"vxt{os.getpid()}-{host}" for host in HOUR["HOSTS"]})
    ours, theirs = (HOUR["compared"](text).splitlines() for text in (page, played))
    differs = list(unified_diff(ours, theirs, "the page", "what is printed", lineterm="", n=1))
    assert not differs, "\n".join(differs)


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
    assert HOUR["compared"](one) == HOUR["compared"](other) != HOUR["compared"](one.replace("3 rec", "2 rec"))


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
    assert HOUR["compared"](one) == HOUR["compared"](same) != HOUR["compared"](other)
