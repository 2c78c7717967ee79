"""On which side of the retrained model a score lies, and how it is written in a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from expunge.judgement.leaks import LONE_RESIDUE, MIN_ROWS, RESIDUE
from expunge.records.score import SMALL, Score


def is_above(score: Score, which: str = "retrained") -> bool:
    """More than a control shows, beyond the interval and by a gap that matters.

    Where the original itself shows no more than the control, the score cannot tell who knows. Holdout rows are other
    rows, which may be harder or easier: beside them the gap must be a quarter of what there is up to the original, or
    up to 1.
    """
    beside, original = score.controls.get(which), score.controls.get("original")
    if score.interval is None or score.value is None or beside is None or score.n < MIN_ROWS:
        return False
    if which == "holdout":
        top = 1.0 if original is None else original
        return score.interval[0] > beside and score.value - beside >= max(SMALL, LONE_RESIDUE * (top - beside))
    enough = original is None or (original - beside > SMALL and score.value - beside >= RESIDUE * (original - beside))
    return score.interval[0] > beside and enough


def beside_holdout(score: Score, plain: Mapping[str, Score]) -> Score:
    """The score with that of the holdout rows as a control, where there is no retrained model and rows enough."""
    aside = plain.get(score.name.replace("forget.", "holdout.", 1))
    if score.controls.get("retrained") is not None or aside is None or aside is score or aside.n < MIN_ROWS:
        return score
    return score.model_copy(update={"controls": {**score.controls, "holdout": aside.value}})


def is_below(score: Score) -> bool:
    """Less than the retrained model shows, beyond the interval."""
    retrained = score.controls.get("retrained")
    return (score.interval is not None and retrained is not None and score.n >= MIN_ROWS
            and score.interval[1] < retrained)


def base(score: Score) -> str:
    """`forget_quality` of `forget_quality(variant=legacy)`."""
    return score.name.partition("(")[0]


def figure(value: float) -> str:
    return f"{value:.3g}"


BESIDE = {"retrained": "", "chance": " by chance", "holdout": " on holdout rows"}
"""What a score is set against, and how a sentence says so."""


def against(scores: Iterable[Score]) -> str:
    """`forget.probability (0.8 against 0.2)`, joined by commas; empty for none."""
    found = []
    for s in scores:
        which = next((w for w in BESIDE if s.controls.get(w) is not None), "holdout")
        beside, on = s.controls.get(which) or 0.0, BESIDE[which]
        found.append(f"{s.name} ({figure(s.value or 0.0)} against {figure(beside)}{on})")
    return ", ".join(found)


def compare(score: Score) -> str:
    """`forget.probability is 0.3 [0.28, 0.32], n = 400 (original 0.9, retrained 0.1).`"""
    span = f" [{', '.join(figure(v) for v in score.interval)}]" if score.interval else ""
    known = [f"{k} {figure(v)}" for k, v in score.controls.items() if v is not None]
    controls = f" ({', '.join(known)})" if known else ""
    return f"{score.name} is {figure(score.value or 0.0)}{span}, n = {score.n}{controls}."
