"""The traffic generator: plans of streams, what sends them, and what takes stock of what arrives.

Place in the house: the public names of the package, for programs; `vxcore gen` is a thin skin on them. Plan
and Checker know no sockets; sender and receiver open them.
"""

from __future__ import annotations

from vxcore._fast.checker import Checker, bucket_ends
from vxcore._fast.generator import Generator
from vxcore._fast.stamp import stamp_of
from vxcore.gen.plan import Plan, Rate
from vxcore.gen.receiver import Receiver
from vxcore.gen.report import Latency, Received, Sent, StreamRow, received
from vxcore.gen.sender import Sender

__all__ = [
    "Checker",
    "Generator",
    "Latency",
    "Plan",
    "Rate",
    "Received",
    "Receiver",
    "Sender",
    "Sent",
    "StreamRow",
    "bucket_ends",
    "received",
    "stamp_of",
]
