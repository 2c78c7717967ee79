"""Whether rows have the same nearest neighbours in the subject as in a reference, by hidden states."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, MetricCard, NotAvailable, RowMetric
from expunge.metrics.layers import Array
from expunge.metrics.states import orientation_beside, paired_states
from expunge.plugin import Property
from expunge.records.score import Orientation
from expunge.records.task import SPLITS, Split


class KnnOptions(plugin.Spec):
    to: Literal["retrained", "original"] = Field("retrained", description="the model to compare with")
    k: int = Field(5, ge=1, description="neighbours per row")


def neighbours(states_nD: Array, k: int) -> NDArray[np.bool_]:
    """Boolean matrix, shape n n, with k True per row: the k other rows nearest by cosine."""
    length_n = np.linalg.norm(states_nD, axis=1, keepdims=True)
    unit_nD = np.divide(states_nD, length_n, out=np.zeros_like(states_nD), where=length_n > 0)
    # Rounded, so that ties are broken by row number in both models.
    cosine_nn = (unit_nD @ unit_nD.T).round(9)
    np.fill_diagonal(cosine_nn, -np.inf)
    near_nn = np.zeros(cosine_nn.shape, dtype=bool)
    np.put_along_axis(near_nn, np.argsort(-cosine_nn, axis=1, kind="stable")[:, :k], True, axis=1)
    return near_nn


def overlaps(x_nD: Array, y_nD: Array, k: int) -> Array:
    """Share of the k neighbours of each row that two representations have in common, shape n."""
    return np.asarray((neighbours(x_nD, k) & neighbours(y_nD, k)).sum(1) / k, dtype=float)


class KnnOverlap(RowMetric):
    card = MetricCard(
        name="knn_overlap", kind="metric",
        summary="Share of each row's nearest neighbours that it also has in the retrained model",
        paper="k-NN on features: arXiv 2503.06991",
        formula="mean over rows and layers of |N_k(subject) & N_k(reference)| / k",
        defaults="k = 5, cosine, among the rows of the split; mean over the observed layers",
        deviations=("The paper classifies by k-NN on other data sets; there are no classes here, so the neighbours "
                    "themselves are compared. Chance is k / (n - 1).",),
        higher_is="forgot", range=(0.0, 1.0), ideal="reference", access="weights",
        probes=(("hidden", SPLITS),), per_split=True,
    )
    Spec: ClassVar[type[plugin.Spec]] = KnnOptions
    anchored: ClassVar[bool] = True
    must_show = (
        Property("value", {"world": "retrained", "split": "forget", "is_": 1.0}, "a model against itself"),
        Property("orders", {"split": "forget", "worlds": ("retrained", "original", "uniform")}),
        Property("needs", {"without": "retrained", "split": "forget",
                           "says": "no retrained model was given (--retrained)"}),
    )

    def orientation(self, split: Split | None) -> Orientation:
        return orientation_beside(split, self.spec.to)

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        ids, states_nLD, reference_nLD = paired_states(evidence, split, self.spec.to)
        if len(ids) <= self.spec.k + 1:
            raise NotAvailable(f"{len(ids)} {split} rows are too few to have {self.spec.k} neighbours to choose from")
        overlap_n = np.mean([overlaps(states_nLD[:, i], reference_nLD[:, i], self.spec.k)
                             for i in range(states_nLD.shape[1])], axis=0)
        return dict(zip(ids, overlap_n.tolist(), strict=True))
