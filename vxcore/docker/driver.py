"""What each request of Docker's does: networks become segments, endpoints become devices of containers.

Place in the house: in docker, above networks and devices, below server. One request at a time; each is done
whole, or undone. Docker repeats what it got no answer to, so what was done before is done again without harm.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import msgspec
from msgspec import structs

from vxcore import config
from vxcore.addresses import MacAddress, VniRange, parse_unicast
from vxcore.config import Settings
from vxcore.docker import devices, protocol
from vxcore.docker.networks import Book, Endpoint, Network, checked_mac, device_of, mac_for, read_options
from vxcore.docker.protocol import Asked, CreateEndpoint, CreateNetwork, Join, Nothing, OfEndpoint, OfNetwork
from vxcore.errors import ConfigError, VxcoreError
from vxcore.told import Endpoint as Station
from vxcore.vtep import Vtep

log = logging.getLogger("vxcore")

Told = dict[str, Any]


class Driver:
    """Docker's networks on a VTEP that runs. Its networks are there when it is made.

    One that cannot be is told of in the log, and the others do not suffer. `changed` is called when
    ``stations`` says something else. Raises VxcoreError for a state
    file that is none, OSError when it cannot be written. Methods may be called from any thread, `beside` in a
    call that is `alone`.
    """

    def __init__(self, vtep: Vtep, settings: config.Docker, changed: Callable[[], None]) -> None:
        self._vtep, self._settings, self._changed = vtep, settings, changed
        self._lock = threading.RLock()
        self._book = Book(settings.state)
        self._multi_queue = vtep.settings.lanes.count > 1
        self._restore()

    def _restore(self) -> None:
        """Have the segments of all networks again, and nothing of those that are gone."""
        networks = self._book.networks
        for name in devices.left_behind(set(networks)):
            log.warning("docker: %s is of a network that is not known, and deleted", name)
            devices.delete(name)
        for network in networks.values():
            for endpoint in list(network.endpoints.values()):
                if endpoint.sandbox and not endpoint.is_in_a_container:
                    del network.endpoints[endpoint.id]
            try:
                self._open(network)
            except (VxcoreError, OSError) as error:
                log.error("docker: network %s carries nothing: %s", network.short_id, _reason(error))
        if networks:
            self._book.save()
            log.info("docker: %d networks are back, from %s", len(networks), self._settings.state)

    def stations(self) -> list[Station]:
        """The containers, for those who tell other hosts of them."""
        vtep = self._vtep.locals[0]
        with self._lock:
            return [
                Station(
                    vni=network.vni,
                    mac=MacAddress(endpoint.mac),
                    vtep=vtep,
                    addresses=tuple(map(parse_unicast, endpoint.addresses)),
                )
                for network in self._book.networks.values()
                for endpoint in network.endpoints.values()
                if endpoint.sandbox
            ]

    def alone(self, call: Callable[[], None]) -> Callable[[], None]:
        """The call, while no request of Docker's is done."""

        def without_others() -> None:
            with self._lock:
                call()

        return without_others

    def beside(self, settings: Settings) -> Settings:
        """Settings that were read again, with the segments of the networks, which stay.

        Raises ConfigError when a segment there has the VNI of a network.
        """
        taps = {network.vni: network.tap for network in self._book.networks.values()}
        listed = {segment.vni for segment in settings.segments}
        for segment in settings.segments:
            if taps.get(segment.vni, segment.tap) != segment.tap:
                raise ConfigError(
                    f"segment: VNI {segment.vni} is that of a network of Docker's; choose another"
                )
        ours = [each for each in self._vtep.settings.segments if each.vni in taps.keys() - listed]
        together = structs.replace(settings, segments=(*settings.segments, *ours))
        config.check(together)
        return together

    def answer(self, method: str, body: bytes) -> Told:
        """Do what a request asks for.

        `method` is one of METHODS. Raises msgspec.DecodeError for a body that is none of it, and what the
        VTEP and the system raise.
        """
        takes, handler = METHODS[method]
        asked = msgspec.json.decode(body or b"{}", type=takes)
        with self._lock:
            return handler(self, asked)

    # Networks

    def create_network(self, asked: CreateNetwork) -> Told:
        """A TAP and a segment, or neither."""
        known = self._book.networks.get(asked.network_id)
        network = self._planned(asked, known)
        if known is not None:
            if structs.replace(known, endpoints={}) == network:
                return {}
            raise ConfigError(f"network {network.short_id}: it is there, with other options")
        with ExitStack() as undo:
            self._open(network, undo)
            self._book.networks[network.id] = network
            undo.callback(self._book.networks.pop, network.id)
            self._book.save()
            undo.pop_all()
        log.info("docker: network %s: VNI %d, peers %s", network.short_id, network.vni, _listed(network))
        return {}

    def _planned(self, asked: CreateNetwork, known: Network | None) -> Network:
        options = read_options(asked.given)
        peers = self._settings.peers if options.peers is None else options.peers
        vni = options.vni
        if vni is None:
            vni = known.vni if known else self._free_vni()
        for other in self._book.networks.values():
            if other.vni == vni and other.id != asked.network_id:
                raise ConfigError(f"vxcore.vni: {vni} is the VNI of network {other.short_id}; choose another")
        return Network(
            id=asked.network_id,
            vni=vni,
            mtu=options.mtu,
            peers=tuple(str(peer) for peer in dict.fromkeys(peers) if peer not in self._vtep.locals),
            internal=asked.internal,
        )

    def _free_vni(self) -> int:
        taken = {segment.vni for segment in self._vtep.settings.segments}
        taken |= {network.vni for network in self._book.networks.values()}  # one may carry nothing now
        low, high = VniRange(self._settings.vnis).ends
        for vni in range(low, high + 1):
            if vni not in taken:
                return vni
        raise ConfigError(f"no VNI of {self._settings.vnis} is free; give vxcore.vni, or more in docker.vnis")

    def _open(self, network: Network, undo: ExitStack | None = None) -> None:
        """Have TAP and segment, which may be there already: settings that were saved have it, too."""
        undo = undo or ExitStack()
        taken = {segment.vni: segment for segment in self._vtep.settings.segments}.get(network.vni)
        if taken is not None and taken.tap != network.tap:
            raise ConfigError(f"vxcore.vni: {network.vni} is the VNI of a [[segment]]; choose another")
        devices.make_tap(network.tap, network.id, multi_queue=self._multi_queue)
        undo.callback(devices.delete_tap, network.tap, network.id)
        if taken is None:
            self._vtep.add_segment(**network.segment)
            undo.callback(self._vtep.remove_segment, network.vni)

    def delete_network(self, asked: OfNetwork) -> Told:
        """Of one that is not there nothing is left to delete."""
        network = self._book.networks.get(asked.network_id)
        if network is None:
            return {}
        if any(segment.tap == network.tap for segment in self._vtep.settings.segments):
            self._vtep.remove_segment(network.vni)
        devices.delete_tap(network.tap, network.id)
        del self._book.networks[network.id]
        try:
            self._book.save()
        except OSError:  # it is asked for again
            self._book.networks[network.id] = network
            raise
        log.info("docker: network %s is gone", network.short_id)
        return {}

    # Endpoints

    def create_endpoint(self, asked: CreateEndpoint) -> Told:
        """A MAC address; the device comes when a container joins.

        An endpoint that is in no container gives way: Docker may have deleted it while vxcore did not run.
        """
        network = self._book.require(asked.network_id)
        wanted = asked.interface or protocol.Interface()
        mac = checked_mac(wanted.mac_address) if wanted.mac_address else ""
        chosen = "" if mac else mac_for(wanted.address, asked.endpoint_id)
        endpoint = Endpoint(id=asked.endpoint_id, mac=mac or chosen, addresses=wanted.addresses)
        for other in list(network.endpoints.values()):
            if other.mac != endpoint.mac or other.id == endpoint.id:
                continue
            if other.is_in_a_container:
                raise ConfigError(f"{endpoint.mac} is the MAC address of endpoint {other.id[:12]}")
            del network.endpoints[other.id]
        self._keep(network, endpoint)
        return protocol.endpoint_created(chosen)

    def _keep(self, network: Network, endpoint: Endpoint) -> None:
        before = network.endpoints.get(endpoint.id)
        network.endpoints[endpoint.id] = endpoint
        try:
            self._book.save()
        except OSError:
            if before is None:
                del network.endpoints[endpoint.id]
            else:
                network.endpoints[endpoint.id] = before
            raise
        self._changed()

    def delete_endpoint(self, asked: OfEndpoint) -> Told:
        """With its device, which Docker has put back; one that is not known may have one, too."""
        devices.delete(device_of(asked.endpoint_id))
        network = self._book.networks.get(asked.network_id)
        endpoint = network.endpoints.pop(asked.endpoint_id, None) if network else None
        if network and endpoint:
            try:
                self._book.save()
            except OSError:  # it is asked for again
                network.endpoints[endpoint.id] = endpoint
                raise
            self._changed()
        return {}

    def endpoint_info(self, asked: OfEndpoint) -> Told:
        """What is worth knowing of an endpoint."""
        network = self._book.require(asked.network_id)
        endpoint = network.require(asked.endpoint_id)
        value = {"vxcore.vni": network.vni, "vxcore.tap": network.tap, "vxcore.mac": endpoint.mac}
        return {"Value": value | {"vxcore.peers": list(network.peers)}}

    def join(self, asked: Join) -> Told:
        """A device for the container."""
        network = self._book.require(asked.network_id)
        endpoint = network.require(asked.endpoint_id)
        device = device_of(endpoint.id)
        devices.make_end(device, network.tap, endpoint.mac)
        try:
            self._keep(network, structs.replace(endpoint, sandbox=asked.sandbox_key))
        except OSError:
            devices.delete(device)
            raise
        return protocol.joined(device, way_out=not network.internal)

    def leave(self, asked: OfEndpoint) -> Told:
        """Its device is Docker's to take out of the container, and goes with the endpoint."""
        network = self._book.networks.get(asked.network_id)
        endpoint = network.endpoints.get(asked.endpoint_id) if network else None
        if network and endpoint:
            self._keep(network, structs.replace(endpoint, sandbox=""))
        return {}


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _listed(network: Network) -> str:
    return ", ".join(network.peers) or "none"


