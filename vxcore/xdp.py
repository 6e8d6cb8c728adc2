"""Open AF_XDP: a program on a device that says what we receive, and a socket for each of its queues.

Place in the house: above ports, below xdp_ports. Set-up only, as in ports. The program is written in the
kernel's own instructions and loaded by bpf(2), without clang, libbpf or libxdp. It hangs on a link
(BPF_LINK_CREATE, Linux 5.9), which ends with the process that holds it, however that ends: the device then
is as it was.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import os
import socket
import struct
import sys
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path

from pyroute2 import IPRoute  # type: ignore[import-untyped]

from vxcore._fast.xsk import XskSocket, bpf
from vxcore.config import Offload
from vxcore.errors import ConfigError, UnsupportedError
from vxcore.parts import Part
from vxcore.ports import IPAddress
from vxcore.wire import ETH_LEN, IPV4_LEN, IPV6_LEN, UDP_LEN

log = logging.getLogger("vxcore")

# linux/bpf.h
_MAP_CREATE, _MAP_UPDATE, _PROG_LOAD, _LINK_CREATE = 0, 2, 5, 28
_TYPE_XSKMAP = 17
_TYPE_XDP = 6
_ATTACH_XDP = 37
_PASS = 2
_REDIRECT_MAP = 51
# linux/if_link.h
_FLAG_SKB, _FLAG_NATIVE = 1 << 1, 1 << 2
# linux/if_arp.h, linux/sockios.h, linux/ethtool.h
_ARPHRD_ETHER = 1
_SIOCETHTOOL, _GET_CHANNELS = 0x8946, 0x3C

_LOG_LEN = 1 << 16
_N_OF_PROGRAM = 3  # descriptors: its link, its map, and itself
_VLAN_TAG_LEN = 4
LARGEST_MTU = 4096 - 256 - ETH_LEN - _VLAN_TAG_LEN
"""What a chunk of a page holds behind XDP_PACKET_HEADROOM, less Ethernet and a VLAN tag."""


class XdpDevice:
    """Sockets for all queues of a device and the program, a list of Line, that feeds them.

    `lanes` has the sockets of each of `n_lanes` lanes. `native` says whether the driver runs the program,
    `zero_copy` whether it puts packets into our memory. Raises ConfigError for a device that cannot be used
    with AF_XDP, or is used so by somebody else, PermissionError, UnsupportedError when the kernel lacks
    AF_XDP, OSError.
    """

    def __init__(
        self, device: str, n_lanes: int, program: list[Line], offload: Offload, handed: Part | None = None
    ) -> None:
        self.name, self.offload = device, offload
        self._overruns_before = 0
        if handed is not None:
            self._take(n_lanes, handed)
            return
        self.ifindex, self.mtu = _check(device)
        n_queues = count_queues(device)
        if n_queues < n_lanes:
            raise ConfigError(
                f"{device} has {n_queues} receive queue{'s' * (n_queues > 1)} for {n_lanes} lanes, and AF_XDP"
                f" needs one for each; `ethtool -L {device} rx {n_lanes}` if it can have more, or fewer lanes"
            )
        self.lanes: list[list[XskSocket]] = [[] for _ in range(n_lanes)]
        self.native = self.zero_copy = False
        with ExitStack() as undo:
            undo.callback(self.close)
            self._fds: list[int] = []
            self._attach(program, n_queues)
            for queue in range(n_queues):
                self._open_queue(queue)
            undo.pop_all()

    def _take(self, n_lanes: int, handed: Part) -> None:
        facts, n = handed.facts, _N_OF_PROGRAM
        self.ifindex, self.mtu, self.native = facts["ifindex"], facts["mtu"], facts["native"]
        self._fds, socks = handed.fds[:n], handed.fds[n:]
        self._map = self._fds[1]
        self.lanes = [[] for _ in range(n_lanes)]
        self.zero_copy = facts["zero_copy"][-1]
        for queue, zero_copy in enumerate(facts["zero_copy"]):
            pair = socks[2 * queue], socks[2 * queue + 1]
            sock = XskSocket(self.name, self.ifindex, queue, zero_copy, pair)
            self.lanes[queue % n_lanes].append(sock)
        self._overruns_before = self.overruns()

    def part(self) -> Part:
        """What another process goes on with: the program's descriptors, and two for each queue."""
        n_queues = sum(map(len, self.lanes))
        socks = [self.lanes[n % len(self.lanes)][n // len(self.lanes)] for n in range(n_queues)]
        fds = [*self._fds, *(fd for sock in socks for fd in (sock.fileno(), sock.memory))]
        facts = {"ifindex": self.ifindex, "mtu": self.mtu, "native": self.native}
        return Part(fds, {**facts, "zero_copy": [sock.zero_copy for sock in socks]})

    def _attach(self, program: list[Line], n_queues: int) -> None:
        """Native if possible. The map is still empty, so that for now all is passed."""
        self._map = self._keep(_create_map(n_queues))
        loaded = self._keep(_load(program, self._map))
        modes = [_FLAG_NATIVE, _FLAG_SKB] if self.offload.xdp_native else [_FLAG_SKB]
        for mode in modes:
            try:
                self._fds.insert(0, _link(loaded, self.ifindex, mode))
            except OSError as error:
                if mode == _FLAG_SKB or error.errno in (errno.EPERM, errno.EBUSY):
                    raise self._refused(error) from None
                log.info("%s: XDP in the driver refused: %s", self.name, error.strerror)
            else:
                self.native = mode == _FLAG_NATIVE
                return

    def _refused(self, error: OSError) -> Exception:
        code = error.errno or errno.EIO
        if code == errno.EBUSY:
            return ConfigError(
                f"{self.name} has an XDP program of somebody else; see `ip link show {self.name}`,"
                " and detach it or give another device"
            )
        if code in (errno.EPERM, errno.ENOSYS):
            return _bpf_error(error, f"{self.name}: attaching the XDP program")
        return UnsupportedError(f"{self.name}: no XDP program can be attached: {error.strerror}")

    def _open_queue(self, queue: int) -> None:
        sock = self._socket(queue, self.offload.xdp_zero_copy and self.native)
        self.lanes[queue % len(self.lanes)].append(sock)
        self.zero_copy = sock.zero_copy
        _update_map(self._map, queue, sock.fileno())

    def _socket(self, queue: int, zero_copy: bool) -> XskSocket:
        """With zero copy, or with copies where the driver refuses."""
        try:
            return XskSocket(self.name, self.ifindex, queue, zero_copy)
        except PermissionError:
            raise
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise ConfigError(
                    f"{self.name} queue {queue} has an AF_XDP socket already; end the process that has it"
                ) from None
            if error.errno == errno.ENETDOWN:
                raise ConfigError(f"{self.name} is down; `ip link set {self.name} up`") from None
            if not zero_copy:
                raise
            log.info("%s: zero copy refused: %s", self.name, error.strerror)
            return self._socket(queue, False)

    def offloads(self) -> dict[str, str]:
        """What the device's driver does, by the names of settings."""
        works = {"xdp_native": self.native, "xdp_zero_copy": self.zero_copy}
        refused = f"refused by the driver of {self.name}"
        states = {name: "on" if on else refused for name, on in works.items()}
        return {name: state if getattr(self.offload, name) else "off" for name, state in states.items()}

    def _keep(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def overruns(self) -> int:
        """Packets dropped because we gave no memory back in time, or longer than what a chunk holds."""
        return sum(sock.overruns() for lane in self.lanes for sock in lane) - self._overruns_before

    def close(self) -> None:
        """Detach the program, then close the sockets."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        for lane in self.lanes:
            for sock in lane:
                sock.close()
            lane.clear()


# Devices


def _check(device: str) -> tuple[int, int]:
    """Index and MTU of a device that AF_XDP could be used with."""
    with IPRoute() as route:
        indexes = route.link_lookup(ifname=device)
        if not indexes:
            raise ConfigError(f"{device}: there is no such device")
        link = route.get_links(indexes[0])[0]
    if link["ifi_type"] != _ARPHRD_ETHER:
        raise ConfigError(f"{device} is no Ethernet device; AF_XDP needs the one that packets arrive by")
    mtu = int(link.get_attr("IFLA_MTU"))
    if mtu > LARGEST_MTU:
        raise ConfigError(
            f"{device} has an MTU of {mtu}, and AF_XDP takes packets of up to {LARGEST_MTU} bytes;"
            f" `ip link set {device} mtu {LARGEST_MTU}` or less, or another kind of port"
        )
    return int(indexes[0]), mtu


def count_queues(device: str) -> int:
    """The receive queues that a device uses now; 1 if its driver does not say."""
    request = ctypes.create_string_buffer(struct.pack("=9I", _GET_CHANNELS, *[0] * 8))
    ifreq = struct.pack("16sP16x", device.encode(), ctypes.addressof(request))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            fcntl.ioctl(sock, _SIOCETHTOOL, ifreq)
        except OSError:
            return max(1, len(list(Path("/sys/class/net", device, "queues").glob("rx-*"))))
    _, _, _, _, _, n_rx, _, _, n_combined = struct.unpack("=9I", request.raw[:36])
    return max(1, int(n_rx + n_combined))


# bpf(2)


def _bpf_error(error: OSError, what: str) -> Exception:
    code = error.errno or errno.EIO
    if code == errno.EPERM:
        return PermissionError(code, f"{what}: no permission; root, or CAP_BPF and CAP_NET_ADMIN are needed")
    if code == errno.ENOSYS:
        return UnsupportedError(f"{what}: Linux {os.uname().release} was built without bpf(2)")
    return OSError(code, f"{what}: {os.strerror(code)}")


def _create_map(n_queues: int) -> int:
    """From a queue's number to its socket."""
    try:
        return bpf(_MAP_CREATE, bytearray(struct.pack("=6I", _TYPE_XSKMAP, 4, 4, n_queues, 0, 0)))
    except OSError as error:
        if error.errno == errno.EINVAL:
            text = f"Linux {os.uname().release} was built without AF_XDP (CONFIG_XDP_SOCKETS)"
            raise UnsupportedError(text) from None
        raise _bpf_error(error, "AF_XDP: making a map of sockets") from None


def _update_map(fd: int, queue: int, sock: int) -> None:
    key, value = (ctypes.create_string_buffer(struct.pack("=I", number)) for number in (queue, sock))
    attributes = struct.pack("=I4xQQQ", fd, ctypes.addressof(key), ctypes.addressof(value), 0)
    try:
        bpf(_MAP_UPDATE, bytearray(attributes))
    except OSError as error:
        raise _bpf_error(error, f"AF_XDP: queue {queue}") from None


def _load(lines: list[Line], map_fd: int) -> int:
    """The program's descriptor. What the kernel has against it is logged, and the end of that raised."""
    code = ctypes.create_string_buffer(assemble(lines, map_fd))
    license_, told = ctypes.create_string_buffer(b"Apache-2.0"), ctypes.create_string_buffer(_LOG_LEN)
    attributes = struct.pack(
        "=IIQQIIQII16sII",
        *(_TYPE_XDP, (len(code) - 1) // 8, ctypes.addressof(code), ctypes.addressof(license_)),
        *(1, _LOG_LEN, ctypes.addressof(told), 0, 0, b"vxcore", 0, _ATTACH_XDP),
    )
    try:
        return bpf(_PROG_LOAD, bytearray(attributes))
    except OSError as error:
        report = told.value.decode(errors="replace").splitlines()
        log.debug("the kernel's verifier: %s", report)
        objections = [line for line in report if line and not line.startswith("processed ")]
        raise _bpf_error(error, ": ".join(["AF_XDP: loading the XDP program", *objections[-1:]])) from None


def _link(program: int, ifindex: int, mode: int) -> int:
    return bpf(_LINK_CREATE, bytearray(struct.pack("=4I", program, ifindex, _ATTACH_XDP, mode)))


# Programs: extended BPF (Documentation/bpf/standardization/instruction-set.rst) over a packet, Ethernet first

_LD_W, _LD_H, _LD_B, _LD_64 = 0x61, 0x69, 0x71, 0x18
_MOVE, _MOVE_K, _MOVE32_K, _ADD_K, _AND_K = 0xBF, 0xB7, 0xB4, 0x07, 0x57
_JA, _JEQ_K, _JNE, _JNE_K, _JGT = 0x05, 0x15, 0x5D, 0x55, 0x2D
_CALL, _EXIT = 0x85, 0x95
_MAP_BY_FD = 1  # BPF_PSEUDO_MAP_FD, instead of a source register
_MAP = -1  # as an operand: the map's descriptor

# Registers: arguments and result of calls; ours
_R0, _R1, _R2, _R3 = 0, 1, 2, 3
_WORD, _WANTED, _QUEUE, _DATA, _END = 4, 5, 6, 7, 8

Line = str | tuple[int, int, int, int | str, int]
"""A label, or an instruction: code, destination and source register, offset or a label, operand."""

# struct xdp_md: where the packet starts and ends, and the queue it came by
_START: list[Line] = [
    (_LD_W, _DATA, _R1, 0, 0),
    (_LD_W, _END, _R1, 4, 0),
    (_LD_W, _QUEUE, _R1, 16, 0),
]
_TAKE: list[Line] = [
    "take",
    (_LD_64, _R1, _MAP_BY_FD, 0, _MAP),
    (_MOVE, _R2, _QUEUE, 0, 0),
    (_MOVE_K, _R3, 0, 0, _PASS),  # what becomes of it where the queue has no socket (Linux 5.3)
    (_CALL, 0, 0, 0, _REDIRECT_MAP),
    (_EXIT, 0, 0, 0, 0),
]
_LEAVE: list[Line] = ["pass", (_MOVE_K, _R0, 0, 0, _PASS), (_EXIT, 0, 0, 0, 0)]

ALL_PACKETS: list[Line] = [*_START, *_TAKE]
"""Takes everything that the device receives."""


def our_packets(locals_: tuple[IPAddress, ...], ports: Collection[int]) -> list[Line]:
    """Takes UDP to the ports at one of the addresses, where the headers are plain; passes all other packets.

    IPv4 fragments and options, IPv6 extension headers and VLAN tags are not plain.
    """
    lines = list(_START)
    for local in locals_:
        lines += _to_ipv4(local.packed, ports) if local.version == 4 else _to_ipv6(local.packed, ports)
    return [*lines, *_LEAVE, *_TAKE]


def _to_ipv4(address: bytes, ports: Collection[int]) -> list[Line]:
    ip, udp = ETH_LEN, ETH_LEN + IPV4_LEN
    return [
        *_longer_than(udp + UDP_LEN, "not 4"),
        *_has(_LD_H, ETH_LEN - 2, b"\x08\x00", "not 4"),
        *_has(_LD_B, ip, b"\x45", "pass"),
        (_LD_H, _WORD, _DATA, ip + 6, 0),
        (_AND_K, _WORD, 0, 0, _loaded(b"\x3f\xff")),
        (_JNE_K, _WORD, 0, "pass", 0),
        *_has(_LD_B, ip + 9, bytes([socket.IPPROTO_UDP]), "pass"),
        *_has(_LD_W, ip + 16, address, "pass"),
        *_to_one_of(ports, udp + 2),
        "not 4",
    ]


def _to_ipv6(address: bytes, ports: Collection[int]) -> list[Line]:
    ip, udp = ETH_LEN, ETH_LEN + IPV6_LEN
    return [
        *_longer_than(udp + UDP_LEN, "not 6"),
        *_has(_LD_H, ETH_LEN - 2, b"\x86\xdd", "not 6"),
        *_has(_LD_B, ip + 6, bytes([socket.IPPROTO_UDP]), "pass"),
        *(line for n in range(0, 16, 4) for line in _has(_LD_W, ip + 24 + n, address[n : n + 4], "pass")),
        *_to_one_of(ports, udp + 2),
        "not 6",
    ]


def _to_one_of(ports: Collection[int], at: int) -> list[Line]:
    """Take it or pass it, by the port that stands there."""
    wanted = [_loaded(port.to_bytes(2, "big")) for port in sorted(ports)]
    return [
        (_LD_H, _WORD, _DATA, at, 0),
        *((_JEQ_K, _WORD, 0, "take", number) for number in wanted),
        (_JA, 0, 0, "pass", 0),
    ]


def _longer_than(length: int, otherwise: str) -> list[Line]:
    """The verifier lets nobody read what was not asked for before."""
    return [
        (_MOVE, _WORD, _DATA, 0, 0),
        (_ADD_K, _WORD, 0, 0, length),
        (_JGT, _WORD, _END, otherwise, 0),
    ]


def _has(load: int, at: int, wanted: bytes, otherwise: str) -> list[Line]:
    return [
        (load, _WORD, _DATA, at, 0),
        (_MOVE32_K, _WANTED, 0, 0, _loaded(wanted)),
        (_JNE, _WORD, _WANTED, otherwise, 0),
    ]


def _loaded(octets: bytes) -> int:
    """The number that this machine sees when it loads them."""
    return int.from_bytes(octets, sys.byteorder)


def assemble(lines: list[Line], map_fd: int) -> bytes:
    """The program's code, eight bytes an instruction; loading 64 bits takes two of them."""
    labels: dict[str, int] = {}
    at = 0
    for line in lines:
        if isinstance(line, str):
            labels[line] = at
        else:
            at += 2 if line[0] == _LD_64 else 1
    code = bytearray()
    for line in lines:
        if not isinstance(line, str):
            code += _encode(line, labels, len(code) // 8, map_fd)
    return bytes(code)


def _encode(
    line: tuple[int, int, int, int | str, int], labels: dict[str, int], here: int, map_fd: int
) -> bytes:
    operation, destination, source, offset, operand = line
    if isinstance(offset, str):
        offset = labels[offset] - here - 1
    registers = source << 4 | destination if sys.byteorder == "little" else destination << 4 | source
    value = (map_fd if operand == _MAP else operand) & 0xFFFF_FFFF
    code = struct.pack("=BBhI", operation, registers, offset, value)
    return code + bytes(8) if operation == _LD_64 else code
