"""vxcore: a userspace VXLAN engine.

Place in the house: the public names. They load when first used (PEP 562), so that a command that
needs none of them starts at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vxcore._version import __version__

if TYPE_CHECKING:
    from vxcore._fast.batch import PacketBatch
    from vxcore._fast.codec import Rules, Tunnel, TunnelSet, decap, decap_frame, encap, encap_frame
    from vxcore._fast.flow import complete_checksum, flow_hash
    from vxcore._fast.vlan import VlanMap
    from vxcore.capture import read_pcap
    from vxcore.errors import CaptureError, ConfigError, TableFullError, UnsupportedError, VxcoreError
    from vxcore.verdict import Verdict
    from vxcore.vtep import Vtep
    from vxcore.wire import Layer

_HOME = {
    "PacketBatch": "vxcore._fast.batch",
    "Rules": "vxcore._fast.codec",
    "Tunnel": "vxcore._fast.codec",
    "TunnelSet": "vxcore._fast.codec",
    "decap": "vxcore._fast.codec",
    "decap_frame": "vxcore._fast.codec",
    "encap": "vxcore._fast.codec",
    "encap_frame": "vxcore._fast.codec",
    "complete_checksum": "vxcore._fast.flow",
    "Layer": "vxcore.wire",
    "flow_hash": "vxcore._fast.flow",
    "VlanMap": "vxcore._fast.vlan",
    "read_pcap": "vxcore.capture",
    "Vtep": "vxcore.vtep",
    "CaptureError": "vxcore.errors",
    "ConfigError": "vxcore.errors",
    "TableFullError": "vxcore.errors",
    "UnsupportedError": "vxcore.errors",
    "VxcoreError": "vxcore.errors",
    "Verdict": "vxcore.verdict",
}

__all__ = [
    "CaptureError",
    "ConfigError",
    "Layer",
    "PacketBatch",
    "Rules",
    "TableFullError",
    "Tunnel",
    "TunnelSet",
    "UnsupportedError",
    "Verdict",
    "VlanMap",
    "Vtep",
    "VxcoreError",
    "__version__",
    "complete_checksum",
    "decap",
    "decap_frame",
    "encap",
    "encap_frame",
    "flow_hash",
    "read_pcap",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vxcore' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
