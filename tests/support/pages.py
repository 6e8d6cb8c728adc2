"""Pages of the documentation that are played: their commands are typed, and what is printed is compared.

Place in the house: above hosts, rooms and docker. The tests require that a page says what its commands print;
`make pages` (docs/play.py) writes it there. A page that is played says where, in a comment; blocks of kind
`console` are then typed, in order, in the shell that the prompt names. `_VARIES` is what need not be equal.
"""

from __future__ import annotations

import itertools
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from difflib import unified_diff
from pathlib import Path
from typing import NamedTuple

from support import rooms
from support.docker import dockers
from support.hosts import Lan
from support.tree import ROOT, source_files

DEADLINE_S = 120.0
NUMBERS = ("one", "two", "three", "four")
_PLAYED = re.compile(r"^<!-- played on (.*): make pages -->$", re.MULTILINE)
_BLOCK = re.compile(r"^```console( unchecked)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PROMPT = re.compile(r"^([a-z]*# )(.*)$")
_ANY_BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_END = "(the end of a command)"
_MAC = re.compile(r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b")
# What differs from run to run, and what stands for it when two pages are compared.
_VARIES = [
    (re.compile(r"^From \S+ icmp_seq=\d+ Destination Host Unreachable\n|^pipe \d+\n", re.MULTILINE), ""),
    (re.compile(r" \+\d+ errors,|, pipe \d+"), ""),
    (re.compile(r"(?<![\w:])\d\d:\d\d:\d\d(\.\d+)?(?![\w:])"), "TIME"),
    (re.compile(r"\d[\d./ ]*ms\b"), "N ms"),
    (re.compile(r"\b(process|pid|up|age) \d+(?: min \d+)?(?: s\b)?"), r"\1 N"),
    (re.compile(r"(stopped after ).*"), r"\1 N"),
    (re.compile(r"\bport (?!4789\b)\d+"), "port N"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "ID"),  # of a container, or a network
    (re.compile(r"^(  (?:received|sent) ).*", re.MULTILINE), r"\1 N"),
    (re.compile(r"^([\d.]+ +.*\S +\d+) +\d+ +\d+$", re.MULTILINE), r"\1 N N"),  # of a remote
    (re.compile(r"^(\d+ +tap .*\d) +\d+ +\d+$", re.MULTILINE), r"\1 N N"),
    (re.compile(r"^([a-z_]+  .*\S)  +\d+$", re.MULTILINE), r"\1 N"),
    (re.compile(r"^([a-z]+ +(?:connected|stale)) .* (http)", re.MULTILINE), r"\1 N \2"),  # for so long
    (re.compile(r"^(vxcore_\S+) [\d.e+]+$", re.MULTILINE), r"\1 N"),
    (re.compile(r"[ \t]+"), " "),
]
_numbers = itertools.count()


class Command(NamedTuple):
    """What is typed at a prompt, and what it prints."""

    prompt: str
    text: str
    output: str

    def __str__(self) -> str:
        return f"{self.prompt}{self.text}\n{self.output}"


class Stage(NamedTuple):
    """Where a page is played: how each of its hosts is entered, and names that hosts have meanwhile."""

    enter: Mapping[str, tuple[str, ...]]
    names: Mapping[str, str]


def played() -> dict[Path, str]:
    """The pages that are played -> where, by their own words."""
    pages = [ROOT / path for path in source_files(ROOT) if path.suffix == ".md"]
    where = {page: _PLAYED.search(page.read_text()) for page in pages}
    return {page: found[1] for page, found in where.items() if found}


def blocks(page: str, kind: str) -> list[str]:
    """Those of a page that are of a kind: ``python``, or none."""
    return [text for found, text in _ANY_BLOCK.findall(page) if found == kind]


def commands(block: str) -> Iterator[Command]:
    """Those of a block; a command goes on after a backslash, and to the end of a here-document."""
    lines = iter(block.splitlines(keepends=True))
    prompt, text, output, here = "", "", "", None
    for line in lines:
        found = _PROMPT.match(line)
        if here is not None or text.endswith("\\"):
            text += "\n" + line.rstrip("\n")
            here = None if line.strip() == here else here
        elif found:
            if prompt:
                yield Command(prompt, text, output)
            prompt, text, output = found[1], found[2], ""
            opening = re.search(r"<<\s*'?(\w+)'?", text)
            here = opening[1] if opening else None
        else:
            output += line
    if prompt:
        yield Command(prompt, text, output)


def compared(page: str) -> str:
    """The page without what may differ: blocks that are unchecked, and in others what varies."""

    def block(found: re.Match[str]) -> str:
        made = []
        for command in commands(found[2]):
            output = "" if found[1] else command.output
            for pattern, stands_for in _VARIES:
                output = pattern.sub(stands_for, output)
            made.append(str(command._replace(output=output)))
        return "".join(made)

    typed = " ".join(each.text for found in _BLOCK.finditer(page) for each in commands(found[2]))
    names = {mac: mac for mac in [*_MAC.findall(typed), "ff:ff:ff:ff:ff:ff"]}
    return _MAC.sub(lambda mac: names.setdefault(mac[0], f"MAC {len(names)}"), _BLOCK.sub(block, page))


class Shell:
    """A shell that stays, entered by these words."""

    def __init__(self, enter: tuple[str, ...], folder: str) -> None:
        path = f"{Path(sys.executable).parent}:{rooms.PATH}"
        self.process = subprocess.Popen(
            [*enter, "env", "-C", folder, "bash"],
            env={**os.environ, "PATH": path, "LC_ALL": "C.UTF-8", "COLUMNS": "80", "LINES": "24"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._said = b""

    def run(self, text: str, n_lines: int) -> str:
        """What a command prints; one that goes on in the background prints so many lines."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\necho -n '{_END}'\n".encode())
        self.process.stdin.flush()
        end = _END.encode()
        while end not in self._said:
            self._hear(text)
        said, _, self._said = self._said.partition(end)
        if text.endswith("&"):
            while (said + self._said).count(b"\n") < n_lines:
                self._hear(text)
            said, self._said = said + self._said, b""
        return said.decode()

    def _hear(self, text: str) -> None:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], DEADLINE_S)[0]:
            raise TimeoutError(f"{text}: after {DEADLINE_S:.0f} s it has only said {self._said.decode()!r}")
        heard = os.read(self.process.stdout.fileno(), 65536)
        if not heard:
            raise EOFError(f"{text}: the shell has ended, after {self._said.decode()!r}")
        self._said += heard

    def close(self) -> None:
        """End it, and what it has started: the group that it leads."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


def play(page: str, stage: Stage) -> str:
    """The page with what its commands print now."""
    shells: dict[str, Shell] = {}
    so_far: list[Command] = []
    names = re.compile("|".join(stage.names) or "$.")
    back = {name: host for host, name in stage.names.items()}
    real = re.compile("|".join(back) or "$.")
    with tempfile.TemporaryDirectory() as folder:

        def output(command: Command) -> str:
            host = command.prompt.rstrip("# ")
            if host not in shells:
                Path(folder, f"of-{host}").mkdir()
                shells[host] = Shell(stage.enter[host], f"{folder}/of-{host}")
            text = names.sub(lambda found: stage.names[found[0]], command.text)
            said = shells[host].run(text, command.output.count("\n"))
            said = real.sub(lambda found: back[found[0]], said.replace(f"{folder}/of-{host}", "/root"))
            so_far.append(command._replace(output=said))
            return said

        def block(found: re.Match[str]) -> str:
            made = [command._replace(output=output(command)) for command in commands(found[2])]
            return f"```console{found[1] or ''}\n{''.join(map(str, made))}```"

        try:
            return _BLOCK.sub(block, page)
        except (TimeoutError, EOFError) as error:
            error.add_note(f"so far:\n{''.join(map(str, so_far))}")
            raise
        finally:
            for shell in shells.values():
                shell.close()


def differences(page: Path, stage: Stage) -> str:
    """What the commands of a page print now and it does not say, or the other way round."""
    text = page.read_text()
    says, prints = (compared(each).splitlines() for each in (text, play(text, stage)))
    return "\n".join(unified_diff(says, prints, "the page", "what is printed", lineterm="", n=1))


# Stages


@contextmanager
def stage(where: str) -> Iterator[Stage]:
    """Build what a page says it is played on, and clear it away.

    That is "2 hosts", "2 hosts with Docker", or "namespaces berlin and tokyo", which the page itself makes.
    """
    if names := re.fullmatch(r"namespaces (\w+) and (\w+)", where):
        with _namespaces(names.groups()) as built:
            yield built
        return
    asked = re.fullmatch(r"(\d) hosts( with Docker)?", where)
    assert asked, f"no stage is {where!r}"
    with ExitStack() as stack:
        lan = stack.enter_context(Lan(int(asked[1])))
        if asked[2]:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            made = stack.enter_context(dockers(lan.hosts, Path(folder), "--live-restore=false"))  # for swarms
            enter = [docker.enter for docker in made]
        else:
            enter = [stack.enter_context(rooms.Room(host)).words for host in lan.hosts]
        yield Stage(dict(zip(NUMBERS, enter, strict=False)), {})


@contextmanager
def _namespaces(hosts: tuple[str, ...]) -> Iterator[Stage]:
    """Names for namespaces that a page makes; two may be played at once."""
    number = next(_numbers)
    names = {host: f"vxt{os.getpid()}-{number}{host}" for host in hosts}
    try:
        enter = {host: ("ip", "netns", "exec", name) for host, name in names.items()}
        yield Stage({"": (), **enter}, names)
    finally:
        for name in names.values():
            subprocess.run(["ip", "netns", "delete", name], check=False, stderr=subprocess.DEVNULL)
