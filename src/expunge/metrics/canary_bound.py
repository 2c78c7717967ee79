"""A lower bound on epsilon from canaries of one run: the auditor guesses which of them training saw.

Steinke, Nasr and Jagielski 2023 (arXiv 2305.08846). The bound holds where each canary was put in or left out by a fair
coin of its own. Pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

import numpy as np

MOST = 50.0
"""No audit of one run shows a larger epsilon."""


@dataclass(frozen=True)
class CanaryBound:
    """What an audit of one run shows."""

    epsilon: float
    """At least this, with the given confidence; 0 if nothing is shown."""
    guesses: int
    correct: int


def p_value(correct: int, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    """How often an (epsilon, delta) mechanism lets so many guesses be right, at most."""
    from scipy.stats import binom

    q = 1 / (1 + exp(-epsilon))
    beta = float(binom.sf(correct - 1, guesses, q))
    if delta <= 0 or correct == 0:
        return min(beta, 1.0)
    steps = np.arange(1, correct + 1)
    alpha = float((np.cumsum(binom.pmf(correct - steps, guesses, q)) / steps).max())
    return min(beta + 2 * canaries * delta * alpha, 1.0)


def bound_of(correct: int, guesses: int, canaries: int, delta: float, confidence: float) -> float:
    """The largest epsilon that so many right guesses rule out."""
    low, high = 0.0, MOST
    if p_value(correct, guesses, canaries, low, delta) > 1 - confidence:
        return 0.0
    for _ in range(50):  # p rises with epsilon: halve the interval
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(correct, guesses, canaries, middle, delta) <= 1 - confidence else (
            low, middle)
    return low


def one_run_bound(scores: Sequence[float], inside: Sequence[bool], *, delta: float = 0.0, confidence: float = 0.95,
                  share: float = 1.0) -> CanaryBound:
    """The bound from scores of canaries, larger for those that training seems to have seen.

    Args:
        scores: of every canary; ties are broken against the guess.
        inside: whether training saw it.
        delta: of the mechanism.
        share: of the canaries that are guessed: half of them the highest scores ("in"), half the lowest ("out"). It
            has to be chosen before the scores are seen.
    """
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], inside[i]))
    each = int(len(scores) * share / 2)
    correct = sum(inside[i] for i in order[:each]) + sum(not inside[i] for i in order[len(scores) - each:])
    return CanaryBound(bound_of(correct, 2 * each, len(scores), delta, confidence), 2 * each, correct)


def many_runs_bound(hits: int, inside: int, false_alarms: int, outside: int, *, delta: float = 0.0,
                    confidence: float = 0.95) -> float:
    """The bound from runs with one canary and runs without: Clopper-Pearson intervals of both rates.

    Args:
        hits: of the `inside` runs that had the canary, those that the test called so.
        false_alarms: of the `outside` runs, the same.
    """
    from math import log

    from scipy.stats import beta

    tail = (1 - confidence) / 2
    true_rate = float(beta.ppf(tail, hits, inside - hits + 1)) if hits else 0.0
    false_rate = float(beta.ppf(1 - tail, false_alarms + 1, outside - false_alarms)) if false_alarms < outside else 1.0
    return max(0.0, log((true_rate - delta) / false_rate)) if true_rate > delta else 0.0


__all__ = ["CanaryBound", "bound_of", "many_runs_bound", "one_run_bound", "p_value"]
