"""A pcapng file, a record at a time, for what comes a packet at a time: each with a comment.

Place in the house: above nobody; known by the commands. `_fast.pcap` writes whole batches, and needs numpy.
Blocks and options are those of draft-ietf-opsawg-pcapng, section 4.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_BYTE_ORDER = 0x1A2B3C4D
_COMMENT, _IF_NAME, _IF_TSRESOL, _USER_APPLICATION = 1, 2, 9, 4
_NANOSECONDS = bytes([9])
ETHERNET, RAW_IP = 1, 101  # LINKTYPE_ numbers


class PcapngWriter:
    """Writes to a binary file; after each call the file has all of it, and a reader may follow."""

    def __init__(self, file: BinaryIO, snap_len: int = 0) -> None:
        self._file, self._snap_len, self._n_interfaces = file, snap_len, 0
        self.n_bytes = 0
        body = struct.pack("=IHHq", _BYTE_ORDER, 1, 0, -1) + _options({_USER_APPLICATION: b"vxcore"})
        self._block(_SECTION, body)

    def interface(self, name: str, link: int) -> int:
        """Describe one more interface; its number."""
        options = _options({_IF_NAME: name.encode(), _IF_TSRESOL: _NANOSECONDS})
        self._block(_INTERFACE, struct.pack("=HHI", link, 0, self._snap_len) + options)
        self._n_interfaces += 1
        return self._n_interfaces - 1

    def packet(self, interface: int, time_ns: int, data: bytes, length: int, comment: str) -> None:
        """Write a packet of `length` bytes, of which `data` are there."""
        head = struct.pack("=IIIII", interface, time_ns >> 32, time_ns & 0xFFFF_FFFF, len(data), length)
        self._block(_PACKET, head + _padded(data) + _options({_COMMENT: comment.encode()}))

    def _block(self, kind: int, body: bytes) -> None:
        length = struct.pack("=I", len(body) + 12)
        block = struct.pack("=I", kind) + length + body + length
        self._file.write(block)
        self._file.flush()
        self.n_bytes += len(block)


def _options(values: dict[int, bytes]) -> bytes:
    given = b"".join(struct.pack("=HH", code, len(value)) + _padded(value) for code, value in values.items())
    return given + bytes(4)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
