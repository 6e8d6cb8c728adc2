"""A directory of pcapng files as the port of a collector: made, watched, and kept to its size.

Place in the house: above ports, beside packet_overlay, below engine. The lanes write
(`_fast/pcapng_overlay.pyx`); a thread here deletes the oldest files when there are more than are to be kept,
and says in the log, once, when nothing can be written and when it can again.
"""

from __future__ import annotations

import fcntl
import io
import logging
import os
import re
import select
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

from vxcore._fast.pcap import Writer
from vxcore._fast.pcapng_overlay import PcapngPort
from vxcore.config import Collect

log = logging.getLogger("vxcore")

_OURS = re.compile(r"collect-(\d{8}-\d{6})-(\d+)\.pcapng")
_LEFT = ".part"
_MTU = 1500  # to which a super-frame of unknown frame size is cut
_SNAP_LEN = 262144  # as in pcap.pyx: more than any frame


class PcapngOverlay:
    """The files of a collector; an overlay device as `vxcore.ports.OverlayDevice` has it.

    The directory is made if missing. What a process that died left unfinished there gets its name. Raises
    OSError, naming the directory.
    """

    uso = True  # it does not keep others from UDP super-frames
    mtu = _MTU

    def __init__(self, collect: Collect, n_lanes: int) -> None:
        self.name = collect.write or ""
        self._collect, self._n_lanes = collect, n_lanes
        self._ports: list[PcapngPort] = []
        self._errors: dict[PcapngPort, int] = {}
        self._refused: set[str] = set()
        self._stopped = False
        with ExitStack() as undo:
            Path(self.name).mkdir(parents=True, exist_ok=True)
            self._directory = os.open(self.name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            undo.callback(os.close, self._directory)
            self._told = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            undo.callback(os.close, self._told)
            self._take_up_what_was_left()
            self._delete_oldest()
            self._thread = threading.Thread(target=self._run, name="vxcore-files")
            self._thread.start()
            undo.pop_all()

    # What the engine calls

    def port(self, lane: int, segment: int) -> PcapngPort:
        """The files of one lane."""
        each = self._collect
        port = PcapngPort(
            *(self.name, self._directory, self._told, _header(), segment, self.mtu, (lane, self._n_lanes)),
            max_len=each.rotate or 0,
            max_s=each.rotate_seconds or 0,
            snap_len=each.snaplen or _SNAP_LEN,
        )
        self._ports.append(port)
        return port

    def part(self) -> None:
        """Another process writes files of its own."""

    def inherit(self) -> None:
        """There is nothing to put back."""

    def offloads(self) -> dict[str, str]:
        return {}

    def overruns(self) -> int:
        return 0

    def close(self) -> None:
        """Complete the files; the lanes have ended."""
        for port in self._ports:
            port.close()
        self._stopped = True
        os.eventfd_write(self._told, 1)
        self._thread.join()
        os.close(self._told)
        os.close(self._directory)

    # The thread

    def _run(self) -> None:
        while not self._stopped:
            select.select([self._told], [], [])
            with suppress(BlockingIOError):
                os.eventfd_read(self._told)
            self._say_errors()
            self._delete_oldest()

    def _say_errors(self) -> None:
        for port in list(self._ports):
            error, before = port.error, self._errors.get(port, 0)
            self._errors[port] = error
            if error and error != before:
                text = "%s: nothing can be written: %s; frames are dropped and counted until it can"
                log.error(text, self.name, os.strerror(error))
            elif before and not error:
                log.warning("%s: written to again", self.name)

    # The files

    def _names(self) -> list[str]:
        """The complete files of a collector, oldest first."""
        found = [match for name in self._listed() if (match := _OURS.fullmatch(name))]
        return [match[0] for match in sorted(found, key=lambda match: (match[1], int(match[2])))]

    def _delete_oldest(self) -> None:
        keep = self._collect.keep
        for name in self._names()[:-keep] if keep else []:
            try:
                os.unlink(name, dir_fd=self._directory)
            except OSError as error:
                if name not in self._refused and not isinstance(error, FileNotFoundError):
                    self._refused.add(name)
                    log.error("%s/%s: cannot be deleted: %s", self.name, name, error.strerror)

    def _listed(self) -> list[str]:
        with os.scandir(self._directory) as entries:
            return [entry.name for entry in entries]

    def _take_up_what_was_left(self) -> None:
        """A file that still grows is locked by who writes it."""
        for name in self._listed():
            if name.endswith(_LEFT) and _OURS.fullmatch(name.removesuffix(_LEFT)):
                with suppress(OSError):
                    self._take_up(name)

    def _take_up(self, name: str) -> None:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            here = self._directory
            os.rename(name, name.removesuffix(_LEFT), src_dir_fd=here, dst_dir_fd=here)
        finally:
            os.close(fd)


def _header() -> bytes:
    """What each file begins with: a section, and an interface whose time stamps are nanoseconds."""
    out = io.BytesIO()
    writer = Writer(out, pcapng=True, nanoseconds=True, comment="collected by vxcore: inner frames of VXLAN")
    writer.add_interface(name="vxlan")
    return out.getvalue()
