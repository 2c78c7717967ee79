"""Conditions on scores, as `--require` takes them: "forget_quality>=0.05"."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from expunge.audit.suite import parse_suite
from expunge.errors import UsageError, did_you_mean
from expunge.metrics.evaluate import parse_metric
from expunge.records.score import Score

T = TypeVar("T")


def require(scores: Sequence[Score], conditions: Sequence[str]) -> list[str]:
    """Conditions such as "forget_quality>=0.05" that the scores do not meet, each with the figure."""
    values = {s.name: s for s in scores if s.attack is None}
    failed = []
    for name, sign, bound in map(_condition, conditions):
        score = _scored(name, values)
        if score.value is None:
            failed.append(f"{name} is not available: {score.unavailable}")
        elif not COMPARE[sign](score.value, bound):
            failed.append(f"{name} is {score.value:.4g}, which is not {sign} {bound:g}")
    return failed


COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


def check_conditions(conditions: Sequence[str], suite: str) -> None:
    """Raise UsageError for a condition that cannot be read, or on a score that the suite does not give."""
    names = {metric.label(split): None for metric, split in map(parse_metric, parse_suite(suite).metrics)}
    for text in conditions:
        _scored(_condition(text)[0], names)


def _scored(name: str, known: Mapping[str, T]) -> T:
    if name not in known:
        raise UsageError(f"There is no score called {name!r} to require.", did_you_mean(name, known),
                         "Name it in --suite, or require another.")
    return known[name]


def _condition(text: str) -> tuple[str, str, float]:
    """Name, comparison and bound of a condition as typed."""
    match = re.fullmatch(r"\s*(.+?)\s*(>=|<=|>|<)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*", text)
    if not match:
        raise UsageError(f"{text!r} is not a condition.", fix='Write "forget_quality>=0.05".')
    return match[1], match[2], float(match[3])
