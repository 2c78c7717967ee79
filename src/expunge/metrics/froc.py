"""Risk control over a grid of settings, as FROC has it: relative scores of each, and which keep a limit for sure.

Source: arXiv 2512.13337. The bounds themselves are in `risk_bound`. Pure functions.

Scores of a grid are relative: each is set against the best of the grid, so that another setting can move all of them.
Limits (`valid`) are not: they rest on risks between 0 and 1 of single rows, that is on `risk_bound`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Literal

import numpy as np

from expunge.errors import UsageError
from expunge.metrics.risk_bound import p_value


@dataclass(frozen=True)
class GridPoint:
    """Mean losses and accuracies of one setting on the forget and the retain rows."""

    forget_loss: float
    forget_accuracy: float
    retain_loss: float
    retain_accuracy: float


def shifts(grid: Sequence[GridPoint]) -> list[float]:
    """Forgetting of each setting: log loss, plus the largest forget accuracy of the grid minus its own."""
    most = max(point.forget_accuracy for point in grid)
    return [log(point.forget_loss) + most - point.forget_accuracy for point in grid]


def damages(grid: Sequence[GridPoint]) -> list[float]:
    """Lost utility of each setting, 0 for one that is best in loss and accuracy."""
    least, most = min(p.retain_loss for p in grid), max(p.retain_accuracy for p in grid)
    return [log(point.retain_loss) - log(least) + most - point.retain_accuracy for point in grid]


def risks(grid: Sequence[GridPoint], wanted: float, weight: float = 0.5) -> list[float]:
    """Soft risk of each setting: softplus of what is missing to the wanted shift, and of the damage.

    Args:
        wanted: shift that counts as forgotten.
        weight: of forgetting; the damage has the rest.
    """
    missing = np.logaddexp(0, wanted - np.array(shifts(grid)))
    damage = np.logaddexp(0, np.array(damages(grid)))
    found: list[float] = (weight * missing + (1 - weight) * damage).tolist()
    return found


def valid(settings: Mapping[str, Sequence[float]], limit: float, confidence: float = 0.95,
          way: Literal["bonferroni", "fixed_sequence"] = "bonferroni") -> list[str]:
    """The settings whose mean risk is below a limit; with the given confidence no other is among them.

    Args:
        settings: name -> [N] independent risks in [0, 1], of rows on which nothing was tuned.
        way: bonferroni divides the error by the number of settings; fixed_sequence tests them in their order, which
            has to be set beforehand, at the whole error, and stops at the first that fails.

    Raises:
        UsageError: a setting has no risks, or one outside [0, 1].
    """
    found, error = [], 1 - confidence
    for name, values in settings.items():
        if not len(values) or not all(0 <= value <= 1 for value in values):
            raise UsageError(f"The setting {name} needs risks between 0 and 1.",
                             "A limit rests on bounded risks of single rows.", "Map each to 0 to 1 first.")
        p = p_value(float(np.mean(values)), limit, len(values))
        if p <= (error / len(settings) if way == "bonferroni" else error):
            found.append(name)
        elif way == "fixed_sequence":
            break
    return found


__all__ = ["GridPoint", "damages", "risks", "shifts", "valid"]
