"""Rows from a user's file, from a folder of files, or from the hub.

`data/decoding.py` turns bytes into text, this module text into rows, `data/mapping.py` gives their fields our names and
`data/shapes.py` makes Examples of them. Every complaint names the file and the line (or row, where lines mean
nothing), and says what the row does have.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from expunge.data.decoding import PACKED, read_bytes, read_text, without_packing
from expunge.data.hints import propose
from expunge.data.hub import PREFIX, HubAddress, hub_rows
from expunge.data.mapping import Located, apply, check_map
from expunge.data.shapes import SHAPES, UnknownShape, kind_of, to_example, unused
from expunge.errors import DataError, MissingError, MissingExtra, install_line
from expunge.records.task import Example

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet", ".arrow")
ABOUT_A_FOLDER = ("dataset_info.json", "state.json", "dataset_dict.json")
"""What `datasets` writes beside the rows."""
DELIMITERS = (",", ";", "\t", "|")
"""What may stand between the cells of a table; the header shows which."""


class FileRows(NamedTuple):
    """What a file, a folder or a data set of the hub holds."""

    rows: list[Located]
    notes: tuple[str, ...] = ()
    """What the user should know of how it was read."""


def read_examples(
    path: Path | str, *, mapping: Mapping[str, str] | None = None, prefix: str | None = None
) -> tuple[Example, ...]:
    """All rows of a file. A row without `id` is called `<prefix>/<number from 0>`.

    `prefix` defaults to the file's name without its ending. Raises MissingError when the file is not there and
    DataError for the first row that cannot be used, or for a file without rows.
    """
    rows = read_rows(path)
    check_map(mapping, rows)
    return to_examples(rows, mapping=mapping, prefix=source_name(path) if prefix is None else prefix)[0]


def source_name(path: Path | str) -> str:
    """What a file is called: its name without endings; of a data set of the hub, its address."""
    if _on_hub(path):
        return str(HubAddress.parse(_address(path)))
    return Path(without_packing(Path(path).name)).stem


def to_examples(
    rows: Sequence[Located], *, mapping: Mapping[str, str] | None = None, prefix: str
) -> tuple[tuple[Example, ...], tuple[str, ...]]:
    """Raw rows as examples, with ids that differ; and what the user should know of how they were read.

    Raises:
        DataError: the first row that cannot be used; where other names could be the reason, with the `--map` that
            works, if there is one.
    """
    examples: list[Example] = []
    seen: dict[str, str] = {}
    left: dict[str, int] = {}
    for number, (where, row) in enumerate(apply(rows, mapping or {})):
        try:
            example = to_example(row, where=where, id=f"{prefix}/{number}", chosen=mapping or ())
        except UnknownShape as error:
            raise _with_map(error, rows) from None
        except DataError as error:
            raise _with_count(error, where, rows) from None
        if example.id in seen:
            raise DataError(
                f"{where}: the id {example.id!r} is taken.",
                f"It is also the id of {seen[example.id]}.",
                "Ids must differ within a file; leave the field out to have rows numbered.",
            )
        seen[example.id] = where
        examples.append(example)
        for name in unused(row, example.kind):
            left[name] = left.get(name, 0) + 1
    notes = [f"Columns of {prefix} rows that are not used: {', '.join(sorted(left))}."] if left else []
    if any(_calls_tools(row) for _, row in rows):
        notes.append(f"Calls of tools in {prefix} rows are given to the model as JSON text.")
    return tuple(examples), tuple(notes)


def read_rows(path: Path | str) -> list[Located]:
    """The raw rows of a file, folder or data set and where each stands. One without rows is a DataError."""
    return read_source(path).rows


def read_source(path: Path | str) -> FileRows:
    """The same, with what the user should know of how it was read.

    Args:
        path: a file, packed or not; a folder, of which all files with known endings are read in the order of their
            names; or `hub:owner/name:configuration:split@revision`.

    Raises:
        MissingError, DataError: there is nothing, or it cannot be read.
    """
    check_source(path)
    if _on_hub(path):
        address = HubAddress.parse(_address(path))
        note = f"{address} names no revision: the rows may be others tomorrow. Add @ and a commit to pin them."
        return FileRows(_checked(str(address), hub_rows(address)), () if address.revision else (note,))
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    name = without_packing(path.name)
    suffix = Path(name).suffix.lower()
    notes: tuple[str, ...] = ()
    if suffix in (".parquet", ".arrow"):
        rows = _columns(path, suffix)
    elif suffix == ".txt":
        rows, notes = _plain(path, read_text(path))
    else:
        rows = (_table if suffix in (".csv", ".tsv") else _json)(path, read_text(path))
    return FileRows(_checked(str(path), rows), notes)


def check_source(path: Path | str) -> None:
    """What can be said of a source without reading it: raises DataError for an ending that is not known, MissingError
    for a file that is not there. Of data sets of the hub nothing is asked."""
    if _on_hub(path) or Path(path).is_dir():
        return
    suffix = Path(without_packing(Path(path).name)).suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: files that end in {suffix!r} cannot be read.",
                        f"Known endings: {', '.join(SUFFIXES)}; each also packed: {', '.join(PACKED)}.")
    if not Path(path).is_file():
        raise MissingError(f"The data file {path} does not exist.",
                           fix="Check the path; a relative one starts where the command is run.")


def _checked(source: str, rows: list[tuple[str, Any]]) -> list[Located]:
    """Rows with named fields; a file of texts alone is running text."""
    if not rows:
        raise DataError(f"{source} has no rows.", fix="Give a file with at least one row.")
    if all(isinstance(row, str) for _, row in rows):
        return [(where, {"text": row}) for where, row in rows]
    for where, row in rows:
        if not isinstance(row, Mapping):
            raise DataError(f"{where}: a row must be an object with named fields, not {kind_of(row)}.")
    return rows


def _folder(path: Path) -> FileRows:
    files = sorted(f for f in path.iterdir() if f.is_file() and not f.name.startswith("."))
    known = [f for f in files if Path(without_packing(f.name)).suffix.lower() in SUFFIXES
             and f.name not in ABOUT_A_FOLDER]
    if not known:
        inside = ", ".join(sorted(f.name for f in path.iterdir())[:8]) or "nothing"
        raise MissingError(f"The folder {path} holds no file of rows.", f"It holds {inside}.",
                           f"Name a folder with files that end in {', '.join(SUFFIXES)}.")
    read = [read_source(f) for f in known]
    others = ", ".join(f.name for f in files if f not in known)
    notes = (f"{path.name}: {len(known)} files are read" + (f", not {others}." if others else "."),)
    return FileRows([row for found in read for row in found.rows],
                    notes + tuple(note for found in read for note in found.notes))


def _with_map(error: UnknownShape, rows: Sequence[Located]) -> UnknownShape:
    """The same message with a --map under which every row can be read."""
    found = propose(rows)
    fix = f"If these are the right fields under other names, add {found}" if found else (
        "" if error.fix else "Say which field is which with --map question=...,answer=...")
    return UnknownShape(error.what, error.why, "\n".join(part for part in (fix, error.fix) if part))


def _with_count(error: DataError, where: str, rows: Sequence[Located]) -> DataError:
    """Of a field that is empty, how many other rows have it empty too."""
    match = re.fullmatch(r".*: '(\w+)' is empty\.?", error.what)
    if match is None:
        return error
    also = [place for place, row in rows if place != where and match[1] in row and not str(row[match[1]] or "").strip()]
    why = f"It is empty in {len(also)} more of {len(rows)} rows, next in {also[0]}." if also else error.why
    return DataError(error.what, why, error.fix)


def _calls_tools(row: Mapping[str, Any]) -> bool:
    turns = row.get("messages") or row.get("conversations")
    return isinstance(turns, list) and any(isinstance(t, Mapping) and (t.get("tool_calls") or t.get("function_call"))
                                           for t in turns)


def _on_hub(path: Path | str) -> bool:
    return str(path).startswith(PREFIX)


def _address(path: Path | str) -> str:
    return Path(path).as_posix()


def _json(path: Path, text: str) -> list[tuple[str, Any]]:
    """An array, one object, or one value per line; the ending does not tell which, the text does.

    Numbers with a point stay as they are written.
    """
    if text.lstrip().startswith("["):
        try:
            whole = json.loads(text, parse_float=Decimal)
        except json.JSONDecodeError as error:
            raise _not_json(path, error.lineno, error) from None
        return [(f"{path}, row {n}", row) for n, row in enumerate(whole, 1)]
    rows: list[tuple[str, Any]] = []
    # Not splitlines(): that also cuts at separators such as U+2028, which may stand inside a string.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append((f"{path}, line {number}", json.loads(line, parse_float=Decimal)))
        except json.JSONDecodeError as error:
            if rows or (single := _single(text)) is None:
                raise _not_json(path, number, error) from None
            rows = [(f"{path}, row 1", single)]
            break
    columns = _by_column(rows[0][1]) if len(rows) == 1 else ()
    return [(f"{path}, row {n}", row) for n, row in enumerate(columns, 1)] or rows


def _by_column(whole: Any) -> list[Mapping[str, Any]]:
    """Rows of an object {question: [...], answer: [...]}, or {question: {"0": ...}} as pandas writes it; or none."""
    if not isinstance(whole, Mapping) or not any(len(s.fields) > 1 and set(s.fields) <= set(whole) for s in SHAPES):
        return []
    columns = [list(column.values()) if isinstance(column, Mapping) and list(column) == [*map(str, range(len(column)))]
               else column for column in whole.values()]
    if not all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        return []
    return [dict(zip(whole, row, strict=True)) for row in zip(*columns, strict=True)]


def _single(text: str) -> Any:
    """One object written over several lines, or None."""
    try:
        return json.loads(text, parse_float=Decimal)
    except json.JSONDecodeError:
        return None


def _not_json(path: Path, line: int, error: json.JSONDecodeError) -> DataError:
    return DataError(f"{path}, line {line}: not valid JSON.", str(error),
                     "If it is plain text, give the file the ending .txt." if error.pos == 0 else "")


def _table(path: Path, text: str) -> list[tuple[str, Any]]:
    """Cells under the names of the first line. The character between them is the one that gives most names."""
    told = text[:4].lower() == "sep="  # Excel's line about the character between cells; the header shows it too
    text = text.partition("\n")[2] if told else text
    header = text.split("\n", 1)[0].rstrip("\r")
    delimiter = max(DELIMITERS, key=lambda mark: _cells(header, mark))
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    rows: list[tuple[str, Any]] = []
    longest = csv.field_size_limit(len(text) + 1)  # the limit of 128 KiB a cell is too small for books
    try:
        for row in reader:
            where = f"{path}, line {reader.line_num + told}"
            if None in row or None in row.values():
                raise DataError(f"{where}: the row has more or fewer cells than the header has names.",
                                f"Cells are separated by {delimiter!r}, as in the first line: {header.strip()[:80]!r}",
                                'Put quotes around cells with that character: "a, b".')
            rows.append((where, row))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.reader.line_num + told}: not valid CSV.", str(error)) from None
    finally:
        csv.field_size_limit(longest)
    return rows


def _cells(line: str, mark: str) -> int:
    """How many cells a line has with this character between them; 0 if its quotes do not fit that."""
    try:
        return len(next(csv.reader([line], delimiter=mark, strict=True), []))
    except csv.Error:
        return 0


def _plain(path: Path, text: str) -> tuple[list[tuple[str, Any]], tuple[str, ...]]:
    """Paragraphs, which blank lines separate; of a text without blank lines, its lines."""
    lines = re.sub(r"\r\n?", "\n", text).split("\n")
    filled = [n for n, line in enumerate(lines, 1) if line.strip()]
    apart = bool(filled) and len(filled) < filled[-1] - filled[0] + 1
    rows: list[tuple[str, Any]] = []
    last = 0
    for number in filled:
        if apart and rows and number == last + 1:
            rows[-1] = rows[-1][0], f"{rows[-1][1]}\n{lines[number - 1]}"
        else:
            rows.append((f"{path}, line {number}", lines[number - 1]))
        last = number
    return rows, (f"{path.name}: {len(rows)} rows of text, one per {'paragraph' if apart else 'line'}.",)


def _columns(path: Path, suffix: str) -> list[tuple[str, Any]]:
    """Parquet, or the stream that `datasets` leaves in the folder of `save_to_disk`."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra(f"{path}: reading {suffix[1:]} needs pyarrow.", "It is not installed.",
                           f"Install it with: {install_line('parquet')}.") from None
    data = io.BytesIO(read_bytes(path))
    try:
        table = pyarrow.parquet.read_table(data) if suffix == ".parquet" else pyarrow.ipc.open_stream(data).read_all()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable {suffix[1:]} file.", str(error)) from None
    return [(f"{path}, row {n}", row) for n, row in enumerate(table.to_pylist(), 1)]
