"""Promises of risk control: bounds and limits hold as often as they say."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from expunge.errors import UsageError
from expunge.metrics.base import Metric
from expunge.metrics.froc import GridPoint, damages, risks, shifts, valid
from expunge.metrics.risk_bound import upper_bound

from .base import check

RUNS = 2000


@check
def at_least_the_mean(metric: type[Metric]) -> None:
    """The bound is no less than the mean, falls towards it with more entities, and rises with the confidence."""
    for mean in (0.0, 0.05, 0.3):
        bounds = [upper_bound([mean] * n) for n in (10, 100, 1000, 100_000)]
        assert bounds == sorted(bounds, reverse=True) and all(b >= mean for b in bounds)
        assert bounds[-1] == pytest.approx(mean, abs=0.01)
    assert upper_bound([0.1] * 50, 0.99) > upper_bound([0.1] * 50, 0.9)


@check
def limits_hold(metric: type[Metric]) -> None:
    """A setting just beyond the limit is valid in at most 5 % of 2000 repetitions; of several at most as often any."""
    rng, limit, n = np.random.default_rng(0), 0.1, 100
    below = rng.binomial(n, 0.101, size=RUNS) / n
    wrong = np.mean([bool(valid({"a": with_mean(mean, n)}, limit)) for mean in below])
    assert wrong <= 0.05
    many = rng.binomial(n, 0.101, size=(RUNS // 10, 5)) / n
    ways: tuple[Literal["bonferroni", "fixed_sequence"], ...] = ("bonferroni", "fixed_sequence")
    for way in ways:
        found = [bool(valid({str(i): with_mean(m, n) for i, m in enumerate(row)}, limit, way=way))
                 for row in many]
        assert np.mean(found) <= 0.05 + 3 * (0.05 * 0.95 / len(many)) ** 0.5
    good, bad = with_mean(0.0, n), with_mean(0.5, n)
    assert valid({"bad": bad, "good": good}, limit) == ["good"]
    assert valid({"bad": bad, "good": good}, limit, way="fixed_sequence") == []
    with pytest.raises(UsageError, match="between 0 and 1"):
        valid({"a": [1.5]}, limit)
    # Scores of a grid: a setting that is best in nothing moves none, one that is best moves all.
    grid = [GridPoint(2.0, 0.3, 0.5, 0.9), GridPoint(3.0, 0.1, 0.6, 0.8)]
    worse, best = GridPoint(1.0, 0.2, 0.9, 0.5), GridPoint(1.0, 0.9, 0.4, 0.95)
    assert damages(grid)[0] == 0 and shifts([*grid, worse])[:2] == shifts(grid)
    assert damages([*grid, worse])[:2] == damages(grid)
    assert all(a > b for a, b in zip(shifts([*grid, best]), shifts(grid), strict=False))
    assert all(a > b for a, b in zip(damages([*grid, best]), damages(grid), strict=False))
    assert risks(grid, wanted=5.0)[1] < risks(grid, wanted=5.0)[0]


def with_mean(mean: float, n: int) -> list[float]:
    """Risks of 0 and 1 with this mean."""
    return [1.0] * round(mean * n) + [0.0] * (n - round(mean * n))
