"""What every kind of row has in common: one encoder per modality makes rows of examples and batches of rows.

Legend: B rows, N supervised units of the whole batch (flat, row after row): answer tokens, or the label of an image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor

from expunge.errors import DataError
from expunge.records.prompt import PromptFormat
from expunge.records.task import Example

Count = Literal["tokens", "positions", "sequences"]
"""What a mean is taken over: supervised units, all real positions, or rows."""


class Row(Protocol):
    """One example as a model reads it."""

    @property
    def id(self) -> str: ...

    @property
    def key(self) -> str:
        """Content hash: what cached reference values are filed under."""

    @property
    def supervised(self) -> int:
        """How many supervised units it has."""

    @property
    def truncated(self) -> bool: ...


class Batch(Protocol):
    """Rows that go through a model together. Made by `Encoder.collate` only."""

    @property
    def rows(self) -> tuple[Any, ...]: ...

    @property
    def row_N(self) -> Tensor:
        """Which row each supervised unit belongs to."""

    @property
    def target_N(self) -> Tensor:
        """What is right for each supervised unit: index of a token, or of a class."""

    @property
    def device(self) -> torch.device: ...

    def __len__(self) -> int: ...

    def count(self, over: Count) -> int:
        """Denominator of a mean over this batch."""

    def to(self, device: torch.device) -> Self: ...


class Encoder(Protocol):
    """Turns examples into rows, and rows into batches. Its rows fit the models that its subject class runs."""

    def encode(self, example: Example, *, answer: str | None = None, prompt: str | None = None) -> Any:
        """The row of an example, or the same with another answer or prompt in its place."""

    def collate(self, rows: Sequence[Any]) -> Any:
        """One batch. Raises DataError for a row without a supervised unit."""

    def concat(self, batches: Sequence[Any]) -> Any:
        """One batch of all rows, so that several sides share a forward pass."""

    def batches(self, rows: Sequence[Any], chosen: Sequence[int] | None = None) -> Iterator[list[int]]:
        """Indices (all, or those `chosen`) in batches whose size is bounded, whatever the rows are."""

    def check(self, rows: Sequence[Any], config: Any, what: str) -> list[DataError]:
        """Why these rows cannot go through a model of this config; empty when they can."""

    def check_alternatives(self, rows: Sequence[Any], config: Any, what: str) -> list[DataError]:
        """The same for rows that are only asked about and may be left out."""

    def describe(self, rows: Sequence[Example]) -> PromptFormat:
        """How these rows are put to the model, with the first of them and what looks wrong."""

    @property
    def fingerprint(self) -> str:
        """Equal for encoders that make equal rows of equal examples."""

    def save(self, folder: Path) -> None:
        """Whatever a model folder needs to make the same rows again."""
