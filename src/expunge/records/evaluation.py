"""Results of standard benchmarks on a run, as lm-eval gives them."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from expunge.records.base import Record

EVALUATION_SCHEMA = "expunge.eval/1"


class Result(Record):
    """One metric of one task."""

    task: str
    metric: str
    filter: str
    """How lm-eval took the answer out of what was generated; none for likelihoods."""
    value: float
    error: float | None = None
    """Standard error, as lm-eval gives it."""
    original: float | None = None
    """The same of the model before unlearning."""


class Evaluation(Record):
    """RUN/eval.json."""

    schema_: str = Field(EVALUATION_SCHEMA, alias="schema")
    model_config = Record.model_config | {"populate_by_name": True}
    model: str
    fingerprints: dict[str, str]
    """Role (subject, original) -> hash of its weights."""
    tasks: tuple[str, ...]
    limit: int | None
    seed: int
    results: tuple[Result, ...]
    environment: dict[str, Any]
