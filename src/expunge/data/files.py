"""Rows from a user's JSONL, JSON, CSV or parquet file.

A row is `{question, answer}`, `{prompt, completion}`, `{messages}` (the last one from the
assistant) or `{text}`. Every complaint names the file and the line (or row, where lines mean
nothing), and says what the row does have.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from expunge.errors import DataError, MissingError, MissingExtra, UsageError, did_you_mean
from expunge.records.task import Example

Located = tuple[str, Mapping[str, Any]]
"""Where a row stands ("data.jsonl, line 3") and its fields as they are in the file."""

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
Kind = Literal["qa", "completion", "messages", "text"]
SHAPES: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    ("qa", ("question", "answer")),
    ("completion", ("prompt", "completion")),
    ("messages", ("messages",)),
    ("text", ("text",)),
)
LISTS: Mapping[str, tuple[str, ...]] = {
    "paraphrased_answers": ("paraphrases", "paraphrased_answers", "paraphrased_answer"),
    "paraphrased_prompts": ("paraphrased_questions", "paraphrased_question", "paraphrased_prompts"),
    "wrong_answers": ("wrong_answers", "perturbed_answers", "perturbed_answer"),
    "options": ("options",),
}
"""Field of an Example -> names it may have in a file; a list of strings, or one string."""
STRINGS: Mapping[str, tuple[str, ...]] = {
    "id": ("id",), "entity": ("entity", "subject"), "group": ("group",), "short_answer": ("short_answer",),
}
"""Field of an Example -> names it may have in a file; a string or a number."""
FIELDS = tuple(dict.fromkeys([f for _, names in SHAPES for f in names]
                             + [f for names in (*LISTS.values(), *STRINGS.values()) for f in names]))


def parse_map(text: str) -> dict[str, str]:
    """`question=q,answer=a` as `{"question": "q", "answer": "a"}`: our name, then the file's.

    Raises UsageError for anything else, for an unknown name of ours and for one given twice.
    """
    mapping: dict[str, str] = {}
    for part in text.split(","):
        ours, equals, theirs = (piece.strip() for piece in part.partition("="))
        if not (ours and equals and theirs):
            raise UsageError(
                f"--map {text!r} cannot be read at {part!r}.", "",
                "Write our name, '=', the file's name, with commas between: --map question=q,answer=a",
            )
        if ours not in FIELDS:
            raise UsageError(f"--map: there is no field {ours!r}.", did_you_mean(ours, FIELDS))
        if ours in mapping:
            raise UsageError(f"--map gives {ours!r} twice.")
        mapping[ours] = theirs
    return mapping


def read_examples(
    path: Path, *, mapping: Mapping[str, str] | None = None, prefix: str | None = None
) -> tuple[Example, ...]:
    """All rows of a file. A row without `id` is called `<prefix>/<number from 0>`.

    `prefix` defaults to the file's stem. Raises MissingError when the file is not there and
    DataError for the first row that cannot be used, or for a file without rows.
    """
    rows = read_rows(path)
    check_map(mapping, rows)
    return to_examples(rows, mapping=mapping, prefix=path.stem if prefix is None else prefix)


def check_map(mapping: Mapping[str, str] | None, rows: Iterable[Located]) -> None:
    """Every name that --map speaks of must be the name of a field in some row, or it is a typo."""
    columns = {str(name) for _, row in rows for name in row}
    for ours, theirs in (mapping or {}).items():
        if theirs not in columns:
            raise DataError(f"No row has the field {theirs!r}, which --map calls {ours!r}.",
                            did_you_mean(theirs, columns))


def to_examples(
    rows: Iterable[Located], *, mapping: Mapping[str, str] | None = None, prefix: str
) -> tuple[Example, ...]:
    """Raw rows as examples, with ids that differ."""
    examples: list[Example] = []
    seen: dict[str, str] = {}
    for number, (where, row) in enumerate(rows):
        example = to_example(row, where=where, id=f"{prefix}/{number}", mapping=mapping)
        if example.id in seen:
            raise DataError(
                f"{where}: the id {example.id!r} is taken.",
                f"It is also the id of {seen[example.id]}.",
                "Ids must differ within a file; leave the field out to have rows numbered.",
            )
        seen[example.id] = where
        examples.append(example)
    return tuple(examples)


def read_rows(path: Path) -> list[Located]:
    """The raw rows of a file and where each stands. A file without rows is a DataError."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: files that end in {suffix!r} cannot be read.",
                        f"Known endings: {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise MissingError(f"The data file {path} does not exist.",
                           fix="Check the path; a relative one starts where the command is run.")
    rows = _parquet(path) if suffix == ".parquet" else (
        _csv(path, _text(path)) if suffix == ".csv" else _json(path, _text(path))
    )
    if not rows:
        raise DataError(f"{path} has no rows.", fix="Give a file with at least one row.")
    for where, row in rows:
        if not isinstance(row, Mapping):
            raise DataError(f"{where}: a row must be an object with named fields, not {_kind(row)}.")
    return rows


