"""A benchmark of methods: what was asked for, and the table that came of it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from expunge.records.base import Record
from expunge.records.overview import Overview, number
from expunge.records.settings import AuditSettings, RunSettings

BENCH_SCHEMA = "expunge.bench/1"
TABLE_SCHEMA = "expunge.bench_table/1"


class Chosen(Record):
    """The setting of a method with which its runs are made."""

    method: str
    """As typed."""
    recipe: str
    lr: float | None
    tried: int
    """Trials that it was chosen from."""
    failed: str = ""
    """Why there is none: what every trial failed with."""


class Bench(Record):
    """DIR/bench.json: trials and runs lie in the grids DIR/trials and DIR/runs."""

    FILE: ClassVar[str] = "bench.json"
    schema_: str = Field(BENCH_SCHEMA, alias="schema")
    model_config = Record.model_config | {"populate_by_name": True}
    suite: str
    task_fingerprint: str
    model: str
    model_fingerprint: str
    retrained: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    trials: int
    rates: tuple[float, ...] = ()
    """Learning rates of the trials, where they were named."""
    settings: RunSettings
    audit: AuditSettings
    environment: dict[str, Any]
    chosen: tuple[Chosen, ...] = ()


class BenchCell(Record):
    """One score of one row of the table."""

    value: float
    low: float | None = None
    """From the lowest to the highest of the seeds' 95 % intervals."""
    high: float | None = None
    won: int = 0
    """Under an attack: seeds in which it succeeded."""
    marked: bool = False
    """The best, beyond noise of every other method."""

    @property
    def text(self) -> str:
        """`0.123 [0.100, 0.150]*`."""
        spread = "" if self.low is None or self.high is None else f" [{number(self.low)}, {number(self.high)}]"
        return f"{number(self.value)}{spread}" + "*" * self.marked


class BenchRow(Record):
    """A reference, a method, or a published number beside them."""

    kind: Literal["reference", "method", "published"]
    title: str
    letter: str = ""
    """Of a method, by which the findings name it."""
    about: str = ""
    """The recipe of a method with its learning rate; model and source of a published row."""
    seeds: int = 0
    verdicts: dict[str, int] = Field(default_factory=dict)
    trials: int | None = None
    """None where the folder does not tell."""
    steps: float | None = None
    rows: float | None = None
    """Rows of each side that the steps read: the budget."""
    train_s: float | None = None
    share: float | None = None
    """Of the gradients of retraining."""
    kept: float | None = None
    """Retain probability, as a share of the original's."""
    strongest: str = ""
    """The attack under which the leak share is the largest."""
    scores: dict[str, BenchCell] = Field(default_factory=dict)
    attacks: dict[str, BenchCell] = Field(default_factory=dict)
    """Attack -> excess over the control in the table's metric; the leak share beside it in `leaks`."""
    leaks: dict[str, float] = Field(default_factory=dict)


class BenchTable(Record):
    """DIR/table.json: made from run folders whose scores were computed again from their observations."""

    FILE: ClassVar[str] = "table.json"
    schema_: str = Field(TABLE_SCHEMA, alias="schema")
    model_config = Record.model_config | {"populate_by_name": True}
    suite: str
    columns: tuple[str, ...]
    """Scores without attack."""
    attacked: tuple[str, ...]
    metric: str
    """What the attack columns show the excess of."""
    rows: tuple[BenchRow, ...]
    """References, methods from the best, published ones."""
    rescored: int
    """Runs whose stored scores were found again from their observations."""
    cautions: tuple[str, ...] = ()
    """What makes the rows hard to compare."""
    notes: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    """What is beyond noise, score by score."""

    @property
    def published(self) -> tuple[str, ...]:
        """Columns of which a published row has a value; they stand in a table of their own."""
        given = {name for row in self.rows if row.kind == "published" for name in row.scores}
        return tuple(name for name in self.columns if name in given)

    @property
    def own(self) -> tuple[str, ...]:
        """The other columns, or all where none is left."""
        beside = {*self.published}
        return tuple(name for name in self.columns if name not in beside) or self.columns

    def overview(self) -> Overview:
        """A line for each row, with the first scores."""
        shown = self.own[:5]
        return Overview(f"Benchmark {self.suite}: {self.rescored} runs", [("more in .columns", self.own[5:])],
                        ("", *shown), [(row.title, *(cell and cell.value for cell in map(row.scores.get, shown)))
                                       for row in self.rows if row.kind != "published"])
