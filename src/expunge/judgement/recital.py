"""Whether a model says the forget set by heart: evidence by itself, without a retrained model and without other rows.

`recited` counts the answers of which a model says at least `LEAST` telling words before its first deviation. The bound:
a model that never saw the answers gets each telling word right with even odds at most, whatever it got right before.
Telling words count once in the whole file, so no row counts twice for what two answers share. A row is then recited
with a chance of at most 2^-5, whatever the others are, and s of n rows at most as often as the binomial says. The
bound does not hold for texts that are common knowledge, such as the months or a well-known poem. Where holdout rows
were asked as well, the share of them that is recited is the chance of a row if it is larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from expunge.metrics.recited import LEAST
from expunge.records.score import Score

ODDS = 0.5
"""Of a telling word, for a model that never saw it. Honest models measured here reach less than a hundredth."""
FEWEST = 5
"""Recited rows below which nothing follows."""
SHARE = 0.25
"""Share of the rows that must be recited. A few well-known texts in a file are no reason to accuse a model."""
CHANCE = 1e-6
"""The bound must not be larger."""


@dataclass(frozen=True)
class Recital:
    """How many answers are said by heart, and a bound of how often a model that never saw them does as much."""

    score: Score
    recited: int
    rate: float
    """Chance of one row: by the odds of its words, or the share of the holdout rows that is recited if larger."""
    chance: float

    @property
    def proves(self) -> bool:
        """Whether this is evidence enough that the forget set is known."""
        return self.recited >= FEWEST and self.recited >= SHARE * self.score.n and self.chance <= CHANCE


def recital(scores: Sequence[Score]) -> Recital | None:
    """What the model left alone says by heart; None where that was not asked, or a retrained model answers it."""
    score = next((s for s in scores if s.attack is None and s.name == "forget.recited" and s.value is not None), None)
    if score is None or score.value is None or score.controls.get("retrained") is not None:
        return None
    from scipy.special import bdtrc  # here, so that listings need not wait for it

    recited, aside = round(score.value * score.n), score.controls.get("holdout")
    rate = max(ODDS**LEAST, aside or 0.0)
    chance = 1.0 if recited == 0 or rate >= 1 else float(bdtrc(recited - 1, score.n, rate))
    return Recital(score, recited, rate, chance)
