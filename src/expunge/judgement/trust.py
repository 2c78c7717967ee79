"""How far a metric itself can be trusted: the meta-evaluation of metrics, by two protocols.

A metric `m` is taken so that higher = more knowledge. It is read on a *pool*, models of which the truth is known, and
on unlearned models as they are, relearned and quantised. Notation: `m` before, `m_q` after rounding the weights to four
bits (nf4), `m_r` after one epoch on the forget rows with all weights, `D = m_r - m`, `D_ret` the same of a retrained
model, HM the harmonic mean.

Faithfulness, in both protocols: AUC of `m` between the models of the pool that know and those that do not. Here it is
the mean over folds. *A fold is a pair: one kind of knowing models and one kind of ignorant models, held out together.*
A metric that is fitted (a combination of others) is fitted on all other kinds, so that no model is judged by a fit that
saw a model of its kind. For all others the mean over folds is the AUC of the whole pool, if all kinds have as many
models.

Published protocol (OpenUnlearning, arXiv 2506.12618, section 4), one-sided:

    R = min(D_ret / D, 1)        Q = min(m / m_q, 1)

R is 1 where D <= max(D_ret, 0); Q is 1 where m_q <= m.

Symmetric protocol (Unlearning Depth Score, arXiv 2605.24614):

    R = 1 - |D - D_ret| / (|D| + |D_ret|)        Q = 1 - |m_q - m| / (|m_q| + |m|)

Both are 1 where 0 stands over 0.

Both protocols take the mean over the unlearned models that the metric itself calls ignorant (`m` at or below the
threshold that tells the two sides of the pool apart with the fewest mistakes), then

    robustness = HM(mean R, mean Q)        overall = HM(faithfulness, robustness)

R does not change when `m` is replaced by `a m + b`; Q and the overall score do. A metric that hardly moves because its
scale is narrow looks robust: read faithfulness beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Interval = tuple[float, float]
FEWEST = 10
"""Unlearned models below the threshold from which robustness is given; with fewer there is no rank."""
TINY = 0.01
"""|D| + |D_ret| below which a symmetric R is mostly noise."""


@dataclass(frozen=True)
class Known:
    """A model of the pool. `kind` says what it was taught, `size` which architecture it has; models of one kind and
    size are redrawn among themselves."""

    kind: str
    knows: bool
    value: float
    size: str = ""


@dataclass(frozen=True)
class Readings:
    """An unlearned model under one metric: as it is, relearned for an epoch, rounded to four bits. Models of one
    `recipe` and size are redrawn among themselves."""

    before: float
    relearned: float
    quantised: float
    recipe: str = ""
    size: str = ""


Fold = tuple[str, str]
"""(knowing kind, ignorant kind)."""
HeldOut = Mapping[Fold, Mapping[int, float]]
"""Fold -> index of a model in the pool -> its value by a fit without these two kinds."""


@dataclass(frozen=True)
class Robustness:
    """One protocol's figures, each 0..1, with 95 % intervals of what is made of them."""

    relearning: float
    quantisation: float
    robustness: float
    robustness_interval: Interval
    overall: float
    overall_interval: Interval


@dataclass(frozen=True)
class Trust:
    """What the meta-evaluation says of one metric."""

    faithfulness: float
    interval: Interval
    """95 %, by redrawing models within their kind and size. It is (1, 1) where no model is on the wrong side: drawing
    again cannot show a mistake that was not made once."""
    folds: Mapping[Fold, float]
    """AUC of each fold."""
    threshold: float
    models: int
    """Unlearned models whose value lies at or below the threshold; the others still know by this metric."""
    near_zero: float | None
    """Share of them with |D| + |D_ret| below 0.01, whose symmetric R is mostly noise; None without any."""
    published: Robustness | None
    """None with fewer than ten models."""
    symmetric: Robustness | None

    @property
    def worst_fold(self) -> tuple[Fold, float]:
        """The fold with the lowest AUC."""
        return min(self.folds.items(), key=lambda item: item[1])


