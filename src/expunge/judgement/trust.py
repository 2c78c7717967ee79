"""How far a metric itself can be trusted: the meta-evaluation of OpenUnlearning (arXiv 2506.12618, section 4).

All metrics are taken so that higher = more knowledge, in 0..1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from expunge.metrics.statistics import auc, bootstrap, harmonic_mean


@dataclass(frozen=True)
class Readings:
    """One unlearned model under one metric: left alone, relearned for an epoch, rounded to four bits."""

    before: float
    relearned: float
    quantised: float


@dataclass(frozen=True)
class Trust:
    """What the meta-evaluation says of one metric; robustness is None when no model passed its filter."""

    faithfulness: float
    interval: tuple[float, float]
    """95 %, by redrawing models."""
    threshold: float
    models: int
    """Unlearned models whose value lies below the threshold; the others still know by this metric."""
    relearning: float | None = None
    quantisation: float | None = None

    @property
    def robustness(self) -> float | None:
        """Harmonic mean of both."""
        if self.relearning is None or self.quantisation is None:
            return None
        return harmonic_mean([self.relearning, self.quantisation])

    @property
    def overall(self) -> float | None:
        """Harmonic mean of faithfulness and robustness."""
        return None if self.robustness is None else harmonic_mean([self.faithfulness, self.robustness])


def trust(knowing: Sequence[float], ignorant: Sequence[float], unlearned: Sequence[Readings], gain_of_retrained: float,
          resamples: int = 1000) -> Trust:
    """Judge a metric by its values on models that know, on models that do not, and on unlearned ones.

    Args:
        gain_of_retrained: what the metric gains when the retrained model goes through the same relearning.
    """
    inside, outside = np.asarray(knowing, float), np.asarray(ignorant, float)
    pools = {"knowing": inside, "ignorant": outside}
    interval = bootstrap(lambda drawn: auc(drawn["knowing"], drawn["ignorant"]), pools, resamples)
    limit = threshold(knowing, ignorant)
    kept = [case for case in unlearned if case.before <= limit]
    if not kept:
        return Trust(auc(inside, outside), interval, limit, 0)
    relearning = [relearning_robustness(c.before, c.relearned, gain_of_retrained) for c in kept]
    quantisation = [quantisation_robustness(c.before, c.quantised) for c in kept]
    return Trust(auc(inside, outside), interval, limit, len(kept), float(np.mean(relearning)),
                 float(np.mean(quantisation)))


def threshold(knowing: Sequence[float], ignorant: Sequence[float]) -> float:
    """The value that tells the two pools apart with the fewest mistakes: above it a model counts as knowing."""
    ends = sorted({*knowing, *ignorant})
    cuts = [(a + b) / 2 for a, b in pairwise(ends)] or ends
    return max(cuts, key=lambda cut: sum(v > cut for v in knowing) + sum(v <= cut for v in ignorant))


def relearning_robustness(before: float, after: float, gain_of_retrained: float) -> float:
    """min(gain of the retrained model / gain of this one, 1): what was forgotten is not learned back faster.

    1 for a model that gains nothing; where the retrained model gains nothing and this one does, it is 0.
    """
    gain, allowed = after - before, max(gain_of_retrained, 0.0)
    return 1.0 if gain <= allowed else allowed / gain


def quantisation_robustness(before: float, after: float) -> float:
    """min(before / after, 1): rounding the weights does not bring knowledge back."""
    return 1.0 if after <= before else before / after
