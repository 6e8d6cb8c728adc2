"""What is wrong with a setting, and what would be right: msgspec's complaints in our words.

Place in the house: used by config.py and faults.py, above addresses. msgspec checks data against a type and
says where it stopped, but in Python's words and without the value. Here its message becomes a
Problem, whose "what is allowed" is read from the same type, so no limit is written twice.
"""

from __future__ import annotations

import difflib
import json
import re
from typing import Any, NamedTuple, cast

import msgspec
from msgspec import inspect

from vxcore.addresses import AddressError
from vxcore.toml_lines import Path

NOT_ALLOWED = "{} is not allowed"
MISSING = "missing"

_MESSAGE = re.compile(r"(?P<text>.*?)(?: - at `\$(?P<path>[^`]*)`)?", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]")
_MISSING_FIELD = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_SHOWN_LEN = 60
_PLAIN_LEN = 200


class Problem(NamedTuple):
    """One thing that is wrong in a tree of settings."""

    path: Path
    wrong: str
    """What is wrong; ``{}`` stands for the value."""
    allowed: str


def from_msgspec(error: msgspec.ValidationError, kind: Any) -> Problem:
    """The Problem behind the exception that msgspec raised when it converted data to `kind`."""
    text, path = _split(str(error))
    if isinstance(error.__cause__, AddressError):
        return Problem(path, "{} " + error.__cause__.wrong, error.__cause__.allowed)
    if match := _UNKNOWN_FIELD.fullmatch(text):
        return unknown_key(path, match[1], _keys(_type_at(kind, path)))
    if match := _MISSING_FIELD.fullmatch(text):
        path = (*path, match[1])
        return Problem(path, MISSING, _describe(_type_at(kind, path)))
    return Problem(path, NOT_ALLOWED, _describe(_type_at(kind, path)))


def unknown_key(path: Path, key: str, known: list[str]) -> Problem:
    """A key that a table must not have; `known` are those it may."""
    return Problem((*path, key), "unknown key", nearest(key, known))


def missing_key(path: Path, kind: Any) -> Problem:
    """A key that a table must have, with the type of its value."""
    return Problem(path, MISSING, _describe(inspect.type_info(kind)))


def written(path: Path) -> str:
    """A path as a person writes it: ``segment[0].vni``."""
    steps = [f"[{step}]" if isinstance(step, int) else f".{_key(step)}" for step in path]
    return "".join(steps).removeprefix(".")


def found(data: Any, path: Path) -> tuple[Path, Any]:
    """How far `path` leads into `data`, and what stands there.

    Less far than asked where a single value was accepted in place of a list.
    """
    for depth, step in enumerate(path):
        if isinstance(data, str):
            return path[:depth], data
        data = cast("dict[Any, Any]", data)[step]
    return path, data


def shown(value: object) -> str:
    """A value as TOML would have it, on one line and not too long."""
    if isinstance(value, dict):
        return "a table"
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= _SHOWN_LEN else text[: _SHOWN_LEN - 3] + "..."


def plain(text: str) -> str:
    """What a stranger wrote, for people: on one line, not too long, and nothing that a terminal obeys."""
    line = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text[:_PLAIN_LEN])
    return line if len(text) <= _PLAIN_LEN else line + "..."


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else shown(key)


def _split(message: str) -> tuple[str, Path]:
    """msgspec's text, and its path (``$.segment[0].vni``) as a tuple."""
    match = _MESSAGE.fullmatch(message)
    assert match  # every part of the pattern may be empty
    steps = _STEP.findall(match["path"] or "")
    return match["text"], tuple(name or int(index) for name, index in steps)


def _type_at(kind: Any, path: Path) -> inspect.Type:
    """The part of `kind` that `path` leads to."""
    node = inspect.type_info(kind)
    for step in path:
        match _table(node):
            case inspect.StructType(fields=fields):
                node = next(field.type for field in fields if field.encode_name == step)
            case inspect.VarTupleType(item_type=item):
                node = item
            case inspect.TupleType(item_types=items):
                node = items[int(step)]
            case inspect.UnionType(types=types):
                node = _type_below(types, step)
    return node


def _type_below(types: tuple[inspect.Type, ...], step: str | int) -> inspect.Type:
    """Of several types that a value may have, what the one has inside that can be stepped into."""
    for node in types:
        match _bare(node):
            case inspect.StructType(fields=fields) if isinstance(step, str):
                return next(field.type for field in fields if field.encode_name == step)
            case inspect.VarTupleType(item_type=item) if isinstance(step, int):
                return item
    raise AssertionError(f"{step!r} leads into none of {types}")


def _bare(node: inspect.Type) -> inspect.Type:
    return node.type if isinstance(node, inspect.Metadata) else node


def _table(node: inspect.Type) -> inspect.Type:
    """Of a table that may be left out, the table."""
    node = _bare(node)
    options = node.types if isinstance(node, inspect.UnionType) else ()
    return next((_bare(t) for t in options if isinstance(_bare(t), inspect.StructType)), node)


def _keys(node: inspect.Type) -> list[str]:
    node = _table(node)
    return [field.encode_name for field in node.fields] if isinstance(node, inspect.StructType) else []


def _describe(node: inspect.Type) -> str:
    """What a type allows, in words: its own description or one made from its limits."""
    match node:
        case inspect.Metadata(extra_json_schema={"description": str(text)}):
            return text
        case inspect.Metadata(type=inner):
            return _describe(inner)
        case inspect.IntType(ge=low, le=high):
            return f"an integer from {low} to {high}"
        case inspect.BoolType():
            return "true or false"
        case inspect.LiteralType(values=values):
            return " or ".join(shown(value) for value in values)
        case inspect.UnionType(types=types):
            return " or ".join(_describe(t) for t in types if not isinstance(t, inspect.NoneType))
        case _:
            return f"a table with the keys {', '.join(_keys(node))}"


def nearest(name: str, known: list[str]) -> str:
    """What may have been meant, or what there is."""
    near: list[Any] = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
