"""Where a capture comes from: a file or standard input, compressed or not, and how far it was read.

Place in the house: the lowest of the capture modules. A Source gives what a compiled Reader asks for
and, of damaged compressed data, all that could be made out before the damage.
"""

from __future__ import annotations

import fcntl
import gzip
import io
import logging
import os
import select
import signal
import stat
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol, Self

from vxcore._fast.pcap import Reader
from vxcore.errors import CaptureError, MissingExtraError

log = logging.getLogger("vxcore")

_GZIP_MAGIC = b"\x1f\x8b"  # RFC 1952
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # RFC 8878
_PIPE_SIZE = 1 << 20  # the most that a user may ask for (/proc/sys/fs/pipe-max-size)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """An OSError that comes out of this names a file: this one, if it names no other."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or name
        raise


class _Raw(io.RawIOBase):
    """An unbuffered file, counted, of which the first bytes have been looked at.

    ``wait``, when set, is called before each read and says whether there is to be one.
    """

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.position = 0
        self.wait: Callable[[], bool] | None = None
        self._head = b""
        while len(self._head) < 4 and (more := file.read(4 - len(self._head))):
            self._head += more

    def readable(self) -> bool:
        return True

    def starts_with(self, magic: bytes) -> bool:
        return self._head.startswith(magic)

    def readinto(self, buffer: Any) -> int:
        if self._head:
            n_bytes = min(len(self._head), len(buffer))
            buffer[:n_bytes], self._head = self._head[:n_bytes], self._head[n_bytes:]
        elif self.wait is None or self.wait():
            n_bytes = self._file.readinto(buffer) or 0
        else:
            n_bytes = 0
        self.position += n_bytes
        return n_bytes


class _Stream(Protocol):
    def readinto1(self, buffer: Any, /) -> int: ...


class Source:
    """The bytes of a capture, decompressed.

    ``size`` is the file's, None where nobody knows it; ``position`` how much of that was read.
    ``is_live`` says that it comes from a pipe, whose end is whenever the reading ends. ``problem`` is
    None, or says where compressed data is damaged; all before that was given.
    """

    def __init__(self, name: str, file: io.FileIO, stack: ExitStack) -> None:
        self.name = name
        self._file = file
        self.problem: str | None = None
        status = os.fstat(file.fileno())
        self.is_live = not stat.S_ISREG(status.st_mode)
        self.size = None if self.is_live else status.st_size
        self._given = 0
        self._raw = _Raw(file)
        self._stream: _Stream | None = None
        self._damage: tuple[type[Exception], ...] = ()
        self._decompress(stack)

    @property
    def position(self) -> int:
        """Bytes read from the file, before decompression."""
        return self._raw.position

    def _decompress(self, stack: ExitStack) -> None:
        if self._raw.starts_with(_GZIP_MAGIC):
            opened = gzip.GzipFile(fileobj=io.BufferedReader(self._raw))
            self._damage = (EOFError, gzip.BadGzipFile, zlib.error)
            self._stream = stack.enter_context(opened)
        elif self._raw.starts_with(_ZSTD_MAGIC):
            module = _zstd(self.name)
            self._damage = (EOFError, module.ZstdError)
            self._stream = stack.enter_context(module.ZstdFile(io.BufferedReader(self._raw)))

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer`, at least in part; 0 at the end. Raises OSError that names the file."""
        with naming(self.name):
            return self._raw.readinto(buffer) if self._stream is None else self._undo(self._stream, buffer)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within this, interrupts end what comes from a pipe without loss; a file they just interrupt.

        The first, which whoever writes to the pipe usually gets, too, lets the writer end it; the
        second ends the reading; a third raises KeyboardInterrupt.
        """
        if not self.is_live or threading.current_thread() is not threading.main_thread():
            yield
            return
        with _Patience(self.name, self._file) as patience:
            self._raw.wait = patience.wait
            yield

    def _undo(self, stream: _Stream, buffer: memoryview) -> int:
        """Decompress step by step, so that damage costs nothing of what came before it."""
        n_bytes = 0
        try:
            while n_bytes < len(buffer) and (n_more := stream.readinto1(buffer[n_bytes:])):
                n_bytes += n_more
        except self._damage as error:
            place = self._given + n_bytes
            self.problem = f"the compressed data is damaged behind byte {place} of what is in it: {error}"
            self._stream = _Ended()
        self._given += n_bytes
        return n_bytes


class _Patience:
    """Counts interrupts while a pipe is read; see Source.interruptible."""

    def __init__(self, name: str, file: io.FileIO) -> None:
        self._name = name
        self._n_interrupts = 0
        self._woken, self._wake = os.pipe()
        self._poll = select.poll()
        self._poll.register(file, select.POLLIN)
        self._poll.register(self._woken, select.POLLIN)

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._on_interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)
        os.close(self._woken)
        os.close(self._wake)

    def wait(self) -> bool:
        """Wait for something to read; False when it is not to be read any more."""
        return self._woken not in {descriptor for descriptor, _ in self._poll.poll()}

    def _on_interrupt(self, *_: object) -> None:
        self._n_interrupts += 1
        if self._n_interrupts == 1:
            log.info("%s is read to its end; interrupt again to end it now", self._name)
        elif self._n_interrupts == 2:
            os.write(self._wake, b"\0")
        else:
            raise KeyboardInterrupt


class _Ended:
    """What is behind the damage."""

    def readinto1(self, buffer: Any, /) -> int:
        return 0


def _zstd(name: str) -> ModuleType:
    """The standard library's module, or the same as a package."""
    for module in ("compression.zstd", "backports.zstd"):
        with suppress(ModuleNotFoundError):
            return import_module(module)
    raise MissingExtraError(
        f"{name}: zstd needs Python 3.14, or the package that `pip install 'vxcore[zstd]'` brings"
    )


def open_source(path: str | os.PathLike[str], stack: ExitStack) -> Source:
    """The Source of a file, ``-`` for standard input; `stack` closes it.

    Raises OSError, CaptureError for a terminal, MissingExtraError for zstd without what undoes it.
    """
    name = os.fspath(path)
    if name != "-":
        with naming(name):
            return Source(name, stack.enter_context(io.FileIO(name)), stack)
    if os.isatty(0):
        raise CaptureError("standard input is a terminal: give it a capture, as `tcpdump -w - |` does")
    with suppress(OSError):  # a file, or not allowed
        fcntl.fcntl(0, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    with naming("standard input"):
        return Source("standard input", io.FileIO(0, closefd=False), stack)


class Capture:
    """A Reader and the Source that it reads from."""

    def __init__(self, source: Source) -> None:
        self.source = source
        try:
            self.reader = Reader(source)
        except CaptureError as error:
            raise CaptureError(f"{source.name}: {source.problem or error}") from None

    @property
    def problem(self) -> str | None:
        """None, or what is wrong with the file, and where; all before that was read."""
        return self.source.problem or self.reader.problem


def open_capture(path: str | os.PathLike[str], stack: ExitStack) -> Capture:
    """A pcap or pcapng file, compressed or not; ``-`` is standard input. `stack` closes it.

    Raises OSError, CaptureError, and MissingExtraError for a compression that needs a package.
    """
    return Capture(open_source(path, stack))
