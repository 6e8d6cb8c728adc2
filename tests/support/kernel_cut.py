"""What the Linux kernel cuts of super-frames: `[[frame, header], ...]` as hex in JSON, answered likewise.

Place in the house: a program that a test runs inside a namespace of its own. A TAP and a veth without
segmentation offload are ports of one bridge: what is written to the TAP the kernel cuts for the veth, and
a packet socket at its other end sees the result. Behind each frame goes a marker, which tells its end.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from vxcore.ports import Tap

ETH_P_ALL = 3
MARKER = (
    b"\xff" * 6 + b"\x02" + bytes(5) + b"\x88\xb5" + bytes(46)
)  # an EtherType for local experiments (IEEE 802)
OUTGOING = socket.PACKET_OUTGOING  # type: ignore[attr-defined]
OFF = [word for name in ("gso", "tso", "tx", "tx-udp-segmentation") for word in (name, "off")]


def run(line: str) -> None:
    subprocess.run(line.split(), check=True, capture_output=True)


def plug(tap: Tap) -> socket.socket:
    run("ip link add v0 type veth peer name v1")
    run("ip link add b0 type bridge mcast_snooping 0")
    run("ethtool -K v0 " + " ".join(OFF))
    for device in (tap.name, "v0", "v1", "b0"):
        Path(f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6").write_text("1")
        run(f"ip link set {device} mtu 9000 up" + (" master b0" if device in (tap.name, "v0") else ""))
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    sock.bind(("v1", ETH_P_ALL))
    sock.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
    sock.settimeout(10)
    return sock


def cut(tap: Tap, sock: socket.socket, frame: bytes, header: bytes) -> list[str]:
    os.write(tap.fds[0], header + frame)
    os.write(tap.fds[0], bytes(10) + MARKER)
    pieces = []
    while True:
        piece, address = sock.recvfrom(1 << 17)
        if piece == MARKER:
            return pieces
        if address[2] != OUTGOING:
            pieces.append(piece.hex())


def main() -> None:
    tap = Tap("t0", 9000)
    sock = plug(tap)
    frames = json.load(sys.stdin)
    print(json.dumps([cut(tap, sock, *map(bytes.fromhex, pair)) for pair in frames]))
    tap.close()


if __name__ == "__main__":
    main()
