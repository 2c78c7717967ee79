"""What metrics of model internals share: features by row, choosing a layer fairly, reading out with a classifier.

Legend: n rows, L layers, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge.metrics.base import Evidence, NotAvailable
from expunge.records.observation import Row
from expunge.records.task import Split

Array = NDArray[np.float64]
PENALTY, ROUNDS = 1.0, 10_000
"""C and the iteration limit of the logistic regression, as in arXiv 2605.01699."""


def rows_by_id(evidence: Evidence, probe: str, split: Split) -> dict[str, Row]:
    """Rows sorted by example, so that the order in which they were asked changes nothing."""
    return {row["id"]: row for row in sorted(evidence.rows(probe, split), key=lambda row: str(row["id"]))}


def table(rows: Mapping[str, Row], key: str) -> Array:
    """Values of `key`, shape n x whatever it holds; raises NotAvailable where they are not numbers."""
    values = np.asarray([row[key] for row in rows.values()], dtype=float)
    if np.isnan(values).any():
        raise NotAvailable(f"{key} holds values that are not numbers (NaN): the model is broken there")
    return values


def who(rows: Mapping[str, Row]) -> list[str]:
    """Whom each row is about; itself where it is about nobody."""
    return [str(row["entity"] or key) for key, row in rows.items()]


def groups(people: Sequence[str], count: int) -> NDArray[np.intp]:
    """Number of the group, below `count`, of each row: people dealt out in turn, nobody in two groups."""
    number = {person: i % count for i, person in enumerate(sorted(set(people)))}
    return np.asarray([number[person] for person in people])


def elsewhere(values_nL: Array, people: Sequence[str]) -> Array:
    """Per row the value at the layer that is best on average on the *other* half of the people, shape n.

    Picking the best layer on the rows it is then judged by would flatter it. One person alone is halved by rows.
    """
    if values_nL.shape[1] == 1:
        return values_nL[:, 0]
    whom = people if len(set(people)) > 1 else [str(i) for i in range(len(people))]
    if len(whom) < 2:
        raise NotAvailable("there is only one row, so no layer can be chosen on others")
    half_n = groups(whom, 2)
    best = [int(values_nL[half_n != half].mean(0).argmax()) for half in (0, 1)]
    return values_nL[np.arange(len(values_nL)), np.asarray(best)[half_n]]


def fold_of(people: Sequence[str], label_n: NDArray[np.intp], folds: int) -> NDArray[np.intp]:
    """Folds that keep people whole and hold out people of both classes; at most as many as the smaller has people."""
    sides = [[p for p, label in zip(people, label_n, strict=True) if label == side] for side in (0, 1)]
    count = min(folds, *(len(set(side)) for side in sides))
    if count < 2:
        raise NotAvailable("one of the two groups is about a single person, so nobody can be left out")
    fold_n = np.zeros(len(people), dtype=np.intp)
    for side, names in enumerate(sides):
        fold_n[label_n == side] = groups(names, count)
    return fold_n


def read_out(features_nD: Array, label_n: NDArray[np.intp], fold_n: NDArray[np.intp]) -> Array:
    """Log-odds of class 1 for every row, from a logistic regression that never saw the row's fold, shape n."""
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    found_n = np.zeros(len(features_nD))
    for fold in np.unique(fold_n):
        inside = fold_n != fold
        mean_D, spread_D = features_nD[inside].mean(0), features_nD[inside].std(0)
        # A feature that does not vary but for rounding must not be blown up to size 1.
        spread_D = np.where(spread_D > 1e-9 * (1 + np.abs(mean_D)), spread_D, np.inf)
        model: Any = LogisticRegression(C=PENALTY, max_iter=ROUNDS, class_weight="balanced")
        with threadpool_limits(1):  # on matrices this small, threads cost thirty times what they save
            model.fit((features_nD[inside] - mean_D) / spread_D, label_n[inside])
        found_n[~inside] = model.decision_function((features_nD[~inside] - mean_D) / spread_D)
    return found_n
