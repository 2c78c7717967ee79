"""Scores of single examples, as a table beside audit.json: parquet where pyarrow is installed, else CSV.

The only module that imports pandas.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from expunge.errors import MissingError, MissingExtra, install_line
from expunge.records.base import write_text

if TYPE_CHECKING:
    import pandas

NAME = "examples"
"""The file is called examples.parquet or examples.csv."""


class ExampleScore(TypedDict):
    """What one score is of one example. The score of the audit is the mean of these values over its examples."""

    score: str
    """Name of the score, such as forget.probability."""
    attack: str
    """Label of the attack; empty where there was none."""
    model: str
    """subject, original, retrained, retrained2 ..."""
    split: str
    id: str
    entity: str
    """Entity of the row; its id where the row has no entity."""
    value: float


COLUMNS = tuple(ExampleScore.__annotations__)


def write_examples(folder: Path, rows: Iterable[ExampleScore]) -> Path:
    """Write the table, and remove one of the other format; the path of the file."""
    rows, parquet = list(rows), _parquet()
    path = folder / f"{NAME}.{'csv' if parquet is None else 'parquet'}"
    folder.mkdir(parents=True, exist_ok=True)
    if parquet is None:
        written = io.StringIO()
        table = csv.DictWriter(written, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        write_text(path, written.getvalue())
    else:
        import pyarrow

        kinds = pyarrow.schema([(name, pyarrow.float64() if name == "value" else pyarrow.string()) for name in COLUMNS])
        temporary = folder / f".{path.name}"
        parquet.write_table(pyarrow.Table.from_pylist(rows, schema=kinds), temporary)
        os.replace(temporary, path)
    for other in ("csv", "parquet"):
        if path.suffix != f".{other}":
            (folder / f"{NAME}.{other}").unlink(missing_ok=True)
    return path


def has_examples(folder: Path) -> bool:
    return any((folder / f"{NAME}.{kind}").exists() for kind in ("parquet", "csv"))


def read_examples(folder: Path) -> list[ExampleScore]:
    """The rows of the table in the folder of an audit.

    Raises:
        MissingError: there is none, as in audits of earlier versions.
        MissingExtra: it is parquet, and pyarrow is not installed.
    """
    if (path := folder / f"{NAME}.parquet").exists():
        parquet = _parquet()
        if parquet is None:
            raise MissingExtra(f"{path}: reading parquet needs pyarrow.", "It is not installed.",
                               f"Install it with: {install_line('parquet')}.")
        return list(parquet.read_table(path).to_pylist())
    if not (path := folder / f"{NAME}.csv").exists():
        raise MissingError(f"{folder} holds no scores of single examples.",
                           "There is neither examples.parquet nor examples.csv in it.",
                           f"Make them from the stored observations with: expunge audit --rescore {folder}")
    with path.open(encoding="utf-8", newline="") as file:
        return [{**row, "value": float(row["value"])} for row in csv.DictReader(file)]  # type: ignore[typeddict-item]


def frame(rows: Iterable[Mapping[str, Any]]) -> pandas.DataFrame:
    """A pandas data frame with one row for each.

    Raises:
        MissingExtra: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise MissingExtra("A data frame needs pandas.", "It is not installed.",
                           f"Install it with: {install_line('parquet')}.") from None
    return pandas.DataFrame([dict(row) for row in rows])


def _parquet() -> Any:
    """pyarrow's module for parquet files; None where it is not installed."""
    try:
        from pyarrow import parquet
    except ImportError:
        return None
    return parquet
