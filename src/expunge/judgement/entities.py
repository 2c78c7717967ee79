"""Whether one entity is known although every average looks retrained: what the worst entity supports."""

from __future__ import annotations

from collections.abc import Sequence

from expunge.judgement.directions import base, figure
from expunge.judgement.leaks import RESIDUE
from expunge.records.score import SMALL, Score, WorstEntity

LEAK = "leak_share"
MOST = 0.5
"""Share of the rows of an entity beyond which it is known."""
CHANCE = 0.01
"""That a model which never saw the forget set has such an entity, at most, corrected for their number."""


def leak_share(scores: Sequence[Score]) -> Score | None:
    """The leak share of the model left alone, set against a retrained model."""
    return next((s for s in scores if s.attack is None and base(s) == LEAK and s.value is not None
                 and s.controls.get("retrained") is not None), None)


def known_entity(scores: Sequence[Score]) -> Score | None:
    """The same where most rows of the worst entity lie beyond every control."""
    score = leak_share(scores)
    return score if score is not None and score.worst is not None and score.worst.share > MOST else None


def leaking(scores: Sequence[Score]) -> Score | None:
    """The same where more rows lie beyond every control than chance and a few odd rows explain."""
    score = leak_share(scores)
    found = score is not None and score.interval is not None and score.interval[0] > SMALL
    return score if found and score is not None and (score.value or 0.0) >= RESIDUE else None


def certain(score: Score, tests: int = 1) -> bool:
    """Whether its worst entity is known beyond doubt: rows and controls enough, and no control has one like it."""
    worst = score.worst
    return (worst is not None and worst.share > MOST and worst.exact and worst.chance * tests <= CHANCE
            and (worst.control is None or worst.control <= worst.share / 2))


def revealed(scores: Sequence[Score]) -> tuple[Score, ...]:
    """Attacks under which an entity is known beyond doubt. Several retrained models went through the same attack: one
    cannot tell how much an attack makes two of them differ."""
    under = [s for s in scores if s.attack is not None and base(s) == LEAK and s.counted and s.value is not None]
    return tuple(s for s in under if s.worst is not None and s.worst.control is not None and certain(s, len(under)))


def worded_entity(score: Score) -> str:
    """Whom it is about, with the figures and what they rest on."""
    assert score.worst is not None  # only such scores are worded
    worst = score.worst
    said = (f"{round(worst.share * worst.rows)} of {worst.rows} rows about {worst.entity} are said more surely than by "
            f"every retrained model{f' under {score.attack}' if score.attack else ''}")
    if certain(score):
        return (f"One entity is known: {said}. A model that never saw them has such an entity, among {worst.entities}, "
                f"with a chance below {figure(max(worst.chance, 1e-9))}.")
    return f"One entity may be known: {said}, but {_doubt(worst)}."


def _doubt(worst: WorstEntity) -> str:
    if worst.chance > CHANCE:
        return f"so few rows of one among {worst.entities} entities may be chance"
    if not worst.exact:
        return "the margin rests on few rows"
    return (f"a retrained model says up to {worst.control or 0.0:.0%} of the rows of an entity more surely than the "
            "other ones do")
