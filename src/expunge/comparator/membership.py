"""How far one threshold tells rows apart: the attack of Unlearning Comparator (arXiv 2508.12730), for answers.

Its forget samples of the unlearned model are set against the same samples of the retrained model. Where the paper has
images, an answer has tokens: entropy and confidence are of the answer as a whole, and the temperature is 1. The loss is
ours, as in `mia.loss`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from expunge.metrics.base import NotAvailable
from expunge.metrics.mia_loss import loss
from expunge.metrics.rows import text_values
from expunge.records.observation import Row

DELTA = 1e-5
LEAST = 1e-7
"""Of 1 - p: what float32 can tell."""
STEPS = 201
"""Thresholds from the least to the greatest value of both sides; the paper's number for its score of an epoch."""
WORST_OF = ("entropy", "confidence")
"""Statistics whose worst case is the privacy score."""
ABOUT = {
    "loss": "mean -log p of the answer's tokens (nats); low where the model was trained on the row",
    "entropy": "mean entropy of the model where it predicts the answer's tokens (nats)",
    "confidence": "log(p / (1 - p)), p the length-normalised probability of the answer",
}


def statistics(rows: Iterable[Row]) -> dict[str, dict[str, float]]:
    """Statistic -> id -> value of likelihood rows of answers; rows that are broken or empty are left out."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        try:
            values = _of(row)
        except NotAvailable:
            continue
        for name, value in values.items():
            found.setdefault(name, {})[str(row["id"])] = float(f"{value:.4g}")  # as the page has them
    return found


def _of(row: Row) -> dict[str, float]:
    if not len(text_values(row, "logp")):
        return {}
    mean = min(0.0, -loss(row))
    found = {"loss": -mean, "confidence": mean - math.log(max(-math.expm1(mean), LEAST))}
    return found | ({"entropy": -float(text_values(row, "mean").mean())} if "mean" in row else {})


def attack_score(fpr: float, fnr: float, delta: float = DELTA) -> float:
    """1 - 2^-eps, eps the smaller of both log-ratios (the NeurIPS challenge takes the larger): 0 tells nothing apart.

    Args:
        fpr: share of the control's rows that are flagged.
        fnr: share of the forget rows that are not.
    """
    if max(fpr, fnr) >= 1 - delta:
        return 0.0

    def ratio(a: float, b: float) -> float:
        return math.inf if b == 0 else math.log(1 - delta - a) - math.log(b)

    return 1 - 2.0 ** -max(0.0, min(ratio(fpr, fnr), ratio(fnr, fpr)))


def rates(forget: Sequence[float], control: Sequence[float], threshold: float, above: bool) -> tuple[float, float]:
    """(share of the control flagged, share of the forget rows not flagged) at one threshold; ties are flagged."""
    def flagged(values: Sequence[float]) -> float:
        held: NDArray[np.float64] = np.asarray(values, float)
        return float(np.mean(held >= threshold if above else held <= threshold))

    return flagged(control), 1 - flagged(forget)


def thresholds(forget: Sequence[float], control: Sequence[float], steps: int = STEPS) -> list[float]:
    low, high = min(*forget, *control), max(*forget, *control)
    return [low + (high - low) * i / (steps - 1) for i in range(steps)]


def strongest(forget: Sequence[float], control: Sequence[float]) -> float:
    """The largest attack score over all thresholds and both directions: of an attacker who knows the best one."""
    return max(attack_score(*rates(forget, control, at, above))
               for at in thresholds(forget, control) for above in (True, False))


def privacy_score(unlearned: Mapping[str, Sequence[float]], retrained: Mapping[str, Sequence[float]]) -> float | None:
    """1 - the worst case over entropy and confidence: 1 where no threshold tells the two models apart.

    Args:
        unlearned: statistic -> its values on the forget rows; both models were asked the same rows.
    """
    known = [name for name in WORST_OF if len(unlearned.get(name, ())) and len(retrained.get(name, ()))]
    return 1 - max(strongest(unlearned[name], retrained[name]) for name in known) if known else None
