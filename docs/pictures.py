"""Draws docs/pictures: an SVG of each .dot file there, by Graphviz (`make pictures`).

Place in the house: a tool of the documentation; a test holds the pictures to their sources, and each name in
one to the page that shows it. A source begins with comments, a title and then a description, for who cannot
see the picture. What something is its class says, which has a shape or border, and from the style sheet here
colours for light, dark and paper: they are never alone.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

PICTURES = Path(__file__).with_name("pictures")
# Shape and border by class; a host is a cluster, a tunnel is an edge.
SHAPES = {
    "box": "shape=box style=rounded",  # a container, or a process in one
    "vm": "shape=box peripheries=2",
    "vtep": "shape=box penwidth=2.5",
    "switch": "shape=hexagon margin=0.05",
    "dev": "shape=box height=0.3",
    "net": "shape=ellipse style=dashed",
    "store": "shape=cylinder",
    "text": "shape=plaintext",
}
HEAD = """\
graph {
bgcolor=white; nodesep=0.35; ranksep=0.4; pad=0.2
fontname="DejaVu Sans, Verdana, sans-serif"; fontsize=13; style=rounded; labeljust=l
node [fontname="DejaVu Sans, Verdana, sans-serif" fontsize=12 margin="0.12,0.06" height=0.36]
edge [fontname="DejaVu Sans, Verdana, sans-serif" fontsize=11]
"""
STYLE = """
text { fill: #1a1a1a }
.graph > polygon { fill: #ffffff; stroke: none }
.cluster > path, .cluster > polygon { fill: #f4f4f2; stroke: #8a8a8a }
.cluster.inner > path, .cluster.inner > polygon { fill: #ffffff }
.node > polygon, .node > path, .node > ellipse { fill: #ffffff; stroke: #333333 }
.box > path { fill: #e2f3ec; stroke: #00735a }
.vm > polygon { fill: #fbeadf; stroke: #a34700 }
.vm > polygon + polygon { fill: none }
.vtep > polygon { fill: #dcedf8; stroke: #0065a0 }
.store > path, .store > polyline { fill: #f7e9f1; stroke: #99447a }
.text > polygon { fill: none; stroke: none }
.edge > path { stroke: #333333; fill: none }
.edge > polygon { stroke: #333333; fill: #333333 }
.tunnel > path { stroke: #0065a0 }
.tunnel > polygon { stroke: #0065a0; fill: #0065a0 }
@media (prefers-color-scheme: dark) {
text { fill: #ececec }
.graph > polygon { fill: #16181b }
.cluster > path, .cluster > polygon { fill: #202327; stroke: #85898f }
.cluster.inner > path, .cluster.inner > polygon { fill: #16181b }
.node > polygon, .node > path, .node > ellipse { fill: #16181b; stroke: #d0d0d0 }
.box > path { fill: #0f3327; stroke: #45c79f }
.vm > polygon { fill: #3f2312; stroke: #f0975a }
.vm > polygon + polygon { fill: none }
.vtep > polygon { fill: #0d2f47; stroke: #5db7ee }
.store > path, .store > polyline { fill: #3a1d30; stroke: #d88fbd }
.text > polygon { fill: none; stroke: none }
.edge > path { stroke: #d0d0d0 }
.edge > polygon { stroke: #d0d0d0; fill: #d0d0d0 }
.tunnel > path { stroke: #5db7ee }
.tunnel > polygon { stroke: #5db7ee; fill: #5db7ee }
}
"""


class Source(NamedTuple):
    """A picture as it is written down."""

    title: str
    description: str
    body: str

    @property
    def names(self) -> list[str]:
        """What is written in the picture, a line each."""
        labels = re.findall(r'label="([^"]*)"', self.body)
        return [line for label in labels for line in label.split("\\n") if line]


def read(path: Path) -> Source:
    """The comments at its beginning, and the rest."""
    lines = path.read_text().splitlines()
    n = next(n for n, line in enumerate(lines) if not line.startswith("//"))
    title, *description = [line.removeprefix("//").strip() for line in lines[:n]]
    return Source(title, " ".join(description), "\n".join(lines[n:]))


def dotted(source: Source) -> str:
    """All that Graphviz gets: each class with its shape."""
    shapes = {name: f'class="{name}" {shape}' for name, shape in SHAPES.items()}
    body = re.sub(r"\[(\w+)(?= |\])", lambda found: f"[{shapes.get(found[1], found[1])}", source.body)
    body = re.sub(r"\[tunnel(?= |\])", '[class="tunnel" style=dashed penwidth=2', body)
    return f"{HEAD}{body}\n}}\n"


def draw(source: Source) -> str:
    """The picture, for light, dark and print, with its words for who does not see it."""
    made = subprocess.run(["dot", "-Tsvg"], input=dotted(source), check=True, capture_output=True, text=True)
    svg = made.stdout[made.stdout.index("<svg") :]
    svg = re.sub(r"<!--.*?-->\n", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<title>.*?</title>\n", "", svg)
    title = f'<title id="title">{escape(source.title)}</title>'
    description = f'<desc id="desc">{escape(source.description)}</desc>'
    says = '<svg role="img" aria-labelledby="title desc"'
    start, end = svg.split(">\n", 1)
    return f"{start.replace('<svg', says)}>\n{title}\n{description}\n<style>{STYLE}</style>\n{end}"


def main() -> None:
    """All of them."""
    for path in sorted(PICTURES.glob("*.dot")):
        path.with_suffix(".svg").write_text(draw(read(path)))


if __name__ == "__main__":
    sys.exit(main())
