"""Overlays: the overlay ports of running lanes, each in its place; and devices, which VLANs may share.

Place in the house: above the kinds of ports, below engine, which says when. A device is opened with the first
segment that names it and closed with the last. Its port has a place in the lanes' lists, and so has each VLAN
of it; the place is what a segment in the tables names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from vxcore._fast.lane import Lane
from vxcore._fast.port import UNCLAIMED, OverlayPort
from vxcore._fast.trunk import VlanPort
from vxcore.config import Port
from vxcore.errors import ConfigError
from vxcore.parts import Part
from vxcore.ports import OverlayDevice

Undo = Callable[[Callable[[], object]], object]
Key = tuple[str, str]


@dataclass(eq=False)
class Device:
    """An open device; `ports` are its ports of the lanes."""

    key: Key
    opened: OverlayDevice
    place: int
    ports: list[OverlayPort]
    users: list[Access] = field(default_factory=list)
    lanes: list[Lane] = field(default_factory=list)  # that have it
    watched: bool = False


@dataclass(eq=False)
class Access:
    """How a segment reaches its hosts: by a device, or (`vlan`) by one VLAN of it."""

    device: Device
    vlan: int | None
    place: int
    ports: list[VlanPort] = field(default_factory=list)
    segment: int = UNCLAIMED


def title(key: Key) -> str:
    """The name under which a device is handed over."""
    kind, dev = key
    return f"{kind} {dev}"


class Overlays:
    """The overlay ports of `n_lanes` lanes, in up to `n_places` places; `wait` waits for lanes.

    A port is reserved, which opens its device; attached, when its segment is in the tables: frames may go to
    it; begun, when lanes see the segment: frames come from it. It is released, and settled when that cannot
    be undone any more. What may fail takes an `undo`, which is called with each step's inverse.
    """

    def __init__(self, n_lanes: int, n_places: int, wait: Callable[[], None]) -> None:
        self._n_lanes, self._most, self._wait = n_lanes, n_places, wait
        self._devices: dict[Key, Device] = {}
        self._taken: set[int] = set()
        self._lanes: list[Lane] = []
        self._parted: list[OverlayPort] = []  # what lanes may still use for a moment

    def serve(self, lanes: list[Lane]) -> None:
        """Give ports to these lanes from now on."""
        self._lanes = lanes

    def close(self) -> None:
        """Close all devices; the lanes have ended."""
        while self._devices:
            self._devices.popitem()[1].opened.close()

    # Asking

    @property
    def devices(self) -> list[OverlayDevice]:
        """All that are open."""
        return [device.opened for device in self._devices.values()]

    @property
    def n_places(self) -> int:
        """One more than the highest that is taken."""
        return max(self._taken, default=0) + 1

    def places(self) -> dict[int, OverlayDevice]:
        """All that are open, by the places of their ports."""
        return {device.place: device.opened for device in self._devices.values()}

    def name_of(self, place: int) -> str | None:
        """The device of the port in a place."""
        for device in list(self._devices.values()):
            if place in (device.place, *(access.place for access in list(device.users))):
                return device.opened.name
        return None

    def find(self, port: Port) -> OverlayDevice | None:
        """The device of a port, if it is open."""
        device = self._devices.get((port.kind, port.dev))
        return device.opened if device else None

    # Handing over

    def parts(self) -> dict[str, Part]:
        """What another process goes on with, by the devices' titles."""
        parts = {title(device.key): device.opened.part() for device in self._devices.values()}
        return {name: part for name, part in parts.items() if part is not None}

    def rest(self) -> dict[str, list[bytes]]:
        """While the lanes stand: where each lane's port of each device is to go on."""
        return {
            title(device.key): [port.rest() for port in device.ports] for device in self._devices.values()
        }

    def resume(self, where: dict[str, list[bytes]]) -> None:
        """Go on there, before the lanes run."""
        for device in self._devices.values():
            for port, each in zip(device.ports, where[title(device.key)], strict=True):
                port.resume(each)

    def inherit(self) -> None:
        """All that was handed over is ours."""
        for device in self.devices:
            device.inherit()

    def accesses(self) -> dict[str, int]:
        """The place of each device and VLAN that a segment has, by a name that is the same elsewhere."""
        users = [access for device in self._devices.values() for access in device.users]
        return {f"{title(access.device.key)} {access.vlan or ''}": access.place for access in users}

    # Coming

    def reserve(self, port: Port, open_device: Callable[[], OverlayDevice], undo: ExitStack) -> Access:
        """A place for a port to be, on its device, which is opened if it is not.

        Raises ConfigError without a free place, and what opening raises.
        """
        key = port.kind, port.dev
        if key not in self._devices:
            self.add(key, open_device(), undo)
        device = self._devices[key]
        if port.vlan is None:
            return Access(device, None, device.place)
        place = self._free_place()
        undo.callback(self._taken.discard, place)
        return Access(device, port.vlan, place)

    def add(self, key: Key, opened: OverlayDevice, undo: ExitStack) -> Access:
        """A device that was opened, in a place of its own."""
        with ExitStack() as steps:
            steps.callback(opened.close)
            place = self._free_place()
            steps.callback(self._taken.discard, place)
            ports = [opened.port(lane, UNCLAIMED) for lane in range(self._n_lanes)]
            steps.pop_all()
        device = self._devices[key] = Device(key, opened, place, ports)
        undo.callback(self._close, [device])
        return Access(device, None, place)

    def _free_place(self) -> int:
        place = next((place for place in range(self._most) if place not in self._taken), None)
        if place is None:
            raise ConfigError(f"more than {self._most} overlay ports and VLANs; raise tables.segments")
        self._taken.add(place)
        return place

    def attach(self, access: Access, segment: int, undo: Undo) -> None:
        """Let frames go to a port, of the segment of that number. Raises OSError."""
        device = access.device
        for lane, port in zip(self._lanes, device.ports, strict=True):
            if lane not in device.lanes:
                lane.attach(device.place, port)
                device.lanes.append(lane)
        access.segment = segment
        device.users.append(access)
        undo(lambda: self._withdraw(access))
        if access.vlan is not None:
            access.ports = [VlanPort(port, access.vlan, segment) for port in device.ports]
            for lane, port in zip(self._lanes, access.ports, strict=True):
                lane.attach(access.place, port)

    def _withdraw(self, access: Access) -> None:
        """Undo ``attach``."""
        access.device.users.remove(access)
        if access.ports:
            self._parted += [lane.detach(access.place) for lane in self._lanes]

    def begin(self, accesses: Iterable[Access]) -> None:
        """Let frames come from ports, whose segments are published in the tables."""
        self._wait()
        for access in accesses:
            self._claim(access)
            device = access.device
            if not device.watched:
                for lane in self._lanes:
                    lane.watch(device.place)
                device.watched = True

    def _claim(self, access: Access) -> None:
        for n, port in enumerate(access.device.ports):
            if access.vlan is None:
                port.segment = access.segment
            else:
                port.set_vlan(access.vlan, access.ports[n])

    # Going

    def release(self, accesses: Sequence[Access], undo: Undo) -> None:
        """Let nothing come from these ports any more, nor go to them."""
        for access in accesses:
            self._release(access)
            undo(lambda access=access: self._take_back(access))  # type: ignore[misc]
        if accesses:
            self._wait()

    def _release(self, access: Access) -> None:
        access.device.users.remove(access)
        for port in access.device.ports:
            if access.vlan is None:
                port.segment = UNCLAIMED
            else:
                port.set_vlan(access.vlan, None)
        if access.ports:
            for lane in self._lanes:
                lane.detach(access.place)

    def _take_back(self, access: Access) -> None:
        access.device.users.append(access)
        if access.ports:
            for lane, port in zip(self._lanes, access.ports, strict=True):
                lane.attach(access.place, port)
        self._claim(access)

    def settle(self, released: Iterable[Access]) -> None:
        """Free the places of ports that were released, and close devices that nobody uses any more."""
        self._taken -= {access.place for access in released if access.ports}
        self._close([device for device in self._devices.values() if not device.users])

    def _close(self, devices: list[Device]) -> None:
        for device in devices:
            del self._devices[device.key]
            self._taken.discard(device.place)
            self._parted += [lane.detach(device.place) for lane in device.lanes]
        if devices:
            self.forget_parted()
        for device in devices:
            device.opened.close()

    def forget_parted(self) -> None:
        """Wait until no lane uses what was detached."""
        self._wait()
        self._parted.clear()
