from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer, disjoint_base

from vxcore._fast.batch import PacketBatch
from vxcore.addresses import IPAddress
from vxcore.verdict import Verdict
from vxcore.wire import DecapRules, Decapsulated, TunnelSpec

@disjoint_base
class Tunnel:
    def __init__(
        self, *, local: IPAddress | str, remote: IPAddress | str, vni: int, **options: Any
    ) -> None: ...
    @property
    def spec(self) -> TunnelSpec: ...

@disjoint_base
class TunnelSet:
    def __init__(self, tunnels: Sequence[Tunnel]) -> None: ...
    def __len__(self) -> int: ...
    @property
    def count(self) -> int: ...

@disjoint_base
class Rules:
    def __init__(self, **options: Any) -> None: ...
    @property
    def spec(self) -> DecapRules: ...

def encap(
    batch: PacketBatch,
    tunnels: Tunnel | TunnelSet,
    index: NDArray[np.uint32] | None = None,
    layer: int | None = None,
) -> int: ...
def decap(batch: PacketBatch, rules: Rules | None = None, layer: int = 0) -> int: ...
def encap_frame(
    frame: Buffer, tunnel: Tunnel, layer: int | None = None, gbp: int = 0
) -> tuple[Verdict, bytes]: ...
def decap_frame(
    packet: Buffer, rules: Rules | None = None, layer: int = 0, outer_tos: int = 0
) -> Decapsulated: ...
def flags_of(spec: TunnelSpec) -> int: ...
def rule_flags_of(spec: DecapRules) -> int: ...
