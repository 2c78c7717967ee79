"""Whether two groups of runs differ by more than their seeds and their rows do.

Legend: S seeds that both groups have, E entities, R rows that all runs were asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from expunge.records.comparison import LEVEL, Difference

Floats = NDArray[np.float64]
TEST = ("Pairs of groups are compared by the seeds that both have: a paired t-test over seeds, and, where the score "
        "has a value for every row, a second one whose variance adds that of drawing other entities (degrees of "
        "freedom by Welch and Satterthwaite). The larger p-value counts, adjusted by Holm's method for the number of "
        "pairs in the score: below 5 % the difference is beyond noise. One seed gives no claim.")


@dataclass(frozen=True)
class Measured:
    """One score of one run."""

    value: float
    rows: Mapping[str, float]
    """Row -> its value; empty where the score has none."""
    entities: Mapping[str, str]


def compared(first: str, second: str, a: Mapping[int, Measured], b: Mapping[int, Measured]) -> Difference:
    """Set two groups, seed -> its run, against each other in one score; only the seeds that both have count."""
    shared = sorted(set(a) & set(b))
    gaps_S = np.asarray([a[s].value - b[s].value for s in shared])
    centre = float(gaps_S.mean()) if shared else None
    blank = Difference(first=first, second=second, difference=centre, seeds=len(shared))
    if centre is None or len(shared) < 2:
        few = min(len(a), len(b)) < 2
        return blank.model_copy(update={"why_not": "one seed" if few else "fewer than two seeds in common"})
    rows_SR, groups_R = paired_rows([a[s] for s in shared], [b[s] for s in shared])
    found = tested(gaps_S, rows_SR, groups_R)
    if found is None:
        return blank.model_copy(update={"why_not": "the seeds make no difference, and no row can tell how far other "
                                                   "rows would"})
    p, half = found
    return blank.model_copy(update={"p": p, "interval": (centre - half, centre + half),
                                    "entities": len(set(groups_R))})


def tested(gaps_S: Floats, rows_SR: Floats, groups_R: Sequence[str]) -> tuple[float, float] | None:
    """Two-sided p-value of a mean difference of 0, and half of its 95 % interval; None where nothing varies.

    Args:
        gaps_S: difference of the score at each seed, at least two.
        rows_SR: difference of every row at each seed; shape S 0 where there is none.
        groups_R: the entity of each row. Rows of one entity are drawn together.

    The variance of the mean is that over seeds, or that over seeds plus that over entities, which counts what is
    of both twice and so errs on the safe side. With two seeds the second alone would reject too often.
    """
    seeds = len(gaps_S)
    by_seed = float(gaps_S.var(ddof=1)) / seeds
    candidates = [(by_seed, seeds - 1.0)]
    if len(set(groups_R)) > 1:
        by_entity = clustered(rows_SR.mean(axis=0), groups_R)
        both = by_seed + by_entity
        entities = len(set(groups_R)) - 1.0
        if both > 0:
            freedom = both**2 / (by_seed**2 / (seeds - 1) + by_entity**2 / entities)
            candidates.append((both, freedom))
    known = [(variance, freedom) for variance, freedom in candidates if variance > 0]
    if not known or (len(candidates) == 1 and by_seed == 0):
        return None
    centre = abs(float(gaps_S.mean()))
    results = [(float(2 * stats.t.sf(centre / np.sqrt(v), f)), float(stats.t.ppf(0.975, f) * np.sqrt(v)))
               for v, f in known]
    return max(p for p, _ in results), max(half for _, half in results)


def clustered(values_R: Floats, groups_R: Sequence[str]) -> float:
    """Variance of the mean of rows when entities, with all their rows, are what is drawn."""
    centred, sums = values_R - values_R.mean(), dict.fromkeys(groups_R, 0.0)
    for group, value in zip(groups_R, centred, strict=True):
        sums[group] += float(value)
    count = len(sums)
    return count / (count - 1) * sum(s**2 for s in sums.values()) / len(values_R) ** 2


def paired_rows(a: Sequence[Measured], b: Sequence[Measured]) -> tuple[Floats, list[str]]:
    """Differences of the rows that every run was asked (shape S R), and the entity of each row."""
    shared = set(a[0].rows).intersection(*(m.rows for m in (*a, *b)))
    keys = [key for key in a[0].rows if key in shared]
    gaps = [[x.rows[key] - y.rows[key] for key in keys] for x, y in zip(a, b, strict=True)]
    return np.asarray(gaps, dtype=float).reshape(len(a), len(keys)), [a[0].entities.get(key, key) for key in keys]


def reflected(group: Mapping[int, Measured], target: float | None) -> dict[int, Measured]:
    """How far a group is from the best: its values less the target, turned so that its mean is not negative; without
    a target, where the highest is the best, its negative values."""
    if target is None:
        sign, target = -1.0, 0.0
    else:
        sign = 1.0 if np.mean([m.value for m in group.values()]) >= target else -1.0
    return {seed: Measured(sign * (m.value - target), {k: sign * (v - target) for k, v in m.rows.items()}, m.entities)
            for seed, m in group.items()}


def merit(first: str, second: str, a: Mapping[int, Measured], b: Mapping[int, Measured],
          target: float | None) -> Difference:
    """`compared` of how far two groups are from the best, over the seeds that both have."""
    shared = set(a) & set(b)
    if not shared:
        return compared(first, second, a, b)
    far_a, far_b = (reflected({s: m for s, m in group.items() if s in shared}, target) for group in (a, b))
    return compared(first, second, far_a, far_b)


def with_adjusted(pairs: Sequence[Difference]) -> list[Difference]:
    """The pairs of one score, with adjusted p-values and whether each difference is beyond noise."""
    after = iter(adjusted([d.p for d in pairs if d.p is not None]))
    return [d if d.p is None else d.model_copy(update={"p_adjusted": (p := next(after)), "beyond_noise": p < LEVEL})
            for d in pairs]


def adjusted(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    found, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        found[i] = highest
    return found
