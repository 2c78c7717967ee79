"""Shared by metrics of model internals: features per row, layer choice on held-out entities, linear classifiers.

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
    """Rows sorted by example id, so that the order of observation has no effect."""
    return {row["id"]: row for row in sorted(evidence.rows(probe, split), key=lambda row: str(row["id"]))}


def table(rows: Mapping[str, Row], key: str) -> Array:
    """Values of `key`, shape n x (shape of one value); raises NotAvailable where one is NaN."""
    values = np.asarray([row[key] for row in rows.values()], dtype=float)
    if np.isnan(values).any():
        raise NotAvailable(f"{key} holds values that are not numbers (NaN): the model is broken there")
    return values


def entities_of(rows: Mapping[str, Row]) -> list[str]:
    """The entity of each row; the row's own id where it has none."""
    return [str(row["entity"] or key) for key, row in rows.items()]


def entity_groups(entities: Sequence[str], count: int) -> NDArray[np.intp]:
    """Group number of each row, below `count`: entities are assigned in turn, none to two groups."""
    number = {entity: i % count for i, entity in enumerate(sorted(set(entities)))}
    return np.asarray([number[entity] for entity in entities])


def cross_chosen(values_nL: Array, entities: Sequence[str]) -> Array:
    """Per row the value at the layer that is best on average for the *other* half of the entities, shape n.

    Choosing the best layer on the rows it is evaluated on would be biased upwards. The rows of a single entity are
    split into halves.
    """
    if values_nL.shape[1] == 1:
        return values_nL[:, 0]
    units = entities if len(set(entities)) > 1 else [str(i) for i in range(len(entities))]
    if len(units) < 2:
        raise NotAvailable("there is only one row, so no layer can be chosen on others")
    half_n = entity_groups(units, 2)
    best = [int(values_nL[half_n != half].mean(0).argmax()) for half in (0, 1)]
    return values_nL[np.arange(len(values_nL)), np.asarray(best)[half_n]]


def entity_folds(entities: Sequence[str], label_n: NDArray[np.intp], folds: int) -> NDArray[np.intp]:
    """Fold number of each row: no entity in two folds, both classes in every fold.

    There are at most as many folds as the smaller class has entities; raises NotAvailable for fewer than two.
    """
    sides = [[e for e, label in zip(entities, label_n, strict=True) if label == side] for side in (0, 1)]
    count = min(folds, *(len(set(side)) for side in sides))
    if count < 2:
        raise NotAvailable("one of the two groups is about a single entity, so no entity can be held out")
    fold_n = np.zeros(len(entities), dtype=np.intp)
    for side, names in enumerate(sides):
        fold_n[label_n == side] = entity_groups(names, count)
    return fold_n


def out_of_fold_logits(features_nD: Array, label_n: NDArray[np.intp], fold_n: NDArray[np.intp]) -> Array:
    """Log-odds of class 1 per row, from a logistic regression fitted on the other folds, shape n."""
    logit_n = np.zeros(len(features_nD))
    for fold in np.unique(fold_n):
        inside = fold_n != fold
        logit_n[~inside] = logits_of(features_nD[inside], label_n[inside], features_nD[~inside])
    return logit_n


def logits_of(features_nD: Array, label_n: NDArray[np.intp], others_mD: Array) -> Array:
    """Log-odds of class 1 of other rows, from a logistic regression on these, shape m."""
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    mean_D, spread_D = features_nD.mean(0), features_nD.std(0)
    # A feature that varies only by rounding must not be scaled to unit variance.
    spread_D = np.where(spread_D > 1e-9 * (1 + np.abs(mean_D)), spread_D, np.inf)
    model: Any = LogisticRegression(C=PENALTY, max_iter=ROUNDS, class_weight="balanced")
    with threadpool_limits(1):  # on matrices this small, several threads take thirty times as long
        model.fit((features_nD - mean_D) / spread_D, label_n)
    return np.asarray(model.decision_function((others_mD - mean_D) / spread_D), dtype=float)
