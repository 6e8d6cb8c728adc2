"""Makes docs/screens: what `show`, `trace` and `top` look like, and the dashboard's queries in Prometheus.

Place in the house: a tool of the documentation (`make screens`), above the tests' hosts. Two VTEPs in network
namespaces carry traffic; commands draw on terminals of 80 x 24, and a browser without a window shows pages
of a Prometheus that reads one of them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from support import hosts, prometheus  # noqa: E402

SCREENS = ROOT / "docs" / "screens"
BOARD = ROOT / "docs" / "grafana" / "vxcore.json"
METRICS = "127.0.0.1:9464"
SEGMENT = '[[segment]]\nvni = {vni}\ntap = "vx{vni}"\nremotes = ["{remote}"]\n'
VNIS = {"one": (42, 43), "two": (42, 43, 44)}  # 44 is a mistake that somebody made
COMMANDS = {
    "show": "vxcore show; vxcore fdb; vxcore show drops",
    "trace": "vxcore trace -c 1 --way in --filter icmp; vxcore trace -c 1 --verdict unknown_vni",
}
STRANGER = "192.0.2.99"
SPEAK = """
import random, socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], 0))
while True:
    sock.sendto(bytes.fromhex("08000000 00002a00" + "02" * 12) + bytes(50), (sys.argv[2], 4789))
    time.sleep(random.uniform(0, 1))
"""
PANELS = ("Traffic", "Drops by reason", "Busiest segments, received")
SECONDS = 60
WIDTH, HEIGHT = 80, 24
HOME = "\x1b[H"  # what a screen begins with
PAGE_SIZE = "1000,2130"
# The pages of Debian's Prometheus lie where it would be installed; it is only unpacked here.
PAGES = f"lowerdir={prometheus.UNPACKED.parent}/share:/usr/share"
WITH_PAGES = ("sh", "-c", f'mount -t overlay overlay -o {PAGES} /usr/share && exec "$@"', "sh")
BROWSER = (
    "chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars"
    " --disable-background-networking --disable-component-update --disable-sync --virtual-time-budget=15000"
)


def main() -> None:
    """All of them, over the same traffic."""
    SCREENS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, hosts.Lan(2) as lan:
        one, two = lan.hosts
        vteps = [start(host, name, Path(folder)) for host, name in ((one, "one"), (two, "two"))]
        rules = ROOT / "docs" / "prometheus" / "vxcore.rules.yml"
        server = prometheus.Prometheus(one, METRICS, rules, Path(folder), WITH_PAGES, "1s")
        server.becomes("up", 1)
        with traffic(one, two):
            watched = typed(one, f"(sleep {SECONDS}; printf q) | vxcore top")
            draw("top", "vxcore top", watched.split(HOME)[-1])
            for name, command in COMMANDS.items():
                draw(name, command, typed(one, command).replace(folder, "/etc/vxcore"))
            photograph(one, Path(folder))
        for vtep in vteps:
            vtep.stop()


def start(host: hosts.Host, name: str, folder: Path) -> hosts.VtepProcess:
    """A VTEP with its segments, and addresses on them."""
    file, remote = folder / f"{name}.toml", "192.0.2.2" if name == "one" else "192.0.2.1"
    texts = [f'[underlay]\nlocal = "{host.v4}"\n\n[metrics]\n']
    file.write_text("\n".join(texts + [SEGMENT.format(vni=vni, remote=remote) for vni in VNIS[name]]))
    vtep = hosts.VtepProcess(host, "run", str(file), n_segments=len(VNIS[name]))
    for vni in VNIS[name]:
        host.ip("address", "add", f"10.{vni}.0.{host.number}/24", "dev", f"vx{vni}")
    return vtep


@contextmanager
def traffic(one: hosts.Host, two: hosts.Host) -> Iterator[None]:
    """Bulk that comes and goes in one segment, pings in another, and what has no business here."""
    over = threading.Event()

    def bulk() -> None:
        for n in range(10_000):
            if over.wait(0.5 + n % 3):
                return
            with suppress(AssertionError):  # the machine was too busy, the next will do
                two.transfer(one, "10.42.0.1", "tcp", (1 + n % 4) << 25)

    thread = threading.Thread(target=bulk)
    one.start("ping", "-q", "-i", "0.02", "-s", "1000", "10.43.0.2")
    two.start("ping", "-q", "-i", "0.2", "10.44.0.1")
    two.ip("address", "add", STRANGER, "dev", "eth")
    two.start(sys.executable, "-c", SPEAK, STRANGER, one.v4)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def typed(host: hosts.Host, command: str) -> str:
    """What commands print on a terminal; ``... | COMMAND`` is typed into it."""
    keys, _, command = command.rpartition(" | ")
    inside = f"stty cols {WIDTH} rows {HEIGHT}; {command}"
    script = f'{keys or "true"} | script -qec "{inside}" /dev/null'
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    words = ("env", f"PATH={path}", "TERM=xterm-256color", "sh", "-c", script)
    done = subprocess.run(
        ["ip", "netns", "exec", host.namespace, *words], check=True, capture_output=True, text=True
    )
    return done.stdout.replace("\r", "").replace(host.namespace, "one")


def draw(name: str, title: str, text: str) -> None:
    """A picture of what a terminal shows."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, highlight=False)
        console.print(Text.from_ansi(text.rstrip()), end="")
    picture = console.export_svg(title=title.replace("; ", ";  "), unique_id=name)
    own = re.sub(r"\s*@font-face \{.*?\}", "", picture, flags=re.DOTALL)  # those are fetched from afar
    (SCREENS / f"{name}.svg").write_text("".join(f"{line.rstrip()}\n" for line in own.splitlines()))


def photograph(host: hosts.Host, folder: Path) -> None:
    """Prometheus's page with the queries of some panels, as a browser shows it."""
    wanted: dict[str, str] = {}
    panels = {panel["title"]: panel for panel in json.loads(BOARD.read_text())["panels"]}
    for n, title in enumerate(PANELS):
        query = panels[title]["targets"][0]["expr"]
        for name, value in (("$job", ".*"), ("$instance", ".*"), ("$__rate_interval", "5s")):
            query = query.replace(name, value)
        wanted |= {f"g{n}.expr": query, f"g{n}.tab": "0", f"g{n}.range_input": "1m", f"g{n}.stacked": "0"}
    url = f"http://{prometheus.LISTEN}/graph?{urllib.parse.urlencode(wanted)}"
    profile, picture = f"--user-data-dir={folder}/browser", f"--screenshot={SCREENS}/prometheus.png"
    host.run(*BROWSER.split(), profile, picture, f"--window-size={PAGE_SIZE}", url)


if __name__ == "__main__":
    main()
