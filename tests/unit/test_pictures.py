"""The pictures in docs/pictures are those of their sources, and say what the pages say that show them."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.peers import require_tool
from support.tree import ROOT, source_files

TOOL = runpy.run_path(str(ROOT / "docs" / "pictures.py"))
SOURCES = sorted((ROOT / "docs" / "pictures").glob("*.dot"))
PAGES = [ROOT / path for path in source_files(ROOT) if path.suffix == ".md"]
IMAGE = re.compile(r"^!\[(.*)\]\(\S*pictures/(\S+)\.svg\)$", re.MULTILINE)
SVG = "{http://www.w3.org/2000/svg}"


def shown() -> list[tuple[Path, str, str]]:
    """Each page and picture on it, and what is said of it to who cannot see it."""
    return [(page, name, says) for page in PAGES for says, name in IMAGE.findall(page.read_text())]


def drawn(svg: str) -> list[tuple[str, str]]:
    """The parts of a picture, and what is written in it, wherever that is."""
    tree = ElementTree.fromstring(svg)
    parts = [(each.get("class", ""), "") for each in tree.iter(f"{SVG}g")]
    texts = [(each.tag.removeprefix(SVG), each.text or "") for each in tree.iter() if each.text]
    return sorted(parts + texts)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_picture_is_what_its_source_says(path: Path) -> None:
    require_tool("dot")
    assert drawn(path.with_suffix(".svg").read_text()) == drawn(TOOL["draw"](TOOL["read"](path)))


def test_there_is_a_picture_for_each_mode_and_a_page_for_each_picture() -> None:
    names = {path.stem for path in SOURCES}
    assert (
        names == {path.stem for path in SOURCES[0].parent.glob("*.svg")} == {name for _, name, _ in shown()}
    )
    for page in (ROOT / "docs" / "modes").glob("*.md"):
        assert page.stem in {"README"} | {name for at, name, _ in shown() if at == page}


@pytest.mark.parametrize(("page", "name", "says"), shown(), ids=lambda each: str(each)[-30:])
def test_the_page_has_every_name_in_its_picture(page: Path, name: str, says: str) -> None:
    source = TOOL["read"](ROOT / "docs" / "pictures" / f"{name}.dot")
    text = IMAGE.sub("", page.read_text()).lower()
    words = {word for line in source.names for word in re.findall(r"[\w.:-]+", line.lower())}
    assert {word for word in words if not re.search(rf"(?<!\w){re.escape(word)}", text)} == set()
    assert says == source.title
    assert len(source.description) > 40