def _says(told: Callable[[], Told]) -> Callable[[Driver, Nothing], Told]:
    return lambda driver, asked: told()


# Where a driver has nothing to do: hosts that swarm finds, for peers are given; the way out, which is
# Docker's own; and what a swarm's manager asks for, which networks of one host are not.
_IDLE = ("DiscoverNew", "DiscoverDelete", "ProgramExternalConnectivity", "RevokeExternalConnectivity")
_OF_MANAGERS = ("FreeNetwork",)

METHODS: dict[str, tuple[type[Asked], Callable[[Driver, Any], Told]]] = {
    "Plugin.Activate": (Nothing, _says(protocol.activated)),
    "NetworkDriver.GetCapabilities": (Nothing, _says(protocol.capabilities)),
    "NetworkDriver.CreateNetwork": (CreateNetwork, Driver.create_network),
    "NetworkDriver.DeleteNetwork": (OfNetwork, Driver.delete_network),
    "NetworkDriver.CreateEndpoint": (CreateEndpoint, Driver.create_endpoint),
    "NetworkDriver.DeleteEndpoint": (OfEndpoint, Driver.delete_endpoint),
    "NetworkDriver.EndpointOperInfo": (OfEndpoint, Driver.endpoint_info),
    "NetworkDriver.Join": (Join, Driver.join),
    "NetworkDriver.Leave": (OfEndpoint, Driver.leave),
    "NetworkDriver.AllocateNetwork": (Nothing, _says(lambda: {"Options": {}})),
    **{f"NetworkDriver.{name}": (Nothing, _says(dict)) for name in _IDLE + _OF_MANAGERS},
}
