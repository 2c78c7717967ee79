"""Whether a model lost what it should keep. Low scores of the forget set then show damage, not forgetting."""

from __future__ import annotations

from collections.abc import Sequence

from expunge.judgement.directions import base
from expunge.judgement.leaks import MIN_ROWS
from expunge.records.score import SMALL, Score

KEPT = ("retain.probability", "retain.accuracy", "model_utility")
"""Scores of what a model should keep; higher is better."""
HALF = 0.5
"""Share of what the original reached below which a model is ruined."""


def lost_utility(scores: Sequence[Score]) -> tuple[Score, ...]:
    """Scores of the model left alone whose interval ends below half of the original's value.

    The retained part is set against the retrained model where there is no original.
    """
    return tuple(s for s in scores if s.attack is None and base(s) in KEPT and s.n >= MIN_ROWS
                 and s.interval is not None and (before := reference(s)) is not None
                 and before > 2 * SMALL and s.interval[1] < HALF * before)


def reference(score: Score) -> float | None:
    """What the original reached, or the retrained model where there is no original."""
    known = (score.controls.get(name) for name in ("original", "retrained"))
    return next((value for value in known if value is not None), None)