def to_example(
    row: Mapping[str, Any], *, where: str, id: str, mapping: Mapping[str, str] | None = None
) -> Example:
    """One row as an `Example`; `where` is named in errors and `id` stands in for a missing one."""
    mapping = mapping or {}
    # A field that is null, or an empty CSV cell, is a field that is not there.
    found = {name: row[mapping.get(name, name)] for name in FIELDS
             if row.get(mapping.get(name, name)) not in (None, "")}
    kind = _shape(row, found, where, mapping)
    fields: dict[str, Any] = {field: _name(found[name], name, where) for field, names in STRINGS.items()
                              for name in reversed(names) if name in found}
    for field, names in LISTS.items():
        for name in names:
            if name in found:
                fields[field] = _strings(found[name], name, where)
    if kind == "messages":
        turns = _turns(found["messages"], where)
        fields["messages"] = turns[:-1]
        asked = [content for role, content in turns[:-1] if role == "user"]
        prompt, answer = asked[-1] if asked else "", turns[-1][1]
    elif kind == "text":
        prompt, answer = "", _string(found["text"], "text", where)
    else:
        first, second = ("question", "answer") if kind == "qa" else ("prompt", "completion")
        prompt, answer = _string(found[first], first, where), _string(found[second], second, where)
    if answer in fields.get("wrong_answers", ()) or (
        set(fields.get("paraphrased_answers", ())) & set(fields.get("wrong_answers", ()))
    ):
        raise DataError(f"{where}: a right answer is also among the wrong ones.",
                        f"The answer is {answer!r}.")
    fields["short_answer"] = _short(fields.get("short_answer"), fields.get("options", ()), answer, where)
    return Example(**{"id": id, "prompt": prompt, "answer": answer, "kind": kind, **fields})


def _shape(row: Mapping[str, Any], found: Mapping[str, Any], where: str, mapping: Mapping[str, str]) -> Kind:
    """Which of the known shapes a row has; a shape that is only half filled is an error."""
    empty = ""
    # Fields named by --map decide where a row would fit several.
    for kind, names in sorted(SHAPES, key=lambda shape: not set(shape[1]) & set(mapping)):
        if set(names) <= set(found):
            return kind
        given = {name: mapping.get(name, name) for name in names}
        if set(given.values()) <= set(row):
            empty = empty or next(theirs for name, theirs in given.items() if name not in found)
            if set(names) & set(found):
                break
    if empty:
        raise DataError(f"{where}: {empty!r} is empty.", fix="Fill it in, or leave the row out.")
    wanted = ", ".join("{" + ", ".join(names) + "}" for _, names in SHAPES)
    columns = [str(name) for name in row]
    example = f"--map question={columns[0]},answer={columns[1]}" if len(columns) > 1 else "--map text=COLUMN"
    raise DataError(
        f"{where}: the row has none of the known shapes {wanted}.",
        f"It has: {_names(row)}.",
        f"If these are the right fields under other names, say so, such as {example}",
    )


