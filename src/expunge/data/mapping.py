"""`--map`: which field of a file is which of ours, fields inside others included.

A path is a name, or names joined by dots. `[]` stands for every item of a list (or every value of an object) and
makes each of them a row; `[0]` is one item. `+` puts texts under each other. A field whose own name looks like a path
is taken by its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any

from expunge.errors import DataError, UsageError, did_you_mean

Located = tuple[str, Mapping[str, Any]]
"""Where a row stands ("data.jsonl, line 3") and its fields as they are in the file."""

STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
MISSING = object()
DEEPEST = 6
"""Levels at which a message looks for fields."""
MANY = 8
"""So many objects in an object are items with names, not fields; and so many rows show what fields there are."""
LISTED_NAMES = 30
"""Fields that a message lists."""


def parse_map(text: str, fields: Sequence[str]) -> dict[str, str]:
    """`question=q,answer=a` as `{"question": "q", "answer": "a"}`: our name, then the file's.

    Raises:
        UsageError: anything else, a name of ours that is not among `fields`, and one given twice.
    """
    mapping: dict[str, str] = {}
    for part in text.split(","):
        ours, equals, theirs = (piece.strip() for piece in part.partition("="))
        if not (ours and equals and theirs):
            raise UsageError(
                f"--map {text!r} cannot be read at {part!r}.", "",
                "Write our name, '=', the file's name, with commas between: --map question=q,answer=a",
            )
        if ours not in fields:
            raise UsageError(f"--map: there is no field {ours!r}.", did_you_mean(ours, fields))
        if ours in mapping:
            raise UsageError(f"--map gives {ours!r} twice.")
        mapping[ours] = theirs
    return mapping


def apply(rows: Iterable[Located], mapping: Mapping[str, str]) -> Iterator[Located]:
    """The rows with every mapped field under our name.

    A row in which none of the mapped fields is found stays as it is, so that one --map can serve files of which only
    some have other names. Names of ours that are not mapped are left in place.

    Raises:
        UsageError: the paths go through different lists, so that it is not clear what a row is.
    """
    if not mapping:
        yield from rows
        return
    lists = {path: [part.strip(".") for part in path.split("[]")][:-1] for path in _paths(mapping)}
    deepest = max(lists.values(), key=len)
    apart = next((path for path, through in lists.items() if through != deepest[: len(through)]), None)
    if apart is not None:
        raise UsageError(f"--map: {apart!r} does not go through the same list as {'[].'.join(deepest)}[].",
                         "Every item of one list becomes a row.", "Give paths that begin alike.")
    used = {*mapping, *_paths(mapping), *_columns(mapping)}  # not read under their own names too
    for where, row in rows:
        for place, levels in _items(where, [row], deepest):
            found = {ours: value for ours, path in mapping.items()
                     if (value := _joined(levels, path)) is not MISSING}
            own = levels[-1] if isinstance(levels[-1], Mapping) else {}
            yield place, {k: v for k, v in own.items() if not found or k not in used} | found


def check_map(mapping: Mapping[str, str] | None, rows: Sequence[Located]) -> None:
    """Every path that --map speaks of must be found in some row, or it is a typo.

    Raises:
        DataError: one is not, with the names that are there.
    """
    for ours, theirs in (mapping or {}).items():
        for path in [theirs] if any(theirs in row for _, row in rows) else _paths({ours: theirs}):
            through = [part.strip(".") for part in path.split("[]")][:-1]
            if not any(_joined(levels, path) is not MISSING
                       for where, row in rows for _, levels in _items(where, [row], through)):
                known = dict.fromkeys(name for _, row in rows[:MANY] for name in (*map(str, row), *paths_in(row)))
                raise DataError(f"No row has the field {path!r}, which --map calls {ours!r}.",
                                did_you_mean(path, islice(known, LISTED_NAMES)))


def paths_in(value: Any, path: str = "", depth: int = DEEPEST) -> Iterator[str]:
    """The path of every text, number and list of texts inside a value; of a list its first item is looked at.

    The values of an object whose values are all objects are also seen as items of a list.
    """
    if isinstance(value, Mapping) and depth:
        values = list(value.values())
        alike = len(values) > 1 and all(isinstance(v, Mapping) for v in values)
        for name, inner in value.items() if not alike or len(values) < MANY else ():
            yield from paths_in(inner, f"{path}.{name}" if path else str(name), depth - 1)
        if alike:
            yield from paths_in(values[0], f"{path}[]", depth - 1)
    elif isinstance(value, list) and value:
        if isinstance(value[0], Mapping) and depth and path:
            yield path
            yield from paths_in(value[0], f"{path}[]", depth - 1)
        elif path:
            yield path
            if isinstance(value[0], str):
                yield f"{path}[0]"
    elif path:
        yield path


def _columns(mapping: Mapping[str, str]) -> Iterator[str]:
    """The field of a row that each path begins with."""
    for path in _paths(mapping):
        yield from (name for name, _ in STEP.findall(path.split("[]")[-1])[:1])


def _paths(mapping: Mapping[str, str]) -> Iterator[str]:
    for theirs in mapping.values():
        yield from (piece.strip() for piece in theirs.split("+"))


def _items(where: str, levels: list[Any], through: Sequence[str]) -> Iterator[tuple[str, list[Any]]]:
    """Every item that the lists lead to, with what it stands in: (place, [row, item of the first list, ...])."""
    if not through:
        yield where, levels
        return
    inner = _get(levels[-1], through[0])
    if not through[0] and isinstance(inner, Mapping) and not all(isinstance(v, Mapping) for v in inner.values()):
        yield from _items(where, [*levels, inner], through[1:])  # [] of a file that is a list: its rows are the items
        return
    if isinstance(inner, Mapping):
        named = [(f"{where}, {through[0]}.{name}", item) for name, item in inner.items()]
    elif isinstance(inner, list):
        named = [(f"{where}, {through[0]}[{n}]", item) for n, item in enumerate(inner)]
    else:  # this file has no such list: its rows are looked at as they are
        named = []
        if len(levels) == 1:
            yield where, levels
    for place, item in named:
        yield from _items(place, [*levels, item], through[1:])


def _joined(levels: Sequence[Any], path: str) -> Any:
    """The value that a path leads to, parts joined by +; MISSING where nothing is there."""
    row = levels[-1]
    if isinstance(row, Mapping) and path in row:
        return row[path]
    values = [_get(levels[depth], last) if depth < len(levels) else MISSING for depth, last in _pieces(path)]
    if len(values) == 1:
        return values[0]
    texts = [value for value in values if isinstance(value, str) and value]
    if any(value not in (MISSING, None, "") for value in values if not isinstance(value, str)):
        return values  # a field that takes a text refuses it
    return "\n".join(texts) if texts else MISSING


@cache
def _pieces(path: str) -> list[tuple[int, str]]:
    """Of every piece between + how many lists it goes through, and what is read in the item they lead to."""
    return [(piece.count("[]"), piece.split("[]")[-1].strip(". ")) for piece in path.split("+")]


def _get(value: Any, path: str) -> Any:
    """What a path without [] leads to; MISSING where nothing is there."""
    if not path:
        return value
    if isinstance(value, Mapping) and path in value:
        return value[path]
    for name, index in STEP.findall(path):
        if name and isinstance(value, Mapping) and name in value:
            value = value[name]
        elif index and isinstance(value, list) and int(index) < len(value):
            value = value[int(index)]
        else:
            return MISSING
    return value
