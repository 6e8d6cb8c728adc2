"""The thread that hears of the kernel's changes goes on, whatever there is, and is quiet at the end."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from vxcore.kernel_watch import LINKS, KernelWatch

WAIT_S = 30.0
MANY = 1100


@pytest.fixture
def many_files() -> Iterator[None]:
    """As many as a VTEP has with some hundred ports."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < MANY + 100:
        pytest.skip(f"no more than {before[1]} files may be open")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], MANY + 100), before[1]))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(MANY)]
    try:
        yield
    finally:
        for each in files:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("many_files")
def test_it_hears_with_many_open_files() -> None:
    heard = threading.Semaphore(0)
    with closing(KernelWatch(LINKS, heard.release)) as watch:
        assert heard.acquire(timeout=WAIT_S)
        watch.again()
        assert heard.acquire(timeout=WAIT_S)


def test_it_goes_on_when_a_look_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    heard = threading.Semaphore(0)

    def fail() -> None:
        heard.release()
        raise ValueError("of a stranger")

    with closing(KernelWatch(LINKS, fail)) as watch:
        assert heard.acquire(timeout=WAIT_S)
        watch.again()
        assert heard.acquire(timeout=WAIT_S)
    assert "of a stranger" in caplog.text


def test_when_it_is_closed_nothing_is_written_to_who_has_its_file_now() -> None:
    watch = KernelWatch(LINKS, lambda: None)
    watch.close()
    pipe = [os.pipe2(os.O_NONBLOCK) for _ in range(4)]
    try:
        watch.again()
        for reads, _ in pipe:
            with pytest.raises(BlockingIOError):
                os.read(reads, 8)
    finally:
        for each in (end for ends in pipe for end in ends):
            os.close(each)
