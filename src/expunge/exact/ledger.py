"""The ledger of a sharded model: the shard and slice of each row, and the rows each checkpoint saw. No torch.

Shards, slices, orders and stages are counted from 0. The checkpoint "k.r" is shard k after its slices 0 to r; where a
shard has several orders of its slices, "k.o.i" is what stage i of order o trained.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from typing import Any, Literal, NamedTuple

from pydantic import Field

from expunge.errors import DataError
from expunge.records.base import Record, fingerprint
from expunge.records.task import Example
from expunge.seeding import derive

NAME = "ledger.json"
LEDGER_SCHEMA = "expunge.sisa/1"
NO_SHARD = -1
"""Shard of a row that no stage trains on: a post-processor alone reads it."""
Average = Literal["logprob", "posterior"]


def place(row: str, shards: int, slices: int, seed: int) -> tuple[int, int]:
    """Shard and slice of the row with id `row`: a hash of the id, so that they do not depend on other rows."""
    number = derive(seed, "sisa", "place", row)
    return number % shards, number // shards % slices


def content(example: Example) -> str:
    """Fingerprint of a row as training saw it, 16 hex digits. Keep it private: a short text can be guessed from it."""
    return fingerprint([example.kind, example.prompt, example.messages, example.answer])


class ShardStage(NamedTuple):
    """A stage of a shard's training, which ends with a checkpoint."""

    shard: int
    number: int
    order: int | None = None
    """Which of the shard's orders; None where there is one, whose stages go on with the same weights."""

    @property
    def name(self) -> str:
        """Name of its checkpoint."""
        return ".".join(str(part) for part in (self.shard, self.order, self.number) if part is not None)

    @property
    def key(self) -> tuple[int, ...]:
        """What its seeds are derived from; those of a first order are those of a shard without orders."""
        return (self.shard, self.number, *((self.order,) if self.order else ()))


class ShardPlan(Record):
    """Training settings of every stage; the same before and after a deletion."""

    shards: int
    slices: int
    rank: int
    alpha: float
    dropout: float
    targets: str | tuple[str, ...]
    lr: float
    average: Average
    epochs: float
    """Passes over the rows, all slices together."""
    steps: int | None
    """Optimizer steps of all stages together; replaces epochs."""
    batches: int
    """Number per slice and epoch. A row's batch is a hash of its id, so a missing row moves no other row."""
    batch_size: int
    """Rows of a micro-batch."""
    seed: int
    template: str | None
    max_length: int | None
    orders: tuple[tuple[int, ...], ...] = ()
    """Orders in which every shard trains on its slices, each by itself: stage i of an order trains a group of blocks
    of its own. None: one order, whose stages all train the same weights."""
    deletion: tuple[float, ...] = ()
    """Deletion probability of every slice, where the orders were made for them."""
    own: dict[str, Any] = Field(default_factory=dict)
    """What a method that is built on shards needs beside, such as the options of a post-processor."""

    def to_json(self) -> dict[str, Any]:
        """Without the fields that only plans with orders have."""
        return {k: v for k, v in super().to_json().items() if v or k not in ("orders", "deletion", "own")}

    def option(self, name: str) -> Any:
        """The value of a plug-in's option; of the orders their number."""
        return len(self.orders) if name == "orders" else self.own[name] if name in self.own else getattr(self, name)

    def stages(self, shard: int) -> list[ShardStage]:
        """All stages of a shard, in the order in which they are trained."""
        if not self.orders:
            return [ShardStage(shard, r) for r in range(self.slices)]
        return [ShardStage(shard, i, o) for o in range(len(self.orders)) for i in range(self.slices)]

    def slices_of(self, stage: ShardStage) -> tuple[int, ...]:
        """The slices whose rows a stage trains on; the last one is new."""
        order = range(self.slices) if stage.order is None else self.orders[stage.order]
        return tuple(order[: stage.number + 1])

    def stage_steps(self, number: int) -> int:
        """Optimizer steps of a stage by its number; independent of the rows.

        A stage takes 2 / (slices + 1) of the epochs, over all slices so far, so that the stages of an order
        together cost as much as training without slices.
        """
        share = 2 * (number + 1) / (self.slices * (self.slices + 1))
        lines = self.shards * max(len(self.orders), 1)
        total = self.steps / lines if self.steps else self.epochs * self.batches * self.slices
        return max(round(total * share), 1)


class ShardPlace(Record):
    """Shard, slice and content fingerprint of a row."""

    shard: int
    slice: int
    content: str


class Checkpoint(Record):
    """One stage's weights and optimizer state, and the ids of all rows they depend on."""

    saw: tuple[str, ...]
    checksum: str
    """SHA-256 of the file."""
    visits: int
    """Rows seen in this stage, repeats counted."""


