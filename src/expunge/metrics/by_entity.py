"""Inference by entity: t intervals, sign flips of paired differences, permutations between two sides.

Rows about one entity agree with each other, so an entity counts once, however many rows it has. Several comparisons are
corrected together by the step-down maximum of Westfall and Young (1993): every draw flips or moves the same entities in
all comparisons, which keeps their dependence, and the smallest p-value of G entities stays 2^-G whatever their number.
The null hypothesis is that the two models could be exchanged entity by entity.

Legend: G units (entities, or rows where there are too few entities), J comparisons, B draws.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.metrics.statistics import bootstrap
from expunge.records.score import PairedDistance

Floats = NDArray[np.float64]
Values = Mapping[str, float]
Unit = TypeVar("Unit", bound=Hashable)
ENOUGH = 5
"""Entities from which a one-sided exact test can reach 0.05: 2^-5 = 0.031. Fewer are judged by their rows."""
PERCENTILES = 30
"""Rows from which the percentiles of redrawn rows cover what they should."""
EXACT = 1 << 14
"""Up to so many flips or permutations all are taken; of more, `DRAWS` at random."""
DRAWS = 10_000
"""The smallest p-value is then 1e-4."""
_CHUNK = 2_000_000
"""Random signs held in memory at once."""


@dataclass(frozen=True)
class JointTest:
    """One-sided p-values of J comparisons."""

    alone_J: Floats
    """Of each by itself."""
    joint_J: Floats
    """Corrected for all of them."""
    least_J: Floats
    """The corrected p-value if every unit of the comparison had shown the same full difference."""
    floor_J: Floats
    """The same by itself."""


def entity_means(values: Values, entity_of: Mapping[str, str]) -> dict[str, float]:
    """Mean of the rows of each entity; a row without one is its own."""
    gathered: dict[str, list[float]] = {}
    for key, value in values.items():
        gathered.setdefault(entity_of.get(key, key), []).append(value)
    return {entity: sum(rows) / len(rows) for entity, rows in gathered.items()}


def labels(keys: Iterable[str], entity_of: Mapping[str, str]) -> list[str]:
    """The entity of each row, or the row itself where the entities are fewer than `ENOUGH`."""
    rows = list(keys)
    whose = [entity_of.get(key, key) for key in rows]
    return whose if len(set(whose)) >= ENOUGH else rows


def mean_error(values: ArrayLike, groups: Sequence[str] | None = None) -> tuple[float, int]:
    """Standard error of the mean of all rows, clustered by group, and its degrees of freedom, G - 1.

    With groups of equal size it is the standard error of the mean of group means. 0 of a single group.
    """
    x_N = np.asarray(values, dtype=float)
    _, at_N = np.unique(np.asarray(groups if groups is not None else range(len(x_N))), return_inverse=True)
    sums_G = np.bincount(at_N, weights=x_N - x_N.mean())
    count = len(sums_G)
    if count < 2:
        return 0.0, 0
    return float(np.sqrt(count / (count - 1) * (sums_G ** 2).sum()) / len(x_N)), count - 1


def t_interval(value: float, errors: Iterable[tuple[float, int]], level: float = 0.95) -> tuple[float, float]:
    """`value` +- Student's quantile times the standard error of independent parts together, Welch's degrees of freedom.

    Args:
        errors: standard error and degrees of freedom of each part.
    """
    from scipy.special import stdtrit  # here, so that listings need not wait for it

    parts = [(error ** 2, free) for error, free in errors if error > 0 and free > 0]
    variance = sum(v for v, _ in parts)
    if variance == 0:
        return value, value
    free = variance ** 2 / sum(v ** 2 / f for v, f in parts)
    half = float(stdtrit(free, (1 + level) / 2)) * variance ** 0.5
    return value - half, value + half


def statistic_interval(statistic: Callable[[Mapping[str, Floats]], float], strata: Mapping[str, Floats],
                       groups: Mapping[str, Sequence[str]], *, resamples: int = 1000, seed: int = 0,
                       plain_mean: bool = False) -> tuple[float, float]:
    """95 % interval of a statistic of rows that come in entities.

    Student's t with the error of the delete-one-entity jackknife (Efron and Tibshirani 1993, chapter 11), since
    percentiles of few redrawn entities are too narrow. Percentiles of redrawn rows where each row is its own entity and
    there are `PERCENTILES` or more, and where `groups` are not known. A side with fewer than `ENOUGH` entities is taken
    by rows.

    Args:
        strata: rows by side; `reference_X` holds the rows of X of another model, and an entity is left out of both.
        groups: the entity of each row, by side; {} = each row is its own.
        plain_mean: the statistic is the mean of the only side.
    """
    whose = {name: _labelled(len(rows), groups.get(name)) for name, rows in strata.items()}
    members = {name: sorted(set(of)) for name, of in whose.items() if not name.startswith("reference_")}
    alone = all(len(set(of)) == len(of) for of in whose.values())
    if alone and (not groups or min(map(len, members.values())) >= PERCENTILES):
        return bootstrap(statistic, strata, resamples, seed, plain_mean=plain_mean)
    value = statistic(strata)
    if plain_mean:
        ((name, rows),) = strata.items()
        return t_interval(value, [mean_error(rows, whose[name])])
    errors = []
    for home, units in members.items():
        of = {name: np.asarray(labels) for name, labels in whose.items() if name.removeprefix("reference_") == home}
        left = np.asarray([statistic({**strata, **{name: strata[name][of[name] != unit] for name in of}})
                           for unit in units] if len(units) > 1 else [value])
        spread = float(((left - left.mean()) ** 2).sum() * (len(left) - 1) / len(left))
        errors.append((spread ** 0.5, len(left) - 1))
    return t_interval(value, errors)


def _labelled(rows: int, groups: Sequence[str] | None) -> list[str]:
    if groups is None or len(groups) != rows or len(set(groups)) < ENOUGH:
        return [f"row {i}" for i in range(rows)]
    return list(groups)


def sign_flip(differences: Sequence[Mapping[Unit, float]], seed: int = 0) -> JointTest:
    """Whether paired differences by unit are larger than 0, of J comparisons that share units or not.

    t_j = sum_g d_gj / sqrt(sum_g d_gj^2); flips leave its denominator as it is. Units that a comparison lacks count 0.

    Args:
        differences: for each comparison, unit -> difference; units of one name are flipped together.
    """
    d_GJ, here_GJ = _table(differences)
    scale_J = np.sqrt((d_GJ ** 2).sum(axis=0))
    unit_GJ = np.divide(d_GJ, scale_J, out=np.zeros_like(d_GJ), where=scale_J > 0)
    exact = len(d_GJ) <= EXACT.bit_length() - 1
    drawn = [signs_BG @ unit_GJ for signs_BG in _signs(len(d_GJ), exact, seed)]
    return _corrected(np.concatenate(drawn), unit_GJ.sum(axis=0), np.sqrt(here_GJ.sum(axis=0)), exact,
                      2.0 ** -here_GJ.sum(axis=0))


def permute(subject: Sequence[Mapping[Unit, float]], control: Sequence[Mapping[Unit, float]],
            seed: int = 0) -> JointTest:
    """Whether the units of one side show more than other units on the other, of J comparisons.

    The statistic is Welch's t of unit means; units move between the sides, the same in all comparisons.
    """
    pooled = [{(side, unit): value for side, units in ((1.0, mine), (0.0, theirs)) for unit, value in units.items()}
              for mine, theirs in zip(subject, control, strict=True)]
    x_GJ, here_GJ = _table(pooled)
    mine_G = np.asarray([side for side, _ in _units(pooled)])
    total, inside = len(mine_G), int(mine_G.sum())
    exact = comb(total, inside) <= EXACT
    if exact:
        moved_BG = np.zeros((comb(total, inside), total))
        for row, chosen in zip(moved_BG, combinations(range(total), inside), strict=True):
            row[list(chosen)] = 1.0
    else:
        random = np.random.default_rng(seed)
        moved_BG = random.permuted(np.broadcast_to(mine_G, (DRAWS, total)).copy(), axis=1)
    drawn_BJ, observed_J = (_welch(moves, x_GJ, here_GJ) for moves in (moved_BG, mine_G[None]))
    least_J = np.asarray([1 / comb(len(a) + len(b), len(a)) for a, b in zip(subject, control, strict=True)])
    return _corrected(drawn_BJ, observed_J[0], np.full(len(subject), np.inf), exact, least_J)


def _units(columns: Sequence[Mapping[Unit, float]]) -> list[Unit]:
    return list(dict.fromkeys(unit for column in columns for unit in column))


def _table(columns: Sequence[Mapping[Unit, float]]) -> tuple[Floats, Floats]:
    """Values by unit and comparison, 0 where a comparison lacks a unit, and 1 where it has it."""
    at = {unit: row for row, unit in enumerate(_units(columns))}
    x_GJ, here_GJ = np.zeros((len(at), len(columns))), np.zeros((len(at), len(columns)))
    for j, column in enumerate(columns):
        rows = [at[unit] for unit in column]
        x_GJ[rows, j], here_GJ[rows, j] = list(column.values()), 1.0
    return x_GJ, here_GJ


def _signs(units: int, exact: bool, seed: int) -> Iterable[Floats]:
    if exact:
        yield np.asarray(1.0 - 2.0 * ((np.arange(1 << units)[:, None] >> np.arange(units)) & 1), dtype=float)
        return
    random, step = np.random.default_rng(seed), max(1, _CHUNK // units)
    for start in range(0, DRAWS, step):
        ones = random.integers(0, 2, (min(step, DRAWS - start), units), dtype=np.int8)
        yield np.asarray(1.0 - 2.0 * ones, dtype=float)


def _welch(side_BG: Floats, x_GJ: Floats, here_GJ: Floats) -> Floats:
    """Welch's t, side 1 minus side 0; 0 where a side has no unit, infinite where neither side varies."""
    parts, whole = [], [table_GJ.sum(axis=0) for table_GJ in (here_GJ, x_GJ, x_GJ ** 2)]
    one = [side_BG @ table_GJ for table_GJ in (here_GJ, x_GJ, x_GJ ** 2)]
    for n, total, squares in (one, [a - b for a, b in zip(whole, one, strict=True)]):
        mean = np.divide(total, n, out=np.zeros_like(total), where=n > 0)
        spread = np.maximum(squares - n * mean ** 2, 0.0)
        parts.append((n, mean, np.where(spread > 1e-12 * squares, spread, 0.0)))
    (n1, mean1, spread1), (n0, mean0, spread0) = parts
    gap, filled = mean1 - mean0, np.minimum(n1, n0) > 0
    # A side of one unit has no variance of its own; both then share one.
    free = np.maximum(n1 + n0 - 2, 1)
    pooled = (spread1 + spread0) / free
    var1 = np.where(np.minimum(n1, n0) > 1, spread1 / np.maximum(n1 - 1, 1), pooled)
    var0 = np.where(np.minimum(n1, n0) > 1, spread0 / np.maximum(n0 - 1, 1), pooled)
    error = np.sqrt(var1 / np.maximum(n1, 1) + var0 / np.maximum(n0, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(error > 0, gap / error, np.sign(gap) * np.where(np.abs(gap) > 1e-12, np.inf, 0.0))
    return np.where(filled, t, 0.0)


def _corrected(drawn_BJ: Floats, observed_J: Floats, full_J: Floats, exact: bool, floor_J: Floats) -> JointTest:
    """Shares of draws at least as large, alone and as the step-down maximum.

    Args:
        full_J: the statistic if every unit showed the same full difference.
        floor_J: the smallest share that a comparison can have by itself.
    """
    slack = 1e-9

    def share(reached_B: NDArray[np.bool_]) -> float:
        count = int(reached_B.sum())
        return count / len(reached_B) if exact else (1 + count) / (1 + len(reached_B))

    alone_J = np.asarray([share(drawn_BJ[:, j] >= t - slack) for j, t in enumerate(observed_J)])
    joint_J, least_J = np.ones_like(observed_J), np.ones_like(observed_J)
    order, highest = np.argsort(-observed_J, kind="stable"), 0.0
    # From the smallest up: the maximum over a comparison and all that showed less.
    above_BJ = np.maximum.accumulate(drawn_BJ[:, order[::-1]], axis=1)[:, ::-1]
    for rank, j in enumerate(order):
        highest = joint_J[j] = max(highest, share(above_BJ[:, rank] >= observed_J[j] - slack))
    floor_J = np.maximum(floor_J, 0.0 if exact else 1 / (1 + len(drawn_BJ)))
    for j, full in enumerate(full_J):
        others = [k for k in range(len(full_J)) if k != j and observed_J[k] <= full]
        crowd = share(drawn_BJ[:, others].max(axis=1) >= full - slack) if others and np.isfinite(full) else 0.0
        least_J[j] = min(1.0, floor_J[j] + crowd)
    return JointTest(alone_J, joint_J, least_J, floor_J)


def swapped_distance(mine: Values, theirs: Values, entity_of: Mapping[str, str], seed: int = 0) -> PairedDistance:
    """The Kolmogorov-Smirnov distance of two models over the same rows, tested by swapping the models per entity.

    Two-sided, so that 6 entities can reach 0.05; fewer are tested by rows.

    Raises:
        ValueError: the two share no row.
    """
    rows = [key for key in mine if key in theirs]
    if not rows:
        raise ValueError("the two models share no row")
    whose = [entity_of.get(key, key) for key in rows]
    by_rows = len(set(whose)) < min(ENOUGH + 1, len(rows))
    units, at_N = np.unique(np.asarray(rows if by_rows else whose), return_inverse=True)
    x_M = np.asarray([mine[key] for key in rows] + [theirs[key] for key in rows])
    order = np.argsort(x_M, kind="stable")
    last_M = np.append(np.diff(x_M[order]) > 0, True)  # a step of both distributions ends where the value changes
    side_M, unit_M = np.repeat([1.0, -1.0], len(rows))[order], np.tile(at_N, 2)[order]
    exact = len(units) <= EXACT.bit_length() - 1

    def largest(signs_BG: Floats) -> Floats:
        steps_BM = np.cumsum(signs_BG[:, unit_M] * side_M, axis=1)[:, last_M]
        return np.asarray(np.abs(steps_BM).max(axis=1) / len(rows))

    distance = float(largest(np.ones((1, len(units))))[0])
    drawn_B = np.concatenate([largest(part) for whole in _signs(len(units), exact, seed)
                              for part in np.array_split(whole, max(1, len(whole) * len(x_M) // _CHUNK))])
    count = int((drawn_B >= distance - 1e-9).sum())
    return PairedDistance(distance=distance, p=count / len(drawn_B) if exact else (1 + count) / (1 + len(drawn_B)),
                          unit="rows" if by_rows else "entities", units=len(units))
