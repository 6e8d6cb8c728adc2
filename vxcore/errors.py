"""The exceptions that vxcore raises.

Place in the house: known by everyone, knows nobody. An exception means that a call failed; a bad
packet never raises, it gets a verdict (see verdict.py). A failed system call raises OSError with
the device or port in its message.
"""

from __future__ import annotations


class VxcoreError(Exception):
    """Base of what vxcore raises itself."""


class ConfigError(VxcoreError, ValueError):
    """A setting is wrong; the message names what, where, and what would be right."""


class TableFullError(VxcoreError):
    """A table has reached its limit; nothing of the call was applied."""


class UnsupportedError(VxcoreError):
    """This build, kernel or machine lacks a feature; the message names both."""


class CaptureError(VxcoreError, ValueError):
    """A file is no capture, or not one that can be read; the message says where it goes wrong."""


class MissingExtraError(VxcoreError, ImportError):
    """An optional package is missing; the message names the extra that brings it."""
