"""The host: kernel, permissions, devices, offloads, limits, buffers, the clock.

Place in the house: part of doctor, above finding. Each check is a function under its name in `CHECKS`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from pyroute2 import IPRoute  # type: ignore[import-untyped]

from vxcore import ports
from vxcore.doctor.finding import OK, WARNING, WRONG, Check, Finding, Subject

_TUN = Path("/dev/net/tun")
_NET_ADMIN, _NET_RAW, _SYS_ADMIN, _BPF = 12, 13, 21, 39  # linux/capability.h
_OLDEST = (4, 18)
_SINCE = {
    (5, 0): "no UDP_GRO: packets are received one by one",
    (6, 2): "no UDP super-frames (USO) through TAP devices and packet sockets",
}
_OF_KIND = {"xdp": (5, 9), "tap": (6, 17)}
_FDS_OF_PROCESS = 64
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_UDP_SEGMENT, _UDP_GRO = 103, 104  # linux/udp.h
_TSO, _USO = 0x0F, 0x6F  # TUN_F_CSUM and what needs it, linux/if_tun.h
_GOOD_CLOCKS = {"tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page", "riscv_clocksource"}
_SLOW_NS = 500
_N_READS = 1000
_TIMEX_LEN, _STATUS_AT, _STA_UNSYNC, _TIME_ERROR = 208, 40, 0x0040, 5  # sys/timex.h, 64 bits


def kernel(subject: Subject) -> Iterator[Finding]:
    """Its version, against what is used."""
    release = os.uname().release
    version = tuple(int(word) for word in release.split("-")[0].split(".")[:2] if word.isdecimal())
    needed = max([_OLDEST, *(_OF_KIND[kind] for kind in _kinds(subject) if kind in _OF_KIND)])
    if version < needed:
        text = f"Linux {release}; the settings need {needed[0]}.{needed[1]}"
        yield Finding("kernel", WRONG, text, "install a newer kernel, or use ports of another kind")
        return
    missing = [text for since, text in _SINCE.items() if version < since]
    todo = "nothing, if it is quick enough; otherwise a newer kernel"
    state = WARNING if missing else OK
    yield Finding("kernel", state, "; ".join([f"Linux {release}", *missing]), todo if missing else "")


def _kinds(subject: Subject) -> set[str]:
    """The kinds of ports that the settings need; "tap" is the underlay's."""
    overlays = {port.kind for segment in subject.segments for port in segment.overlays}
    return {subject.underlay.kind, *(overlays - {"tap"})}


