"""Settings as the text of a TOML file, which `config.load` reads back to the same settings.

Place in the house: above config. What has its default is left out.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import tomli_w
from msgspec import Struct, structs

from vxcore.config import Settings

_HEAD = "# The running state of a VTEP, by `vxcore save`.\n"
_WIDTH = 100
_ARRAY = re.compile(r"^(\S+ = )\[\n((?:    .*,\n)+)\]$", re.MULTILINE)
_fields = cache(structs.fields)  # of a class; reading its annotations takes longer than all else


def dumps(settings: Settings) -> str:
    """All of a file: a table for each of the settings', and one for each segment, remote and collector."""
    texts = [_HEAD]
    if not settings.segments and not settings.collects:
        texts.append("segment = []\n")  # without it, a file must have one
    for field in _fields(type(settings)):
        value = getattr(settings, field.name)
        name = field.encode_name
        if isinstance(value, Struct):
            table = plain(value)
            if table or field.default is None:  # one that may be missing says something by being there
                texts.append(_text({name: table}))
        else:
            texts += [_element(name, row) for row in value or ()]
    return "\n".join(texts)


def plain(value: Any) -> Any:
    """A setting as TOML and JSON have it; of a table, what differs from the defaults."""
    if isinstance(value, Struct):
        return {
            field.encode_name: plain(getattr(value, field.name))
            for field in _fields(type(value))
            if field.required or getattr(value, field.name) != field.default
        }
    if isinstance(value, (tuple, list)):
        return [plain(each) for each in value]
    if isinstance(value, (bool, type(None))):
        return value
    return int(value) if isinstance(value, int) else str(value)


def _element(name: str, row: Struct) -> str:
    """One of several tables of a name: ``[[segment]]``."""
    head, _, rest = _text({name: plain(row)}).partition("\n")
    return f"[{head}]\n{rest}"


def _text(table: dict[str, Any]) -> str:
    """As somebody would write it: an array on one line, if it fits."""

    def array(found: re.Match[str]) -> str:
        line = f"{found[1]}[{', '.join(each.strip().removesuffix(',') for each in found[2].splitlines())}]"
        return line if len(line) <= _WIDTH else found[0]

    return _ARRAY.sub(array, tomli_w.dumps(table))