def trust(pool: Sequence[Known], unlearned: Sequence[Readings], gains: Mapping[str, Sequence[float]], *,
          held_out: HeldOut | None = None, resamples: int = 1000, seed: int = 0) -> Trust:
    """Judge a metric by its values on models that know, on models that do not, and on unlearned ones.

    Args:
        gains: size -> what the metric gains when retrained models of that size go through the same relearning; D_ret
            is their mean.
        held_out: values by fits that saw neither kind of a fold, for metrics that are fitted. Fits are not
            repeated when models are redrawn.
    """
    random = np.random.default_rng(seed)
    drawn = _drawn([(m.kind, m.size) for m in pool], resamples, random)
    folds = _fold_aucs(pool, drawn, held_out)
    faithful = np.mean(list(folds.values()), axis=0)
    cuts, accuracy = _cuts(pool, drawn)
    limits = cuts[np.argmax(accuracy, axis=1)]
    before = np.asarray([c.before for c in unlearned], float)
    kept = before[None, :] <= limits[:, None]
    models = int(kept[0].sum()) if len(unlearned) else 0
    allowed = _allowed(unlearned, gains, resamples, random)
    found: dict[str, Robustness | None] = {"published": None, "symmetric": None}
    if models >= FEWEST:
        weights = kept * _drawn([(c.recipe, c.size) for c in unlearned], resamples, random)
        for name in found:
            found[name] = _robustness(name, unlearned, allowed, weights, faithful)
    moves = np.abs(_moves(unlearned)) + np.abs(allowed[0])
    near = float(np.mean(moves[kept[0]] < TINY)) if models else None
    return Trust(float(faithful[0]), _interval(faithful), {k: float(v[0]) for k, v in folds.items()},
                 float(limits[0]), models, near, **found)


def relearning_robustness(before: Array | float, after: Array | float, allowed: Array | float) -> Array:
    """Published: min(D_ret / D, 1). What was forgotten is not learned back faster than by a retrained model.

    1 for a model that gains nothing; where the retrained model gains nothing and this one does, it is 0.
    """
    gain, limit = np.asarray(after, float) - before, np.maximum(allowed, 0.0)
    return np.where(gain <= limit, 1.0, limit / np.where(gain <= limit, 1.0, gain))


def quantisation_robustness(before: Array | float, after: Array | float) -> Array:
    """Published: min(m / m_q, 1). Rounding the weights does not bring knowledge back."""
    before, after = np.asarray(before, float), np.asarray(after, float)
    return np.where(after <= before, 1.0, before / np.where(after <= before, 1.0, after))


def likeness(one: Array | float, other: Array | float) -> Array:
    """Symmetric: 1 - |a - b| / (|a| + |b|), and 1 where both are 0; Q of readings, R of changes."""
    one, other = np.asarray(one, float), np.asarray(other, float)
    total = np.abs(one) + np.abs(other)
    return 1 - np.abs(one - other) / np.where(total > 0, total, 1.0)


def threshold(knowing: Sequence[float], ignorant: Sequence[float]) -> float:
    """The value that tells the two sides apart with the fewest mistakes: above it a model counts as knowing."""
    pool = [Known("knowing", True, v) for v in knowing] + [Known("ignorant", False, v) for v in ignorant]
    cuts, accuracy = _cuts(pool, np.ones((1, len(pool))))
    return float(cuts[np.argmax(accuracy[0])])


def folds_of(pool: Sequence[Known]) -> list[Fold]:
    """Every pair of a knowing and an ignorant kind."""
    knowing, ignorant = (list(dict.fromkeys(m.kind for m in pool if m.knows is side)) for side in (True, False))
    return list(product(knowing, ignorant))


