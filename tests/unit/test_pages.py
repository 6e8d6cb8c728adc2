"""How pages that are played are compared; and what else docs/containers.md says, which is no command."""

from __future__ import annotations

import json
import re

from support.pages import compared
from support.tree import ROOT

from vxcore import config

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
