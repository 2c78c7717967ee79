"""Promises of bounds on epsilon: against mechanisms whose epsilon is known, they hold as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from expunge.metrics.base import Metric
from expunge.metrics.canary_bound import many_runs_bound, one_run_bound, p_value

from .base import check

RUNS = 400


def audited(rng: np.random.Generator, count: int, honest: float) -> float:
    """The bound for canaries whose membership is told truly with this chance, each by itself."""
    inside = rng.random(count) < 0.5
    said = np.where(rng.random(count) < honest, inside, ~inside) + 0.01 * rng.random(count)
    return one_run_bound(said.tolist(), inside.tolist()).epsilon


@check
def bounds_keep_their_confidence(metric: type[Metric]) -> None:
    """Randomised response of a known epsilon: few bounds at 95 % lie above it, and many canaries bring them near."""
    rng = np.random.default_rng(0)
    for epsilon in (0.5, 2.0):
        honest = 1 / (1 + np.exp(-epsilon))
        bounds = []
        for _ in range(RUNS):
            bounds.append(audited(rng, 60, honest))
        above = np.mean(np.array(bounds) > epsilon)
        assert above <= 0.05 + 3 * (0.05 * 0.95 / RUNS) ** 0.5
    assert 1.85 < audited(rng, 20_000, honest) < 2.0
    # delta can only lower a bound; more right guesses only raise it.
    assert p_value(55, 60, 60, 1.0, 1e-3) > p_value(55, 60, 60, 1.0, 0.0)
    assert one_run_bound([1, 1, 0, 0], [True, True, False, False]).correct == 4
    assert one_run_bound([0.0] * 8, [True, False] * 4).epsilon == 0.0
    # Clopper and Pearson: 100 of 100 against 0 of 100 is log(0.9638 / 0.0362).
    assert many_runs_bound(100, 100, 0, 100) == pytest.approx(np.log(0.96378 / 0.03622), abs=1e-3)
    assert many_runs_bound(50, 100, 50, 100) == 0.0
