"""Whether intervals cover what they say and tests raise no more false alarms than they may, by simulation.

Rows come in entities and agree within them (intraclass correlation, ICC). Intervals: of a mean, of an AUC between two
sides, and the bootstrap of single rows beside them. False alarms: that any of twelve correlated comparisons of two
models that could be exchanged is below 0.05. Stored in results/coverage.json.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from common import log, store
from numpy.typing import NDArray

from expunge.metrics import by_entity
from expunge.metrics.by_entity import permute, sign_flip, statistic_interval
from expunge.metrics.statistics import auc
from expunge.records.run import environment

ENTITIES = (5, 10, 20, 50)
ICC = (0.0, 0.1, 0.3)
ROWS = 10
COMPARISONS = 12
TIMES = {"mean": 2000, "rows": 200, "auc": 600, "sign_flip": 3000, "permute": 1000}
"""How often each is simulated."""
DRAWS = 999
"""Fewer than in an audit, for speed: the level of a test does not depend on it."""
SHIFT = 0.5
"""Between the two sides of the AUC, in standard deviations of a row."""


def main(seed: int, keep: bool) -> None:
    """Simulate all; store only from a clean tree."""
    by_entity.DRAWS = DRAWS
    found = [{"entities": entities, "icc": icc, **_one(entities, icc, seed)} for icc in ICC for entities in ENTITIES]
    for row in found:
        log((row,))
    dirty = "dirty" in (environment()["commit"] or "dirty")
    if keep and not dirty:
        log(("stored", store("coverage", {"seed": seed, "times": TIMES, "rows": ROWS, "comparisons": COMPARISONS,
                                          "draws": DRAWS, "seconds": time.process_time(),
                                          "nominal": {"interval": 0.95, "false_alarms": 0.05}, "results": found})))
    else:
        log(("not stored:", "the tree differs from its commit" if dirty else "--keep was not given"))


def _one(entities: int, icc: float, seed: int) -> dict[str, float]:
    draw = np.random.default_rng([seed, entities, round(100 * icc)])
    names = [f"e{i // ROWS}" for i in range(entities * ROWS)]

    def rows(mean: float = 0.0) -> NDArray[np.float64]:
        between = np.repeat(draw.normal(0, icc ** 0.5, entities), ROWS)
        return np.asarray(mean + between + draw.normal(0, (1 - icc) ** 0.5, entities * ROWS))

    def covers(truth: float, interval: tuple[float, float]) -> bool:
        return interval[0] <= truth <= interval[1]

    def mean(strata: Any) -> float:
        return float(strata["x"].mean())

    def area(strata: Any) -> float:
        return auc(strata["forget"], strata["holdout"])

    def once() -> int:
        """Another seed each time: one set of random flips is a little too strict or too mild."""
        return int(draw.integers(1 << 31))

    truth = auc(np.random.default_rng(seed).normal(SHIFT, 1, 100_000), np.random.default_rng(seed + 1).normal(
        0, 1, 100_000))
    return {
        "mean": _share("mean", lambda: covers(0.0, statistic_interval(mean, {"x": rows()}, {"x": names},
                                                                      plain_mean=True))),
        "mean_by_rows": _share("rows", lambda: covers(0.0, statistic_interval(mean, {"x": rows()}, {}, resamples=400,
                                                                              plain_mean=True))),
        "auc": _share("auc", lambda: covers(truth, statistic_interval(
            area, {"forget": rows(SHIFT), "holdout": rows()}, {"forget": names, "holdout": names}))),
        "sign_flip": _share("sign_flip", lambda: (sign_flip(_columns(draw, entities, icc),
                                                            once()).joint_J <= 0.05).any()),
        "permute": _share("permute", lambda: (permute(_columns(draw, entities, icc), _columns(draw, entities, icc),
                                                      once()).joint_J <= 0.05).any()),
    }


def _columns(draw: np.random.Generator, entities: int, icc: float) -> list[dict[str, float]]:
    """Entity means of twelve comparisons; half of the variance of each is shared."""
    error = (icc + (1 - icc) / ROWS) ** 0.5
    values = 0.5 ** 0.5 * error * (draw.normal(size=(entities, 1)) + draw.normal(size=(entities, COMPARISONS)))
    return [{f"e{g}": float(v) for g, v in enumerate(column)} for column in values.T]


def _share(name: str, trial: Any) -> float:
    return float(np.mean([bool(trial()) for _ in range(TIMES[name])]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="store results/coverage.json")
    given = parser.parse_args()
    main(given.seed, given.keep)
