"""Shares of rows by entity: an interval that holds when few entities leak, and the worst entity with its test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from expunge.metrics.margins import RARE, ControlMargin
from expunge.records.score import WorstEntity

LEAST_ROWS = 4
"""Rows of an entity from which its own share says something."""
NULL = 5 * RARE
"""Chance of a row in the test within an entity: more than `RARE`, since rows of one entity rise together."""
MOST = 0.5
"""Share of the rows of an entity beyond which it is known."""


def by_entity(found: Mapping[str, bool], entities: Mapping[str, str]) -> dict[str, list[bool]]:
    """Entity -> its rows; a row without one is its own."""
    gathered: dict[str, list[bool]] = {}
    for key, value in found.items():
        gathered.setdefault(entities.get(key, key), []).append(value)
    return gathered


def share_interval(found: Mapping[str, bool], entities: Mapping[str, str], level: float = 0.95) -> tuple[float, float]:
    """Interval of a share of rows, for more entities like these.

    Exact binomial bounds at the effective number of rows, which is smaller where rows of one entity agree (Korn and
    Graubard 1998). The upper end is never below that of the share of entities of which most rows are found: where none
    is, resampling says nothing (of 20 entities without a leak: below 0.168). From a share of a half on the lower end is
    never above that of the share of entities likewise (of 5 that all leak: above 0.478).
    """
    from scipy.special import stdtrit

    groups = list(by_entity(found, entities).values())
    hits, sizes = np.asarray([sum(g) for g in groups], float), np.asarray([len(g) for g in groups], float)
    rows, count, tail = float(sizes.sum()), len(groups), (1 - level) / 2
    share = float(hits.sum() / rows)
    effective = rows
    if count < 2:
        effective = 1.0
    elif 0 < share < 1:
        variance = float(((hits - share * sizes) ** 2).sum()) / rows**2 * count / (count - 1)
        few = float(stdtrit(rows - 1, 1 - tail) / stdtrit(count - 1, 1 - tail)) ** 2
        effective = min(rows, share * (1 - share) / variance * few) if variance > 0 else rows
    low, high = _binomial(share * effective, effective, tail)
    most = int((hits > MOST * sizes).sum())
    if share < 1 and count > 1:
        high = max(high, _binomial(most, count, tail)[1])
    if share >= MOST and count > 1:
        low = min(low, _binomial(most, count, tail)[0])
    return min(low, share), max(high, share)


def _binomial(hits: float, trials: float, tail: float) -> tuple[float, float]:
    """Clopper and Pearson 1934, for numbers that need not be whole."""
    from scipy.special import betaincinv

    low = 0.0 if hits <= 0 else float(betaincinv(hits, trials - hits + 1, tail))
    high = 1.0 if hits >= trials else float(betaincinv(hits + 1, trials - hits, 1 - tail))
    return low, high


def worst_entity(found: Mapping[str, bool], entities: Mapping[str, str], margin: ControlMargin,
                 alike: Iterable[Mapping[str, bool]] = ()) -> WorstEntity | None:
    """Of the entities of which most rows are found the surest, by its `chance`; where there is none the one with the
    largest share. None where none has rows enough.

    `chance` is the exact binomial tail within that entity at `NULL` for each row, times the number of entities (the
    first step of Holm 1979).

    Args:
        alike: the same rows of retrained models, each set against the other ones.
    """
    from scipy.special import bdtrc

    groups = {name: rows for name, rows in by_entity(found, entities).items() if len(rows) >= LEAST_ROWS}
    if not groups:
        return None

    def chance(rows: list[bool]) -> float:
        return min(1.0, len(groups) * float(bdtrc(sum(rows) - 1, len(rows), NULL))) if any(rows) else 1.0

    def rank(rows: list[bool]) -> tuple[bool, float, float, int]:
        share = sum(rows) / len(rows)
        return share > MOST, -chance(rows) if share > MOST else 0.0, share, len(rows)

    name, rows = max(groups.items(), key=lambda item: rank(item[1]))
    return WorstEntity(entity=name, share=sum(rows) / len(rows), rows=len(rows), entities=len(groups),
                       chance=chance(rows), exact=margin.exact,
                       control=max((_largest(one, entities) for one in alike), default=None))


def _largest(found: Mapping[str, bool], entities: Mapping[str, str]) -> float:
    groups = by_entity(found, entities).values()
    return max((sum(g) / len(g) for g in groups if len(g) >= LEAST_ROWS), default=0.0)
