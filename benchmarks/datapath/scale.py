"""How long and how often: the two sizes of a run, and what they are made of.

Place in the house: beside results, knows nobody.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Times are seconds of one sample."""

    rounds: int
    tcp_s: float
    transfer_bytes: int
    """Of the transfer that is compared byte for byte, which warms up too."""
    probe_s: float
    n_probes: int
    """How many offered rates are tried for the one at which most packets are forwarded."""
    pps_s: float
    n_round_trips: int
    latency_s: float


FULL = Scale(
    rounds=3,
    tcp_s=3.0,
    transfer_bytes=32 << 20,
    probe_s=0.3,
    n_probes=8,
    pps_s=1.0,
    n_round_trips=10_000,
    latency_s=3.0,
)
QUICK = Scale(
    rounds=1,
    tcp_s=1.0,
    transfer_bytes=4 << 20,
    probe_s=0.15,
    n_probes=5,
    pps_s=0.4,
    n_round_trips=4_000,
    latency_s=0.8,
)
