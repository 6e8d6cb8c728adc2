"""Plays docs/first-hour.md: runs its commands, in order, and writes what they print into the page.

Place in the house: a tool of the documentation (`make first-hour`), and of a test, which requires that the
page says what they print. Blocks of kind `console` are run, in the shell that the prompt names; `_VARIES` is
what need not be equal. While it runs the namespaces have other names, so that two may run at once.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).with_name("first-hour.md")
HOSTS = ("berlin", "tokyo")
DEADLINE_S = 60.0
_BLOCK = re.compile(r"^```console( unchecked)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PROMPT = re.compile(rf"^((?:{'|'.join(HOSTS)})?# )(.*)$")
_END = "(the end of a command)"
_MAC = re.compile(r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b")
# What differs from run to run, and what stands for it when two pages are compared.
_VARIES = [
    (re.compile(r"^From \S+ icmp_seq=\d+ Destination Host Unreachable\n|^pipe \d+\n", re.MULTILINE), ""),
    (re.compile(r" \+\d+ errors,"), ""),
    (re.compile(r"(?<![\w:])\d\d:\d\d:\d\d(\.\d+)?(?![\w:])"), "TIME"),
    (re.compile(r"\d[\d./ ]*ms\b"), "N ms"),
    (re.compile(r"\b(process|up|age) \d+(?: min \d+)?(?: s\b)?"), r"\1 N"),
    (re.compile(r"(stopped after ).*"), r"\1 N"),
    (re.compile(r"\bport (?!4789\b)\d+"), "port N"),
    (re.compile(r"^(  (?:received|sent) ).*", re.MULTILINE), r"\1 N"),
    (re.compile(r"^([\d.]+ +.*\S +\d+) +\d+ +\d+$", re.MULTILINE), r"\1 N N"),  # of a remote
    (re.compile(r"^(\d+ +tap .*\d) +\d+ +\d+$", re.MULTILINE), r"\1 N N"),
    (re.compile(r"^([a-z_]+  .*\S)  +\d+$", re.MULTILINE), r"\1 N"),
    (re.compile(r"^(vxcore_\S+) [\d.e+]+$", re.MULTILINE), r"\1 N"),
    (re.compile(r"[ \t]+"), " "),
]


class Command(NamedTuple):
    """What is typed at a prompt, and what it prints."""

    prompt: str
    text: str
    output: str

    def __str__(self) -> str:
        return f"{self.prompt}{self.text}\n{self.output}"


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
    """A shell that stays, in a network namespace or in none."""

    def __init__(self, namespace: str | None, folder: str) -> None:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        enter = ["ip", "netns", "exec", namespace] if namespace else []
        self.process = subprocess.Popen(
            [*enter, "bash"],
            cwd=folder,
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


def play(page: str, names: Mapping[str, str]) -> str:
    """The page with what its commands print now; `names` are those of the namespaces while it runs."""
    shells: dict[str, Shell] = {}
    hosts = re.compile("|".join(names))
    back = {name: host for host, name in names.items()}
    with tempfile.TemporaryDirectory() as folder:

        def output(command: Command) -> str:
            host = command.prompt.rstrip("# ")
            if host not in shells:
                shells[host] = Shell(names.get(host), folder)
            text = hosts.sub(lambda found: names[found[0]], command.text)
            said = shells[host].run(text, command.output.count("\n"))
            return re.sub("|".join(back), lambda found: back[found[0]], said.replace(folder, "/root"))

        def block(found: re.Match[str]) -> str:
            made = [command._replace(output=output(command)) for command in commands(found[2])]
            return f"```console{found[1] or ''}\n{''.join(map(str, made))}```"

        try:
            return _BLOCK.sub(block, page)
        finally:
            for shell in shells.values():
                shell.close()
            for name in names.values():
                subprocess.run(["ip", "netns", "delete", name], check=False, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    PAGE.write_text(play(PAGE.read_text(), {host: f"{host}{os.getpid()}" for host in HOSTS}))