def _short(given: str | None, options: tuple[str, ...], answer: str, where: str) -> str:
    """The bare fact: as given, or the one option that the answer contains."""
    if given is not None:
        if given not in answer:
            raise DataError(f"{where}: short_answer {given!r} is not a part of the answer.",
                            f"The answer is {answer!r}.")
        if options and given not in options:
            raise DataError(f"{where}: short_answer {given!r} is not one of the options.")
        return given
    right = [option for option in options if option == answer] or [o for o in options if o in answer]
    if options and len(set(right)) != 1:
        raise DataError(
            f"{where}: which of the options is right is not clear.",
            f"{len(set(right))} of them stand in the answer {answer!r}.",
            "Add the field short_answer with the right one.",
        )
    return right[0] if right else ""


def _turns(value: Any, where: str) -> tuple[tuple[str, str], ...]:
    """(role, content) of every message; the last must be the assistant's."""
    if isinstance(value, str):  # a CSV cell
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            value = None
    turns = []
    for message in value if isinstance(value, list) and value else [None]:
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise DataError(f"{where}: 'messages' must be a list of {{role, content}} objects.")
        turns.append((_string(message["role"], "role", where), _string(message["content"], "content", where)))
    if turns[-1][0] != "assistant":
        raise DataError(f"{where}: the last message must be from the assistant.",
                        f"It is from {turns[-1][0]!r}; there is nothing to learn or forget after it.")
    return tuple(turns)


def _strings(value: Any, name: str, where: str) -> tuple[str, ...]:
    if isinstance(value, str):
        if value.lstrip().startswith("["):  # a list in a CSV cell
            try:
                value = json.loads(value)
            except json.JSONDecodeError:
                return (value,)
        else:
            return (value,)
    if not isinstance(value, Iterable) or isinstance(value, Mapping):
        raise DataError(f"{where}: {name!r} must be text or a list of texts, not {_kind(value)}.")
    return tuple(_string(item, name, where) for item in value)


def _string(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: {name!r} must be text, not {_kind(value)}.")
    if not value.strip():
        raise DataError(f"{where}: {name!r} is empty.", fix="Fill it in, or leave the row out.")
    return value


def _name(value: Any, name: str, where: str) -> str:
    """Names may be whole numbers, as ids often are."""
    number = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if number else _string(value, name, where)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text.", str(error)) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read.", str(error)) from None


def _json(path: Path, text: str) -> list[Located]:
    """An array, one object, or one object per line; the ending does not tell which, the text does."""
    if text.lstrip().startswith("["):
        try:
            whole = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {error.lineno}: not valid JSON.", str(error)) from None
        return [(f"{path}, row {n}", row) for n, row in enumerate(whole, 1)]
    rows: list[Located] = []
    # Not splitlines(): that also cuts at separators such as U+2028, which may stand inside a string.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append((f"{path}, line {number}", json.loads(line)))
        except json.JSONDecodeError as error:
            if not rows and (single := _single(text)) is not None:
                return [(f"{path}, row 1", single)]
            raise DataError(f"{path}, line {number}: not valid JSON.", str(error)) from None
    return rows


def _single(text: str) -> Any:
    """One object written over several lines, or None."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def _csv(path: Path, text: str) -> list[Located]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows: list[Located] = []
    longest = csv.field_size_limit(len(text) + 1)  # the limit of 128 KiB a cell is too small for books
    try:
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise DataError(f"{where}: the row has more or fewer cells than the header has names.")
            rows.append((where, row))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.reader.line_num}: not valid CSV.", str(error)) from None
    finally:
        csv.field_size_limit(longest)
    return rows


def _parquet(path: Path) -> list[Located]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        fix = "pip install 'expunge[parquet]'"
        raise MissingExtra(f"{path}: reading parquet needs pyarrow.", "", fix) from None
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable parquet file.", str(error)) from None
    return [(f"{path}, row {n}", row) for n, row in enumerate(table.to_pylist(), 1)]


def _names(row: Mapping[str, Any]) -> str:
    return ", ".join(repr(str(name)) for name in row) or "nothing"


def _kind(value: Any) -> str:
    names = {"NoneType": "null", "dict": "an object", "list": "a list", "int": "a number",
             "float": "a number", "bool": "true or false", "str": "text"}
    return names.get(type(value).__name__, type(value).__name__)