class Ledger(Record):
    """MODEL/ledger.json."""

    schema_: str = Field(LEDGER_SCHEMA, alias="schema")
    model_config = Record.model_config | {"populate_by_name": True}
    plan: ShardPlan
    base: str
    """Fingerprint of the frozen base. It is declared, not proven, that neither base nor tokenizer saw a row."""
    rows: dict[str, ShardPlace]
    checkpoints: dict[str, Checkpoint]
    served: str
    """Fingerprint of the ensemble of these checkpoints."""

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {"plan": self.plan.to_json()}

    def stages(self) -> list[ShardStage]:
        """All planned stages of all shards."""
        return [stage for shard in range(self.plan.shards) for stage in self.plan.stages(shard)]

    def members(self, stage: ShardStage) -> list[str]:
        """Ids of the rows a stage trains on, sorted."""
        slices = self.plan.slices_of(stage)
        return sorted(name for name, p in self.rows.items() if p.shard == stage.shard and p.slice in slices)

    def possible(self, shard: int) -> list[ShardStage]:
        """The stages that a shard's rows allow: an order ends before the first slice without rows."""
        if not self.plan.orders:
            return self.plan.stages(shard)
        filled = {p.slice for p in self.rows.values() if p.shard == shard}
        return [stage for stage in self.plan.stages(shard) if filled.issuperset(self.plan.slices_of(stage))]

    def serving(self) -> list[list[ShardStage]]:
        """The checkpoints that answer together, for every shard that has one.

        Without orders it is the last one; else those of the order with the longest run of stages from the first.
        """
        if not self.plan.orders:
            return [self.plan.stages(shard)[-1:] for shard in range(self.plan.shards)]
        found = []
        for shard in range(self.plan.shards):
            runs = [[ShardStage(shard, i, o) for i in range(self.plan.slices)] for o in range(len(self.plan.orders))]
            alive = [list(takewhile(lambda stage: stage.name in self.checkpoints, run)) for run in runs]
            found.append(max(alive, key=len))
        return [run for run in found if run]

    def apart(self) -> list[str]:
        """Ids of the rows that only a post-processor reads, sorted."""
        return sorted(name for name, p in self.rows.items() if p.shard == NO_SHARD)

    def find(self, examples: Iterable[Example]) -> list[str]:
        """Sorted ids of the rows with the same content as `examples`, whatever the ids of these.

        Raises:
            DataError: a row with this id was trained on with another text, so the row to delete is unclear.
        """
        by_content: dict[str, list[str]] = {}
        for name, known in self.rows.items():
            by_content.setdefault(known.content, []).append(name)
        ids: set[str] = set()
        for example in examples:
            same = by_content.get(content(example), [])
            if not same and example.id in self.rows:
                raise DataError(f"Row {example.id} was trained on with another text.",
                                "It is unclear whether that is the row to delete.",
                                "Give the row with its trained text or, if it is another row, with another id.")
            ids |= set(same)
        return sorted(ids)

    def touched(self, rows: Iterable[str]) -> list[ShardStage]:
        """The stages that train on one of these rows."""
        hit = {(self.rows[name].shard, self.rows[name].slice) for name in rows if self.rows[name].shard != NO_SHARD}
        shards = {shard for shard, _ in hit}
        return [stage for shard in sorted(shards) for stage in self.plan.stages(shard)
                if any((shard, slice_) in hit for slice_ in self.plan.slices_of(stage))]

    def without(self, rows: Iterable[str]) -> Ledger:
        """The ledger without these rows and, where orders allow it, without the checkpoints that saw them."""
        gone = set(rows)
        dropped = {stage.name for stage in self.touched(gone)} if self.plan.orders else set()
        return self.model_copy(update={
            "rows": {name: p for name, p in self.rows.items() if name not in gone},
            "checkpoints": {name: c for name, c in self.checkpoints.items() if name not in dropped}})

    def again(self, rows: Iterable[str]) -> list[ShardStage]:
        """The stages to train again without these rows.

        Without orders all that trained on them; else those of the shards in which no order is left.
        """
        touched = self.touched(rows)
        if not self.plan.orders:
            return touched
        after = self.without(rows)
        alive = {run[0].shard for run in after.serving()}
        return [stage for shard in sorted({s.shard for s in touched} - alive) for stage in after.possible(shard)]

    def share(self, rows: Iterable[str]) -> float:
        """Planned steps to delete these rows together, over the planned steps of the whole training."""
        steps = [self.plan.stage_steps(number) for number in range(self.plan.slices)]
        whole = sum(steps) * self.plan.shards * max(len(self.plan.orders), 1)
        return sum(steps[stage.number] for stage in self.again(rows)) / whole

    def checkpoints_with(self, rows: Iterable[str]) -> list[str]:
        """Names of the checkpoints that saw one of these rows."""
        wanted = set(rows)
        return sorted(name for name, c in self.checkpoints.items() if wanted & set(c.saw))
