"""Whether forgetting outlasts rounding of the weights: the certificate of DurableUn (arXiv 2605.02196), corrected.

It takes the worst forget probability of the model as it is and under every rounding. Two corrections: a model that also
lost what it should keep cannot pass, and a rounding that destroys the model is no precision that was tried. What it
shows of the forget rows still counts: a maximum can only hide a leak by leaving something out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from expunge.records.score import Score

NAME = "durability"
FORGET, RETAIN = "forget.probability", "retain.probability"
ROUNDING = "quantise"
FLOOR = 0.5
"""A model that keeps less than this share of the original's retain probability has collapsed."""


@dataclass(frozen=True)
class Durability:
    """The worst forget probability, or why there is none."""

    value: float | None
    said: str


def rounds(label: str) -> bool:
    """Whether an attack of this label rounds the weights and does nothing else."""
    return label.partition("(")[0].strip() == ROUNDING and "+" not in label


def durability(scores: Iterable[Score]) -> Durability:
    """The certificate's figure, from the scores of an audit."""
    found: dict[tuple[str, str | None], Score] = {(s.name, s.attack): s for s in scores}
    labels = sorted({label for name, label in found if name == FORGET and label is not None and rounds(label)})
    forget, retain = found.get((FORGET, None)), found.get((RETAIN, None))
    if forget is None or forget.value is None or retain is None or retain.value is None:
        return Durability(None, f"it needs {FORGET} and {RETAIN} of the model as it is")
    before = retain.controls.get("original")
    if not labels:
        return Durability(None, "no precision was tried: the audit has no quantise")
    if before is None:
        return Durability(None, f"it needs {RETAIN} of the original, to tell a model that has collapsed from one "
                                "that has not (--original)")
    least = FLOOR * before
    if retain.value < least:
        return Durability(None, f"the model has collapsed: {RETAIN} is {retain.value:.3g}, below {least:.3g}, so that "
                                "it keeps nothing that could come back")
    values, destroyed = {"unrounded": forget.value}, []
    for label in labels:
        after, kept = found[FORGET, label], found.get((RETAIN, label))
        if after.value is not None:
            values[label] = after.value
        if after.value is None or kept is None or kept.value is None or kept.value < least:
            destroyed.append(label)
    tried = len(labels) - len(destroyed)
    if not tried:
        return Durability(None, f"no precision was tried that leaves the model whole "
                                f"({', '.join(destroyed)})")
    worst = max(values, key=lambda label: values[label])
    aside = (f"; no precisions that were tried, since they destroy the model or were not measured: "
             f"{', '.join(destroyed)}") if destroyed else ""
    return Durability(values[worst], f"{FORGET} is at most {values[worst]:.4g} ({worst}) under {tried} "
                                     f"precisions{aside}")


__all__ = ["FLOOR", "FORGET", "NAME", "RETAIN", "ROUNDING", "Durability", "durability", "rounds"]
