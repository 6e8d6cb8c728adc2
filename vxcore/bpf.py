"""Capture filters as tcpdump has them, compiled and run by libpcap.

Place in the house: above errors; known by the commands. libpcap is not linked: it is loaded when a filter is
asked for, and whoever has tcpdump or Wireshark has it.
"""

from __future__ import annotations

import ctypes
from ctypes.util import find_library
from typing import ClassVar

from vxcore.errors import ConfigError, UnsupportedError

_ETHERNET = 1  # DLT_EN10MB, pcap/dlt.h
_NO_NETMASK = 0xFFFF_FFFF  # PCAP_NETMASK_UNKNOWN, pcap/pcap.h
_SNAP_LEN = 262_144


class _Program(ctypes.Structure):  # struct bpf_program, pcap/bpf.h
    _fields_: ClassVar = [("length", ctypes.c_uint), ("instructions", ctypes.c_void_p)]


class _Header(ctypes.Structure):  # struct pcap_pkthdr, pcap/pcap.h
    _fields_: ClassVar = [
        ("seconds", ctypes.c_long),
        ("microseconds", ctypes.c_long),
        ("kept", ctypes.c_uint32),
        ("length", ctypes.c_uint32),
    ]


class Filter:
    """Whether an Ethernet frame matches an expression such as ``tcp port 80``.

    Raises ConfigError with what libpcap says of an expression that is wrong, UnsupportedError without it.
    """

    def __init__(self, expression: str) -> None:
        name = find_library("pcap")
        if name is None:
            raise UnsupportedError("filters need libpcap, which is not here; Debian has it as libpcap0.8")
        self._pcap = ctypes.CDLL(name)
        self._pcap.pcap_open_dead.restype = ctypes.c_void_p
        self._pcap.pcap_geterr.restype = ctypes.c_char_p
        self._pcap.pcap_geterr.argtypes = self._pcap.pcap_close.argtypes = [ctypes.c_void_p]
        self._program = _Program()
        self._compile(expression)

    def _compile(self, expression: str) -> None:
        handle = self._pcap.pcap_open_dead(_ETHERNET, _SNAP_LEN)
        if not handle:
            raise MemoryError("no memory for a filter")
        try:
            text = expression.encode("ascii", "replace")
            program = ctypes.byref(self._program)
            if self._pcap.pcap_compile(ctypes.c_void_p(handle), program, text, 1, _NO_NETMASK):
                said = self._pcap.pcap_geterr(handle).decode("utf-8", "replace")
                raise ConfigError(f"--filter {expression!r}: {said}; see pcap-filter(7)")
        finally:
            self._pcap.pcap_close(handle)

    def matches(self, frame: bytes, length: int) -> bool:
        """Of a frame of `length` bytes, of which these are there."""
        header = _Header(0, 0, len(frame), length)
        return bool(self._pcap.pcap_offline_filter(ctypes.byref(self._program), ctypes.byref(header), frame))