def capabilities(subject: Subject) -> Iterator[Finding]:
    """Whether this user may open what a VTEP needs."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if "CapEff" in line)
    has = int(line.split()[1], 16)
    needed = {"CAP_NET_ADMIN": _NET_ADMIN}
    if _kinds(subject) & {"packet", "xdp"}:
        needed["CAP_NET_RAW"] = _NET_RAW
    if "xdp" in _kinds(subject) and not has >> _SYS_ADMIN & 1:
        needed["CAP_BPF"] = _BPF
    missing = [name for name, number in needed.items() if not has >> number & 1]
    if missing:
        todo = "run it as root, or by the unit of docs/systemd.md, which gives it just these"
        yield Finding("permissions", WRONG, f"this user lacks {' and '.join(missing)}", todo)
    else:
        yield Finding("permissions", OK, f"this user has {' and '.join(needed)}")


def tun(subject: Subject) -> Iterator[Finding]:
    """The node by which TAP devices are made, if there are to be any."""
    if subject.segments and all(
        port.kind != "tap" for segment in subject.segments for port in segment.overlays
    ):
        return
    try:
        os.close(os.open(_TUN, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError:
        todo = f"run it as root, or `chmod 666 {_TUN}` as udev does: who may make devices is a capability"
        yield Finding("tun", WRONG, f"{_TUN} cannot be opened by this user", todo)
    except OSError as error:
        todo = "`modprobe tun`; in a container, give it the device"
        yield Finding("tun", WRONG, f"{_TUN}: {os.strerror(error.errno or errno.EIO)}", todo)
    else:
        yield Finding("tun", OK, f"{_TUN} can be opened")


def devices(subject: Subject) -> Iterator[Finding]:
    """Interfaces that must be there, and up."""
    ports = [(port, segment.vni) for segment in subject.segments for port in segment.overlays]
    wanted = {port.dev: f"VNI {vni}" for port, vni in ports if port.kind != "tap"}
    if subject.underlay.dev:
        wanted[subject.underlay.dev] = "the underlay"
    with IPRoute() as route:
        links = {link.get_attr("IFLA_IFNAME"): link for link in route.get_links()}
    for name, user in wanted.items():
        if name not in links:
            todo = "make it, or correct its name in the settings"
            yield Finding("device", WRONG, f"{name} of {user}: there is no such device", todo)
        elif links[name].get_attr("IFLA_OPERSTATE") in ("DOWN", "LOWERLAYERDOWN"):
            todo = f"`ip link set {name} up`, and see whether its other end is up"
            yield Finding("device", WRONG, f"{name} of {user} is down", todo)
        else:
            yield Finding("device", OK, f"{name} of {user} is there")


def offloads(subject: Subject) -> Iterator[Finding]:
    """What the kernel does for UDP sockets and TAP devices; probed, as a VTEP does."""
    found = {"UDP_SEGMENT": _udp_option(_UDP_SEGMENT), "UDP_GRO": _udp_option(_UDP_GRO), **_of_tap()}
    missing = [name for name, works in found.items() if not works]
    if missing:
        todo = "nothing: packets flow without, slower; a newer kernel has them"
        yield Finding("offloads", WARNING, f"refused by the kernel: {', '.join(missing)}", todo)
    elif found:
        yield Finding("offloads", OK, f"the kernel has {', '.join(found)}")


def _udp_option(option: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_UDP, option, 0)
        except OSError:
            return False
    return True


def _of_tap() -> dict[str, bool]:
    """Of a TAP device that lives as long as this call; nothing if none can be made."""
    try:
        fd = ports.open_tun(f"vxdoctor{os.getpid() % 10_000_000}", False)
    except Exception:  # the checks of permissions and of the node tell why
        return {}
    try:
        return {
            "TAP TSO": ports.set_offload([fd], "TAP", _TSO),
            "TAP USO": ports.set_offload([fd], "TAP", _USO),
        }
    finally:
        os.close(fd)


def files(subject: Subject) -> Iterator[Finding]:
    """Whether all sockets and queues find a descriptor."""
    n_lanes = subject.settings.lanes.count if subject.settings else 1
    of_underlay = len(subject.locals) * 2 * (n_lanes + subject.underlay.source_ports)
    needed = _FDS_OF_PROCESS + n_lanes * (len(subject.segments) + 4) + of_underlay
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if needed > limit:
        text = f"at most {limit} open files, and {needed} are needed"
        yield Finding("files", WRONG, text, f"`ulimit -n {2 * needed}`, or LimitNOFILE= in the unit")
    else:
        yield Finding("files", OK, f"{needed} of at most {limit} open files are needed")


def buffers(subject: Subject) -> Iterator[Finding]:
    """How large a receive buffer we get; it bounds the bursts that are not lost."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        ports.set_buffer(sock, _SO_RCVBUFFORCE, socket.SO_RCVBUF)
        got = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # the kernel doubles it
    wanted = ports.BUFFER_LEN
    if got < wanted:
        text = f"receive buffers are of {got >> 10} KiB in the place of {wanted >> 10}"
        todo = f"`sysctl -w net.core.rmem_max={wanted}`, or give it CAP_NET_ADMIN"
        yield Finding("buffers", WARNING, text, todo)
    else:
        yield Finding("buffers", OK, f"receive buffers are of {got >> 10} KiB")


def forwarding(subject: Subject) -> Iterator[Finding]:
    """This host routes for an underlay of kind "tap"."""
    if subject.underlay.kind != "tap":
        return
    names = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}
    for version in {local.version for local in subject.locals}:
        name = names[version]
        on = Path("/proc/sys", *name.split(".")).read_text().strip() == "1"
        text = f'{name} is {int(on)}, and an underlay of kind "tap" is routed by this host'
        yield Finding("forwarding", OK if on else WRONG, text, "" if on else f"`sysctl -w {name}=1`")


def clock(subject: Subject) -> Iterator[Finding]:
    """Quick to read, and right."""
    source = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    name = source.read_text().strip() if source.exists() else "unknown"
    started = time.monotonic_ns()
    for _ in range(_N_READS):
        now = time.monotonic_ns()
    each = (now - started) // _N_READS
    if now <= started or (each > _SLOW_NS and name not in _GOOD_CLOCKS):
        text = f"clock source {name}: reading it takes {each} ns, and lanes read it for every batch"
        todo = f"see {source.with_name('available_clocksource')} for a quicker one"
        yield Finding("clock", WARNING, text, todo)
    else:
        yield Finding("clock", OK, f"clock source {name}")
    if _is_synchronised() is False:
        text = "nothing keeps this host's time right: times in logs and capture files may be wrong"
        yield Finding("time", WARNING, text, "run chrony, systemd-timesyncd or another NTP client")
    else:
        yield Finding("time", OK, "the kernel's clock is kept right")


def _is_synchronised() -> bool | None:
    """What NTP's client has told the kernel (adjtimex(2)); None if it cannot be asked."""
    timex = ctypes.create_string_buffer(_TIMEX_LEN)
    state = ctypes.CDLL(None).adjtimex(timex)
    if state < 0:
        return None
    (status,) = struct.unpack_from("i", timex, _STATUS_AT)
    return state != _TIME_ERROR and not status & _STA_UNSYNC


CHECKS: tuple[Check, ...] = (
    kernel, capabilities, tun, devices, offloads, files, buffers, forwarding, clock
)  # fmt: skip
