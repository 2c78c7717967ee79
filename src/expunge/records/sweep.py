"""What a search over a recipe's options tried, and what came of it."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from expunge.records.base import Record

SWEEP_SCHEMA = "expunge.sweep/1"


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

        def beaten(one: Trial) -> bool:
            return any((t.quality, t.utility) != (one.quality, one.utility)
                       and t.quality >= one.quality and t.utility >= one.utility  # type: ignore[operator]
                       for t in known)

        return tuple(sorted((t for t in known if not beaten(t)), key=lambda t: -(t.quality or 0.0)))

    def best(self) -> Trial | None:
        """The trial of the highest merit, of equal ones one of the front; None when all failed."""
        return max((t for t in self.trials if t.merit is not None),
                   key=lambda t: (t.merit or 0.0, t.quality or 0.0, t.utility or 0.0), default=None)
