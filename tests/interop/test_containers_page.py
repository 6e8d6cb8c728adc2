"""docs/containers.md is true: its commands run where its comments say, and its files are whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from support.docker import Docker, dockers
from support.hosts import Lan
from support.rooms import program
from support.tree import ROOT

from vxcore import config

PAGE = (ROOT / "docs" / "containers.md").read_text()
BLOCK = re.compile(r"<!-- on (?P<hosts>[12 ]+)(?:: (?P<how>\w+))? -->\n```\n(?P<lines>.*?)```", re.DOTALL)


class Block(NamedTuple):
    """Some commands of the page, and where they are typed."""

    hosts: list[int]
    how: str | None
    lines: list[str]


BLOCKS = [
    Block([int(n) for n in m["hosts"].split()], m["how"], m["lines"].splitlines())
    for m in BLOCK.finditer(PAGE)
]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Docker]]:
    with Lan(2) as lan, dockers(lan.hosts, tmp_path_factory.mktemp("docker")) as made:
        yield made


def type_line(docker: Docker, line: str) -> str:
    """Run a command as it stands there; the programs are those of the tests."""
    name, _, rest = line.partition(" ")
    words = [program("busybox"), "wget"] if name == "wget" else [program(name)]
    done = docker.command("sh", "-c", f"{' '.join(words)} {rest}")
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.usefixtures("root")
def test_the_commands_of_the_page_run(two: list[Docker]) -> None:
    assert len(BLOCKS) >= 10
    said = {}
    for block in BLOCKS:
        for n in block.hosts:
            docker = two[n - 1]
            if block.how == "driver":
                assert block.lines == [f"vxcore docker --local {two[0].host.v4} &"]
                docker.start_vxcore()
                continue
            for line in block.lines:
                said[line] = type_line(docker, line)
                if "httpd" in line:
                    named = re.search(r"--name (\w+)", line)
                    assert named
                    docker.sh(named[1], "echo it works > /www/index.html")
    assert "3 packets received" in said["docker exec app ping -c 3 10.9.1.80"]
    assert said["wget -qO- http://192.0.2.1:8809/"] == "it works\n"
    assert said["docker run --rm --network container:web busybox wget -qO- http://127.0.0.1/"] == "it works\n"
    assert two[0].host.v4 in said["docker run --rm --network host busybox ip address show eth"]
    assert "eth" not in said["docker run --rm --network none busybox ip link"]
    assert [docker.devices() for docker in two] == [set(), set()]


def test_the_settings_of_the_page_are_right() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    settings = config.from_mapping(config.parse("page", text))
    assert settings.docker is not None
    names = set(config.Docker.__struct_fields__)
    assert set(re.findall(r"^#? ?(\w+) = ", text.partition("[docker]")[2], re.MULTILINE)) == names
    for line in re.findall(r"^# (\w+ = \".*?\")", text, re.MULTILINE):
        ((name, value),) = config.parse("page", line).items()
        assert getattr(config.Docker(), name) == value


def test_the_list_of_plugins_is_the_file_beside_it() -> None:
    (text,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert json.loads(text) == json.loads((ROOT / "docs" / "cni" / "blue.conflist").read_text())
