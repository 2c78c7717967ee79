"""Similarity of the subject's hidden states to those of a reference (centred kernel alignment)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, Metric, MetricCard, NotAvailable, Strata
from expunge.metrics.layers import Array
from expunge.metrics.states import orientation_beside, paired_states
from expunge.plugin import Property
from expunge.records.score import Orientation
from expunge.records.task import SPLITS, Split

FEWEST = 4
"""Minimum number of rows for the unbiased estimate."""


class CKAOptions(plugin.Spec):
    to: Literal["retrained", "original"] = Field("retrained", description="the model to compare with")
    layer: Literal["mean", "last"] = Field("mean", description="mean over the observed layers, or the last one")
    estimator: Literal["unbiased", "biased"] = Field("unbiased", description=(
        "unbiased: independent states give 0 at any width; biased: the textbook form, inflated unless there are "
        "many more rows than hidden units"))
    rows: int = Field(128, ge=FEWEST, description="maximum number of rows, evenly spaced; the cost is quadratic")


def gram(states_nD: Array, estimator: str) -> Array:
    """Gram matrix of centred rows, shape n n; the unbiased estimate sets its diagonal to 0."""
    centred = states_nD - states_nD.mean(0)
    gram_nn = np.asarray(centred @ centred.T, dtype=float)
    if estimator == "unbiased":
        np.fill_diagonal(gram_nn, 0)
    return gram_nn


def linear_cka(x_nD: Array, y_nD: Array, estimator: str = "unbiased") -> float:
    """CKA of two representations of the same rows; 1 = equal up to rotation, shift and scale."""
    x_nn, y_nn = (gram(side, estimator) for side in (x_nD, y_nD))
    return float(gram_cka(x_nn[:, None], y_nn[:, None], estimator)[0])


def gram_cka(x_nLn: Array, y_nLn: Array, estimator: str = "unbiased") -> Array:
    """The same of Gram matrices by layer, for many pairs of the same models."""
    return _cka(np.stack([x_nLn, y_nLn]), np.ones(len(x_nLn)), estimator)


def _cka(grams_2nLn: Array, weight_n: Array, estimator: str) -> Array:
    """CKA per layer from two stacks of Gram matrices whose rows may repeat; `weight_n` counts each column's repeats."""
    x, y = grams_2nLn
    if estimator == "biased":
        def inner(a: Array, b: Array) -> Array:
            return np.einsum("ilj,ilj,j->l", a, b, weight_n)
    else:
        n = weight_n.sum()

        def inner(a: Array, b: Array) -> Array:
            """Unbiased HSIC up to a factor (Song et al. 2012, equation 5)."""
            sum_a, sum_b = a @ weight_n, b @ weight_n
            product = np.einsum("ilj,ilj,j->l", a, b, weight_n)
            return (product + sum_a.sum(0) * sum_b.sum(0) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (sum_a * sum_b).sum(0))

    both, own_x, own_y = inner(x, y), inner(x, x), inner(y, y)
    size = np.sqrt(np.maximum(own_x, 0) * np.maximum(own_y, 0))
    return np.clip(np.divide(both, size, out=np.zeros_like(both), where=size > 0), -1, 1)


class CKA(Metric):
    card = MetricCard(
        name="cka", kind="metric",
        summary="Similarity of hidden states to those of the retrained model (linear CKA)",
        paper="arXiv 2503.06991; unbiased HSIC: Song et al. 2012",
        formula="<K, L> / sqrt(<K, K> <L, L>), K and L Gram matrices of centred states",
        defaults="mean over the observed layers; at most 128 rows",
        deviations=(
            "The unbiased estimate, since an audit has about as many rows as hidden units, where the published form "
            "gives independent states a high value (estimator=biased).",
            "All rows at once instead of batches of 512; 1 means equal, not 100.",
            "Two retrained models differ too: compare it with the retrained control, which is the ceiling.",
            "Rows that a resample draws twice are not compared with themselves.",
        ),
        higher_is="forgot", range=(-1.0, 1.0), ideal="reference", access="weights",
        probes=(("hidden", SPLITS),), per_split=True,
    )
    Spec: ClassVar[type[plugin.Spec]] = CKAOptions
    anchored: ClassVar[bool] = True
    must_show = (
        Property("value", {"world": "retrained", "split": "forget", "is_": 1.0}, "a model against itself"),
        Property("orders", {"split": "forget", "worlds": ("retrained", "original", "uniform")}),
        Property("needs", {"without": "retrained", "split": "forget",
                           "says": "no retrained model was given (--retrained)"}),
        Property("needs", {"without": ("hidden", "forget", None), "split": "forget", "says": "hidden"}),
    )

    def orientation(self, split: Split | None) -> Orientation:
        return orientation_beside(split, self.spec.to)

    def sample(self, evidence: Evidence, split: Split | None = None) -> Strata:
        split = self.one(split)
        _, states_nLD, reference_nLD = paired_states(evidence, split, self.spec.to)
        if self.spec.layer == "last":
            states_nLD, reference_nLD = states_nLD[:, -1:], reference_nLD[:, -1:]
        if len(states_nLD) < FEWEST:
            raise NotAvailable(f"{len(states_nLD)} {split} rows are fewer than the {FEWEST} that CKA needs")
        count = len(states_nLD)
        picked = np.unique(np.linspace(0, count - 1, min(self.spec.rows, count)).round().astype(int))
        n, depth = len(picked), states_nLD.shape[1]
        grams_2Lnn = np.asarray([[gram(side[picked, layer], self.spec.estimator) for layer in range(depth)]
                                 for side in (states_nLD, reference_nLD)])
        # Rows first, since the bootstrap resamples them; each carries its row number, which gives the column weights.
        number = np.broadcast_to(np.arange(float(n))[:, None, None, None], (n, 1, depth, n))
        return {split: np.concatenate([grams_2Lnn.transpose(2, 0, 1, 3), number], 1)}

    def statistic(self, strata: Strata) -> float:
        (rows,) = strata.values()
        weight_n = np.bincount(rows[:, 2, 0, 0].astype(int), minlength=len(rows)).astype(float)
        return float(_cka(rows[:, :2].transpose(1, 0, 2, 3), weight_n, self.spec.estimator).mean())
