"""Which cells a grid of runs has, and what came of each."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from expunge.records.base import Record
from expunge.records.examples import frame
from expunge.records.overview import Overview
from expunge.records.settings import AuditSettings, RunSettings

if TYPE_CHECKING:
    import pandas

GRID_SCHEMA = "expunge.grid/1"


CellKey = tuple[str, float | None, int]
"""Method, learning rate and seed of a cell."""


class GridCell(Record):
    """One recipe at one learning rate with one seed: a run and its audit in a folder of their own."""

    method: str
    lr: float | None
    """None where the recipe takes no steps, or names its own."""
    seed: int
    folder: str
    """Name of its folder in that of the grid."""
    status: Literal["waiting", "finished", "failed"] = "waiting"
    failed: str = ""
    """Why there are no scores, in one sentence."""
    verdict: str = ""
    scores: dict[str, float | None] = Field(default_factory=dict)
    """Scores without attack."""
    train_s: float = 0.0
    """Seconds of training; of run and audit together in `total_s`."""
    total_s: float = 0.0
    steps: int = 0
    peak_memory_bytes: int = 0

    @property
    def key(self) -> CellKey:
        return self.method, self.lr, self.seed

    @property
    def group(self) -> str:
        """What it has in common with the cells that differ in nothing but the seed."""
        return self.method + ("" if self.lr is None else f" lr={self.lr:g}")

    @property
    def title(self) -> str:
        return f"{self.group} seed={self.seed}"

    def row(self) -> dict[str, Any]:
        """One flat row: what was done, how it went, and every score by its name."""
        return {**self.model_dump(exclude={"scores"}), **self.scores}


class Grid(Record):
    """DIR/grid.json."""

    FILE: ClassVar[str] = "grid.json"
    schema_: str = Field(GRID_SCHEMA, alias="schema")
    model_config = Record.model_config | {"populate_by_name": True}
    model: str
    model_fingerprint: str
    retrained: tuple[str, ...]
    task: str
    task_fingerprint: str
    settings: RunSettings
    """Of every run; learning rate and seed are those of the cell."""
    audit: AuditSettings
    """Of every audit."""
    environment: dict[str, Any]
    cells: tuple[GridCell, ...] = ()

    def overview(self) -> Overview:
        """One line per cell."""
        names = list(dict.fromkeys(name for c in self.cells for name, v in c.scores.items() if v is not None))[:4]
        return Overview(f"Grid of {len(self.cells)} cells on {self.task}", [("model", self.model)],
                        ("cell", "status", "verdict", *names), [
                            (c.title, c.status, c.verdict, *(c.scores.get(n) for n in names)) for c in self.cells])

    def with_cell(self, cell: GridCell) -> Grid:
        """The grid with this cell in the place of the one with its method, learning rate and seed."""
        return self.model_copy(update={"cells": tuple(cell if c.key == cell.key else c for c in self.cells)})

    def counted(self) -> str:
        """`8 cells: 5 finished, 3 waiting`."""
        counts = Counter(cell.status for cell in self.cells)
        said = [f"{counts[status]} {status}" for status in ("finished", "failed", "waiting") if counts[status]]
        return f"{len(self.cells)} cells: {', '.join(said)}"

    def waiting(self) -> list[str]:
        """`npo lr=0.0001 (waiting): seeds 0, 1` for each method and rate of which cells failed or wait."""
        seeds: dict[str, list[str]] = {}
        for cell in self.cells:
            if cell.status != "finished":
                seeds.setdefault(f"{cell.group} ({cell.status})", []).append(str(cell.seed))
        return [f"{group}: seed{'s' * (len(of) > 1)} {', '.join(of)}" for group, of in seeds.items()]

    def frame(self) -> pandas.DataFrame:
        """A data frame with one row per cell: columns as in grid.csv.

        Raises:
            MissingExtra: pandas is not installed.
        """
        return frame(cell.row() for cell in self.cells)

    def csv(self) -> str:
        """The table of grid.csv: one row per cell."""
        return as_csv(cell.row() for cell in self.cells)


def as_csv(rows: Iterable[dict[str, Any]]) -> str:
    """Rows as CSV; the columns are those of all rows, in first-seen order."""
    rows = list(rows)
    columns: Sequence[str] = list(dict.fromkeys(name for row in rows for name in row))
    written = io.StringIO()
    table = csv.DictWriter(written, columns, lineterminator="\n", restval="")
    table.writeheader()
    table.writerows(rows)
    return written.getvalue()


def cells_of(folder: Path) -> list[Path]:
    """Folders of the finished cells of the grid in this folder; the folder itself where there is no grid."""
    if not (folder / Grid.FILE).is_file():
        return [folder]
    return [folder / cell.folder for cell in Grid.read(folder).cells if cell.status == "finished"]


def unfinished(folder: Path) -> str:
    """How many cells of the grid in this folder failed or wait, and which; empty where there are none, or no grid."""
    if not (folder / Grid.FILE).is_file() or not (named := (found := Grid.read(folder)).waiting()):
        return ""
    missing = sum(cell.status != "finished" for cell in found.cells)
    return (f"{missing} of {len(found.cells)} cells of the grid {folder.resolve().name} failed or wait, so they have "
            f"no scores: {'; '.join(named)}.")
