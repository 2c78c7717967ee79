"""What a set of shadow models was made of, and what attacks with all of them found."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from expunge.records.base import Record

SHADOWS_SCHEMA = "expunge.shadows/1"
ORIGINAL, RETRAINED = "original", "retrained"


class Shadows(Record):
    """DIR/shadows.json."""

    FILE: ClassVar[str] = "shadows.json"
    schema_: str = Field(SHADOWS_SCHEMA, alias="schema")
    model_config = Record.model_config | {"populate_by_name": True}
    methods: tuple[str, ...]
    """Recipes, each applied to every shadow; `original` (nothing done) and `retrained` (exact) come by themselves."""
    model: str
    settings: dict[str, Any]
    task: str
    task_fingerprint: str
    seed: int
    environment: dict[str, Any]
    states: tuple[dict[str, str], ...]
    """Per shadow: entity -> forgotten (trained on, then unlearned), kept (trained on) or out (never seen)."""
    points: int
    """Rows asked of every model."""
    statistic: str = "ln(p/(1-p)), p = exp(mean log-prob per token of the answer and its end token), cut at +-100"
    trainings: int = 0
    """How many runs the whole set is: an original, a retrained twin and one per method for each shadow."""
    finished: int = 0
    """How many of them have their rows on disk."""
    seconds: float = 0.0
    """Spent so far."""
    results: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Model -> measure -> numbers, or {"unavailable": why}; the row `retrained` is the floor of the others."""