def fitted(features: Sequence[Sequence[float]], knows: Sequence[bool], asked: Sequence[Sequence[float]]) -> Array:
    """Log-odds of knowing, by a logistic regression on standardised features (L2, C = 1).

    Args:
        features: of the models it is fitted on, shape n d.
        asked: of the models to be judged, shape m d.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import, and nothing else here needs it

    known_nd, asked_md = np.asarray(features, float), np.asarray(asked, float)
    mean_d, spread_d = known_nd.mean(0), known_nd.std(0)
    spread_d = np.where(spread_d > 0, spread_d, 1.0)
    # This solver goes to the optimum, so that every version of it finds the same one.
    model = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-10)
    model.fit((known_nd - mean_d) / spread_d, np.asarray(knows))
    return np.asarray(model.decision_function((asked_md - mean_d) / spread_d), float)


def held_out_values(pool: Sequence[Known], features: Sequence[Sequence[float]]) -> HeldOut:
    """For every fold, the values of its models by a fit on the models of all other kinds."""
    found: dict[Fold, dict[int, float]] = {}
    for fold in folds_of(pool):
        inside = [i for i, m in enumerate(pool) if m.kind in fold]
        outside = [i for i, m in enumerate(pool) if m.kind not in fold]
        values = fitted([features[i] for i in outside], [pool[i].knows for i in outside],
                        [features[i] for i in inside])
        found[fold] = dict(zip(inside, values.tolist(), strict=True))
    return found


def _drawn(strata: Sequence[tuple[str, str]], resamples: int, random: np.random.Generator) -> Array:
    """How often each model is drawn, within its stratum; shape 1 + resamples, n. The first row is the sample itself."""
    counts = np.ones((1 + resamples, len(strata)))
    for stratum in dict.fromkeys(strata):
        members = [i for i, s in enumerate(strata) if s == stratum]
        counts[1:, members] = random.multinomial(len(members), np.full(len(members), 1 / len(members)), resamples)
    return counts


def _fold_aucs(pool: Sequence[Known], drawn: Array, held_out: HeldOut | None) -> dict[Fold, Array]:
    """AUC of each fold under every draw."""
    found = {}
    for fold in folds_of(pool):
        sides = [[i for i, m in enumerate(pool) if m.kind == kind] for kind in fold]
        values = held_out[fold] if held_out else {i: pool[i].value for side in sides for i in side}
        inside, outside = (np.asarray([values[i] for i in side]) for side in sides)
        wins = (inside[:, None] > outside) + 0.5 * (inside[:, None] == outside)
        found[fold] = np.einsum("rk,ki,ri->r", drawn[:, sides[0]], wins, drawn[:, sides[1]]) / wins.size
    return found


def _cuts(pool: Sequence[Known], drawn: Array) -> tuple[Array, Array]:
    """Values halfway between neighbours, and under every draw how many models each puts on their right side."""
    values, knows = np.asarray([m.value for m in pool], float), np.asarray([m.knows for m in pool])
    ends = np.unique(values)
    cuts = (ends[:-1] + ends[1:]) / 2 if len(ends) > 1 else ends
    right = (values[:, None] > cuts) == knows[:, None]
    return cuts, drawn @ right


def _allowed(unlearned: Sequence[Readings], gains: Mapping[str, Sequence[float]], resamples: int,
             random: np.random.Generator) -> Array:
    """D_ret for each unlearned model under every draw."""
    found = np.zeros((1 + resamples, len(unlearned)))
    for size in dict.fromkeys(c.size for c in unlearned):
        gained = np.asarray(gains[size], float)
        drawn = _drawn([("", size)] * len(gained), resamples, random)
        found[:, [i for i, c in enumerate(unlearned) if c.size == size]] = (drawn @ gained / len(gained))[:, None]
    return found


def _moves(unlearned: Sequence[Readings]) -> Array:
    return np.asarray([c.relearned - c.before for c in unlearned], float)


def _robustness(protocol: str, unlearned: Sequence[Readings], allowed: Array, weights: Array,
                faithful: Array) -> Robustness:
    """Means over the kept models under every draw; draws in which none is kept are left out of the intervals."""
    before, relearned, quantised = (np.asarray([getattr(c, name) for c in unlearned], float)
                                    for name in ("before", "relearned", "quantised"))
    if protocol == "published":
        relearning = relearning_robustness(before, relearned, allowed)
        quantisation = quantisation_robustness(before, quantised)
    else:
        relearning, quantisation = likeness(_moves(unlearned), allowed), likeness(before, quantised)
    total = weights.sum(1)
    some = total > 0
    r, q = ((weights * each).sum(1)[some] / total[some] for each in (relearning, quantisation))
    robust = _harmonic(r, q)
    overall = _harmonic(faithful[some], robust)
    return Robustness(float(r[0]), float(q[0]), float(robust[0]), _interval(robust), float(overall[0]),
                      _interval(overall))


def _harmonic(one: Array, other: Array) -> Array:
    return 2 * one * other / np.where(one + other > 0, one + other, 1.0)


def _interval(drawn: Array) -> Interval:
    """Percentiles of the redrawn values; the first is that of the sample itself, which the interval contains."""
    if len(drawn) < 2:
        return float(drawn[0]), float(drawn[0])
    low, high = np.quantile(drawn[1:], [0.025, 0.975])
    return float(min(low, drawn[0])), float(max(high, drawn[0]))
