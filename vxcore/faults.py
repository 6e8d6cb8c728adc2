"""All that is wrong with a settings file, for `vxcore check`.

Place in the house: above config, below cli. Settings are loaded up to the first mistake; here each value
is held against its type by itself, so that one mistake does not hide the others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
from msgspec import Struct

from vxcore import config
from vxcore.config import Segment, Settings
from vxcore.errors import ConfigError
from vxcore.problem import Problem, from_msgspec, missing_key, unknown_key
from vxcore.toml_lines import Path, key_lines, line_of

_NO_LINE = 1 << 30


def faults(path: str | os.PathLike[str]) -> list[str]:
    """What is wrong with a TOML file, in the order of its lines; empty when ``config.load`` would take it.

    Each is ``FILE:LINE: KEY: what is wrong; what is allowed``. A file that cannot be read, or is no TOML,
    has one fault.
    """
    name = os.fspath(path)
    try:
        text = config.read(name)
        data = config.parse(name, text)
    except ConfigError as error:
        return [str(error)]
    lines = key_lines(text)
    problems = sorted(_problems(data), key=lambda problem: line_of(lines, problem.path) or _NO_LINE)
    return [config.explain_in_file(problem, data, name, text) for problem in problems]


def _problems(data: dict[str, Any]) -> list[Problem]:
    given = config.local_as_list(data)
    kind = config.kind_of(data)
    wrong = list(_of(given, kind, ()))
    if not wrong:
        settings = config.fit_source_ports(msgspec.convert(given, kind, dec_hook=config.decode), data)
        return list(config.contradictions(settings))
    return wrong + [
        each for each in config.contradictions(_what_is_right(given, wrong)) if _counts(each, wrong)
    ]


def _counts(problem: Problem, wrong: list[Problem]) -> bool:
    """Whether a contradiction may not come of what else is wrong."""
    tables = {each.path[0] for each in wrong}
    return problem.path[0] not in tables - {"segment"} and problem.path != ("underlay", "local")


# Each value by itself


def _of(value: Any, kind: Any, path: Path) -> Iterator[Problem]:
    for choice in _choices(kind):
        if isinstance(choice, type) and issubclass(choice, Struct) and isinstance(value, dict):
            yield from _of_table(value, choice, path)
            return
        if get_args(choice)[1:] == (Ellipsis,) and isinstance(value, list) and value:
            for index, item in enumerate(value):
                yield from _of(item, get_args(choice)[0], (*path, index))
            return
    try:
        msgspec.convert(value, kind, dec_hook=config.decode)
    except msgspec.ValidationError as error:
        problem = from_msgspec(error, kind)
        yield problem._replace(path=(*path, *problem.path))


def _choices(kind: Any) -> list[Any]:
    """The types that a value may have, without what limits them."""
    if get_origin(kind) is Annotated:
        return _choices(get_args(kind)[0])
    if isinstance(kind, UnionType) or get_origin(kind) is Union:
        return [choice for each in get_args(kind) for choice in _choices(each)]
    return [kind]


def _of_table(table: dict[str, Any], kind: type[Struct], path: Path) -> Iterator[Problem]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for key, value in table.items():
        if key in fields:
            yield from _of(value, fields[key].type, (*path, key))
        else:
            yield unknown_key(path, key, list(fields))
    for key, field in fields.items():
        if field.required and key not in table:
            yield missing_key((*path, key), field.type)


# Contradictions among what is right


def _what_is_right(data: dict[str, Any], wrong: list[Problem]) -> Settings:
    """Settings from the tables and segments with no mistake; in the place of others, what says nothing."""
    bad = {problem.path[:2] if problem.path[0] == "segment" else problem.path[:1] for problem in wrong}
    given = data.get("segment", [])
    rows = given if isinstance(given, list) and ("segment",) not in bad else []
    segments = [_nothing(n) if ("segment", n) in bad else _converted(row) for n, row in enumerate(rows)]
    tables = {name: table for name, table in data.items() if (name,) not in bad and name != "segment"}
    settings = msgspec.convert({**tables, "segment": []}, config.Bare, dec_hook=config.decode)
    return msgspec.structs.replace(config.fit_source_ports(settings, tables), segments=tuple(segments))


def _converted(row: Any) -> Segment:
    return msgspec.convert(row, Segment, dec_hook=config.decode)


def _nothing(index: int) -> Segment:
    """A segment that agrees with every other: no file can have its VNI and its TAP's name."""
    return Segment(vni=-1 - index, tap=f"/{index}")
