"""Containers of two hosts: by vxcore's network driver, by Docker's own overlay, and by a bridge with vxlan.

Place in the house: suite `containers` of `vxcore bench`, as root, with real Docker on both hosts
(container_networks.py). What is compared takes turns; of transfers every byte is compared first. Much of the
work is done by Docker's daemons, whose processes are nobody's children, so others are looked for between
turns.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import pytest
from support.docker import Docker
from support.hosts import Host

from benchmarks import peers
from benchmarks.container_networks import NETWORKS, Network, things, two_hosts
from benchmarks.datapath.load import echo_server, round_trips
from benchmarks.datapath.tcp import serve
from benchmarks.machine import look
from benchmarks.measuring import Case
from benchmarks.peers import AbsentError

SET_UPS = 5
ROUNDS, QUICK_ROUNDS = 10, 1
TCP_S, QUICK_TCP_S = 2, 1
TRIPS, QUICK_TRIPS, TRIPS_S = 5_000, 1_000, 2.0
N_BYTES = 4 << 20


@pytest.mark.benchmark(group="from Docker to containers of two hosts that reach each other")
def test_set_up(benchmark: Any, case: Case) -> None:
    """Each on hosts of its own, where it is set up and deleted again and again."""
    with ExitStack() as undo:
        networks = [kind(undo.enter_context(two_hosts("wire"))[1]) for kind in NETWORKS]
        before = {network.name: things(network.dockers[0]) for network in networks}
        times: dict[str, list[float]] = {network.name: [] for network in networks}

        def turn() -> None:
            case.foreign_between.append(look())
            for network in list(networks):
                with case.may_lack(network.name):
                    times[network.name].append(set_up(network))
                    network.down()
                    continue
                networks.remove(network)

        warm_up, rounds = (0, QUICK_ROUNDS) if case.quick else (1, SET_UPS)
        benchmark.pedantic(turn, rounds=rounds, warmup_rounds=warm_up)
        for network in networks:
            found = left(network.dockers[0], before[network.name])
            case.add(network.name, times[network.name][warm_up:], "s", "an answer to a ping", **found)


def set_up(network: Network) -> float:
    """Seconds until its containers reach each other."""
    started = time.perf_counter()
    network.up()
    network.run()
    return time.perf_counter() - started


def left(docker: Docker, before: dict[str, set[str]]) -> dict[str, float]:
    """How much more there is of each kind than before."""
    return {f"left_{kind}": float(len(now - before[kind])) for kind, now in things(docker).items()}


# Traffic


class Path(NamedTuple):
    """From a container of one host to one of the other, and the latter's address."""

    one: Host
    other: Host
    address: str


@pytest.fixture(scope="module")
def paths(request: pytest.FixtureRequest) -> Iterator[dict[str, Path | AbsentError]]:
    """All networks on the same two hosts, each with a path whose bytes were compared, or why it has none."""
    with two_hosts(request.param) as (stage, dockers):
        networks = [kind(dockers) for kind in NETWORKS]
        made: dict[str, Path | AbsentError] = {}
        for network in networks:
            try:
                set_up(network)
            except AbsentError as error:
                made[network.name] = error
                continue
            one, other = network.inside()
            stage.hosts += [one, other]
            path = made[network.name] = Path(one, other, network.address(dockers[1]))
            one.transfer(other, path.address, "tcp", N_BYTES)
        yield made


@pytest.mark.benchmark(group="TCP between containers of two hosts")
@pytest.mark.parametrize(
    ("paths", "n_flows"),
    [("offload", 1), ("wire", 1), ("wire", 8)],
    indirect=["paths"],
    ids=["offload/1", "wire/1", "wire/8"],
)
def test_tcp(benchmark: Any, case: Case, paths: dict[str, Path | AbsentError], n_flows: int) -> None:
    peers.program("iperf3")
    seconds = QUICK_TCP_S if case.quick else TCP_S
    taken = in_turns(benchmark, case, paths, lambda path: tcp(path, n_flows, seconds))
    for who, values in taken.items():
        case.add(who, values, "Gb/s", f"{N_BYTES} bytes alike", better="higher")


@pytest.mark.benchmark(group="round trips between containers of two hosts")
@pytest.mark.parametrize("paths", ["wire"], indirect=True)
def test_round_trip(benchmark: Any, case: Case, paths: dict[str, Path | AbsentError]) -> None:
    n_trips = QUICK_TRIPS if case.quick else TRIPS
    taken = in_turns(benchmark, case, paths, lambda path: round_trip(path, n_trips))
    for who, values in taken.items():
        case.add(who, values, "us", "each answer's bytes")


def in_turns(
    benchmark: Any, case: Case, paths: dict[str, Path | AbsentError], measure: Callable[[Path], float]
) -> dict[str, list[float]]:
    """Values of each path, one after the other in each round, forwards and backwards."""
    there: dict[str, Path] = {}
    for who, path in paths.items():
        with case.may_lack(who):
            if isinstance(path, AbsentError):
                raise path
            there[who] = path
    taken: dict[str, list[float]] = {who: [] for who in there}
    names = list(there)

    def turn() -> None:
        case.foreign_between.append(look())
        for who in names:
            taken[who].append(measure(there[who]))
        names.reverse()

    warm_up, rounds = (0, QUICK_ROUNDS) if case.quick else (1, ROUNDS)
    benchmark.pedantic(turn, rounds=rounds, warmup_rounds=warm_up)
    return {who: values[warm_up:] for who, values in taken.items()}


def tcp(path: Path, n_flows: int, seconds: int) -> float:
    """Gigabits a second, as received."""
    server = serve(path.other, path.address)
    words = ("-J", "-P", str(n_flows), "-t", str(seconds))
    done = path.one.run("iperf3", "-c", path.address, *words)
    server.communicate(timeout=15)
    return float(json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]) / 1e9


def round_trip(path: Path, n_trips: int) -> float:
    """The median in microseconds, of datagrams one after the other."""
    with echo_server(path.other, path.address) as port:
        times = round_trips(path.one, (path.address, port), n_trips, TRIPS_S)
    return float(np.median(times[times > 0])) / 1000
