"""Statistics of plain arrays: bootstrap intervals, AUC, harmonic mean, Kolmogorov-Smirnov."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

Strata = Mapping[str, NDArray[np.float64]]
CHUNK = 2_000_000
"""Number of resampled row indices held in memory at once."""


def bootstrap(statistic: Callable[[Strata], float], strata: Strata, resamples: int = 1000, seed: int = 0,
              level: float = 0.95, *, plain_mean: bool = False) -> tuple[float, float]:
    """Percentile bootstrap interval of `statistic` (Efron and Tibshirani 1993, chapter 13).

    The examples of each stratum are resampled with replacement, independently of the other strata.
    For rows that come in entities the interval is too narrow (results/coverage.json); `by_entity` has
    theirs. With `plain_mean=True` the statistic must be the mean of the only stratum; the same draws
    are then averaged in one operation instead of one resample at a time.
    """
    if resamples < 1 or not strata or any(len(v) == 0 for v in strata.values()):
        raise ValueError("bootstrap needs at least one resample and one row in every stratum")
    random = np.random.default_rng(seed)
    chunk = max(1, CHUNK // sum(len(v) for v in strata.values()))
    resampled: list[float] = []
    while len(resampled) < resamples:
        count = min(chunk, resamples - len(resampled))
        draws = {k: random.integers(0, len(v), size=(count, len(v))) for k, v in strata.items()}
        if plain_mean:
            ((name, values),) = strata.items()
            resampled.extend(values[draws[name]].mean(axis=1).tolist())
        else:
            resampled.extend(statistic({k: v[draws[k][i]] for k, v in strata.items()}) for i in range(count))
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def auc(members: ArrayLike, nonmembers: ArrayLike) -> float:
    """P(member > non-member) + P(equal) / 2 over all pairs; 0.5 = indistinguishable. NaN where a number is NaN."""
    inside, outside = np.asarray(members, float), np.sort(np.asarray(nonmembers, float))
    if np.isnan(inside).any() or np.isnan(outside).any():
        return float("nan")
    below, not_above = (np.searchsorted(outside, inside, side) for side in ("left", "right"))
    return float((below + not_above).sum() / (2 * len(inside) * len(outside)))


def harmonic_mean(values: Iterable[float]) -> float:
    """n / sum(1/x) of non-negative numbers; 0 as soon as one of them is 0."""
    numbers = [float(v) for v in values]
    if not numbers or min(numbers) < 0:
        raise ValueError("a harmonic mean needs at least one number and no negative one")
    smallest = min(numbers)
    if smallest == 0:
        return 0.0
    # Dividing by the smallest first keeps 1/x from overflowing.
    return smallest * len(numbers) / sum(smallest / v for v in numbers)


def ks_pvalue(first: ArrayLike, second: ArrayLike) -> float:
    """p-value of the two-sided two-sample Kolmogorov-Smirnov test, exact up to 10,000 rows."""
    from scipy.stats import ks_2samp  # takes as long to import as torch, and training needs no statistics

    with warnings.catch_warnings():  # scipy falls back to the asymptotic form by itself
        warnings.filterwarnings("ignore", message="ks_2samp: Exact calculation unsuccessful")
        return float(ks_2samp(np.asarray(first, float), np.asarray(second, float)).pvalue)
