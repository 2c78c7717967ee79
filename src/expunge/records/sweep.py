"""What a search over a recipe's options tried, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeVar

from pydantic import Field

from expunge.records.base import Record

SWEEP_SCHEMA = "expunge.sweep/1"
Point = TypeVar("Point")


def unbeaten(points: Iterable[Point], merits: Callable[[Point], tuple[float, float]]) -> list[Point]:
    """Points that no other beats in both merits, the highest first merit first; higher is better in each."""
    known = [(point, merits(point)) for point in points]
    kept = [(point, mine) for point, mine in known
            if not any(other != mine and other[0] >= mine[0] and other[1] >= mine[1] for _, other in known)]
    return [point for point, _ in sorted(kept, key=lambda pair: -pair[1][0])]


class Trial(Record):
    """One setting: what was drawn, the recipe it made, and how it did."""

    number: int
    params: dict[str, float | int | str | bool | None]
    """Searched options as `term.option`, and `lr`."""
    recipe: str
    scores: dict[str, float | None] = Field(default_factory=dict)
    originals: dict[str, float | None] = Field(default_factory=dict)
    """The same scores of the model before unlearning."""
    quality: float | None = None
    """log10 of forget quality; higher forgets better. None for a trial that failed."""
    utility: float | None = None
    """Model utility as a share of the original's."""
    merit: float | None = None
    """One figure to choose by; see `merit`."""
    seconds: float = 0.0
    """Of training, and of the whole trial in `total_s`."""
    total_s: float = 0.0
    peak_memory_bytes: int = 0
    failed: str = ""
    """Why there are no scores, in one sentence."""


class Sweep(Record):
    """DIR/sweep.json."""

    FILE: ClassVar[str] = "sweep.json"
    schema_: str = Field(SWEEP_SCHEMA, alias="schema")
    model_config = Record.model_config | {"populate_by_name": True}
    recipe: str
    space: dict[str, tuple[Any, ...]]
    """Searched option -> ("log", low, high) | ("uniform", low, high) | ("choice", *values)."""
    settings: dict[str, Any]
    task: str
    task_fingerprint: str
    model_fingerprint: str
    seed: int
    environment: dict[str, Any]
    trials: tuple[Trial, ...] = ()

    def front(self) -> tuple[Trial, ...]:
        """Trials that no other beats in both forget quality and utility, best quality first."""
        known = [t for t in self.trials if t.quality is not None and t.utility is not None]
        return tuple(unbeaten(known, lambda t: (t.quality or 0.0, t.utility or 0.0)))

    def best(self) -> Trial | None:
        """The trial of the highest merit, of equal ones one of the front; None when all failed."""
        return max((t for t in self.trials if t.merit is not None),
                   key=lambda t: (t.merit or 0.0, t.quality or 0.0, t.utility or 0.0), default=None)
