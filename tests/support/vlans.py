"""A switch between a trunk and access devices, where the kernel has no VLAN devices and its bridge no VLANs.

Place in the house: a program that interop tests run in a namespace, `vlans.py TRUNK DEVICE=VLAN ...`, a VLAN
of 0 being frames without a tag; `Access` is their side of it. What a device receives leaves by the trunk
with the tag, and what the trunk receives of the VLAN leaves by the device without. Programs at the devices
(TCX, Linux 6.6) do it, with the kernel's own ways with tags: super-frames stay whole. Ends with its input.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import subprocess
import sys

from support.hosts import DEADLINE_S, Host
from support.tree import ROOT
from vxcore._fast.xsk import bpf
from vxcore.xdp import Line, assemble

# linux/bpf.h
PROG_LOAD, LINK_CREATE, TYPE_SCHED_CLS, TCX_INGRESS = 5, 28, 3, 46
VLAN_PUSH, VLAN_POP, REDIRECT = 18, 19, 23
NEXT = 0xFFFFFFFF  # -1
VLAN_PRESENT, VLAN_TCI = 20, 24  # in struct __sk_buff
LD_W, MOVE, MOVE_K, AND_K, JNE_K, JEQ_K, CALL, EXIT = 0x61, 0xBF, 0xB7, 0x57, 0x55, 0x15, 0x85, 0x95
R0, R1, R2, R3, PACKET, WORD = 0, 1, 2, 3, 6, 7


def leave_by(device: str) -> list[Line]:
    index = socket.if_nametoindex(device)
    return [
        (MOVE_K, R1, 0, 0, index),
        (MOVE_K, R2, 0, 0, 0),
        (CALL, 0, 0, 0, REDIRECT),
        (EXIT, 0, 0, 0, 0),
    ]


def to_trunk(trunk: str, vlan: int) -> list[Line]:
    protocol = socket.htons(0x8100)
    push: list[Line] = [
        (MOVE_K, R2, 0, 0, protocol),
        (MOVE_K, R3, 0, 0, vlan),
        (CALL, 0, 0, 0, VLAN_PUSH),
    ]
    return [*(push if vlan else []), *leave_by(trunk)]


def from_trunk(device: str, vlan: int) -> list[Line]:
    tagged: list[Line] = [
        (JEQ_K, WORD, 0, "next", 0),
        (LD_W, WORD, R1, VLAN_TCI, 0),
        (AND_K, WORD, 0, 0, 0xFFF),
        (JNE_K, WORD, 0, "next", vlan),
        (CALL, 0, 0, 0, VLAN_POP),
    ]
    return [
        (LD_W, WORD, R1, VLAN_PRESENT, 0),
        *(tagged if vlan else [(JNE_K, WORD, 0, "next", 0)]),
        *leave_by(device),
        *("next", (MOVE_K, R0, 0, 0, NEXT), (EXIT, 0, 0, 0, 0)),
    ]


def attach(device: str, lines: list[Line]) -> int:
    """Run a program for what the device receives, while the descriptor is open."""
    code = ctypes.create_string_buffer(assemble(lines, 0))
    license_ = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "=IIQQIIQII16sII",
        *(TYPE_SCHED_CLS, (len(code) - 1) // 8, ctypes.addressof(code), ctypes.addressof(license_)),
        *(0, 0, 0, 0, 0, b"vlans", 0, 0),
    )
    program = bpf(PROG_LOAD, bytearray(attributes))
    link = struct.pack("=4I", program, socket.if_nametoindex(device), TCX_INGRESS, 0)
    return bpf(LINK_CREATE, bytearray(link + bytes(48)))


class Access:
    """The program in a host's namespace; ready when constructed, and ended by the Lan, or by ``stop``."""

    def __init__(self, host: Host, trunk: str, devices: dict[str, int]) -> None:
        ends = [f"{device}={vlan}" for device, vlan in devices.items()]
        environment = ["env", f"PYTHONPATH={ROOT / 'tests'}"]
        line = [*environment, sys.executable, __file__, trunk, *ends]
        self.process = host.start(*line, stdin=subprocess.PIPE)
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert said == "ready\n", self.process.communicate()[1]

    def stop(self) -> None:
        self.process.communicate(timeout=DEADLINE_S)


def main(trunk: str, *devices: str) -> None:
    links = []
    for device, _, vlan in (each.partition("=") for each in devices):
        links.append(attach(device, to_trunk(trunk, int(vlan))))
        links.append(attach(trunk, from_trunk(device, int(vlan))))
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
