"""Replaces the answer of a forget row by a refusal."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

from pydantic import Field

from expunge.data.refusals import refusal_for, refusals
from expunge.methods.base import WeightedSpec
from expunge.records.task import Example


class RefusalSpec(WeightedSpec):
    """Options of every objective that trains on refusals."""

    refusals: str | None = Field(None, description="File of refusal sentences, one per line; built-in if left out.")


@cache
def _sentences(path: str | None) -> tuple[str, ...]:
    return refusals(Path(path) if path else None)


def refuse(example: Example, path: str | None, rng: random.Random) -> Example:
    """The same question with a refusal drawn from the list as its answer; an image gets another class."""
    return example.model_copy(update={"answer": refusal_for(example, _sentences(path), rng)})
