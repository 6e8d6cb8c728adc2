"""What is written comes whole or not at all, and leaves what a name stood for as it was."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from vxcore.files import replacing, umask


def write(path: Path | str, data: bytes = b"new", mode: int = 0o666) -> None:
    with replacing(path, mode) as file:
        file.write(data)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"%d" % (1 // 0))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_mode_that_was_asked_for_less_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        assert umask() == 0o027
        write(tmp_path / "one")
        write(tmp_path / "two", mode=0o600)
    finally:
        os.umask(before)
    assert (mode_of(tmp_path / "one"), mode_of(tmp_path / "two")) == (0o640, 0o600)


def test_mode_and_links_stay(tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_text("old")
    path.chmod(0o604)
    link.symlink_to(path)
    write(link, mode=0o600)
    assert link.is_symlink()
    assert path.read_text() == "new"
    assert mode_of(path) == 0o604
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "made")
    write(dangling)
    assert dangling.is_symlink()
    assert (tmp_path / "made").read_text() == "new"


@pytest.mark.usefixtures("root")
def test_the_owner_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    os.chown(path, 4711, 4712)
    write(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (4711, 4712)


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write(pipe)
    assert pipe.is_fifo()
    reader.join(10)
    assert got == [b"new"]


@pytest.mark.usefixtures("root")
def test_a_device_is_written_into(tmp_path: Path) -> None:
    null = tmp_path / "null"
    os.mknod(null, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    write(null)
    assert null.is_char_device()
    assert list(tmp_path.iterdir()) == [null]


def test_the_longest_name_is_no_obstacle_and_mistakes_name_the_file(tmp_path: Path) -> None:
    write(tmp_path / ("ä" * 127))
    for wrong, kind in ((tmp_path / "no" / "file", FileNotFoundError), (tmp_path, IsADirectoryError)):
        with pytest.raises(kind) as raised, replacing(wrong):
            pass
        assert raised.value.filename == str(wrong)
