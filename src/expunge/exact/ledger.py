"""The ledger of a sharded model: the shard and slice of each row, and the rows each checkpoint saw. No torch.

Shards and slices are counted from 0; the checkpoint "k.r" is shard k after its slices 0 to r.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from expunge.errors import DataError
from expunge.records.base import Record, fingerprint
from expunge.records.task import Example
from expunge.seeding import derive

NAME = "ledger.json"
LEDGER_SCHEMA = "expunge.sisa/1"
Average = Literal["logprob", "posterior"]


def place(row: str, shards: int, slices: int, seed: int) -> tuple[int, int]:
    """Shard and slice of the row with id `row`: a hash of the id, so that they do not depend on other rows."""
    number = derive(seed, "sisa", "place", row)
    return number % shards, number // shards % slices


def content(example: Example) -> str:
    """Fingerprint of a row as training saw it, 16 hex digits. Keep it private: a short text can be guessed from it."""
    return fingerprint([example.kind, example.prompt, example.messages, example.answer])


def name_of(shard: int, slice_: int) -> str:
    """Name of a checkpoint."""
    return f"{shard}.{slice_}"


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

    def stage_steps(self, slice_: int) -> int:
        """Optimizer steps of the stage that ends with slice `slice_`; independent of the rows.

        A stage takes 2 / (slices + 1) of the epochs, over all slices so far, so that the stages of a shard
        together cost as much as training without slices.
        """
        share = 2 * (slice_ + 1) / (self.slices * (self.slices + 1))
        total = self.steps / self.shards if self.steps else self.epochs * self.batches * self.slices
        return max(round(total * share), 1)

    def share(self, slice_: int) -> float:
        """Share of a shard's planned steps from the stage of `slice_` on."""
        retrained = sum(self.stage_steps(r) for r in range(slice_, self.slices))
        return retrained / sum(self.stage_steps(r) for r in range(self.slices))


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

    def members(self, shard: int, last: int) -> list[str]:
        """Ids of a shard's rows in its slices 0 to `last`, sorted."""
        return sorted(name for name, p in self.rows.items() if p.shard == shard and p.slice <= last)

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

    def first_slices(self, rows: Iterable[str]) -> dict[int, int]:
        """Shard -> the first slice that contains one of the rows."""
        first: dict[int, int] = {}
        for name in rows:
            known = self.rows[name]
            first[known.shard] = min(known.slice, first.get(known.shard, known.slice))
        return first

    def share(self, rows: Iterable[str]) -> float:
        """Planned steps to delete these rows together, over the planned steps of the whole training."""
        return sum(self.plan.share(r) for r in self.first_slices(rows).values()) / self.plan.shards

    def checkpoints_with(self, rows: Iterable[str]) -> list[str]:
        """Names of the checkpoints that saw one of these rows."""
        wanted = set(rows)
        return sorted(name for name, c in self.checkpoints.items() if wanted & set(c.saw))
