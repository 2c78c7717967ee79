"""Membership by a classifier of confidences: what unlearning papers on images call MIA efficacy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from expunge.metrics.base import Evidence, Metric, MetricCard, NotAvailable, Strata
from expunge.metrics.rows import mean_logp
from expunge.plugin import Property
from expunge.records.task import Split

Floats = NDArray[np.float64]
LEAST = 5
"""Rows of each side below which no classifier is trained."""


def predicted_members(members: Floats, nonmembers: Floats, tested: Floats) -> Floats:
    """1 where a support vector machine classifies a confidence as that of a training row, else 0.

    It is trained on equally many members and nonmembers: evenly spaced sorted values of the larger side.

    Args:
        members, nonmembers, tested: probabilities of the right answer.
    """
    from sklearn.svm import SVC

    count = min(len(members), len(nonmembers))
    chosen = [np.sort(side)[np.linspace(0, len(side) - 1, count).round().astype(int)] for side in (members, nonmembers)]
    seen = np.concatenate(chosen)[:, None]
    labels = np.repeat([1, 0], count)
    if np.ptp(seen) == 0:  # the sides are indistinguishable
        return np.full(len(tested), 0.5)
    predicted: Floats = SVC(C=3, gamma="auto", kernel="rbf").fit(seen, labels).predict(tested[:, None]).astype(float)
    return predicted


class MiaConfidence(Metric):
    card = MetricCard(
        name="mia.confidence",
        kind="metric",
        summary="Share of forget rows that a classifier of confidences takes for rows never trained on",
        paper="Jia et al. 2023 (arXiv 2304.04934) and SalUn, Fan et al. 2024 (arXiv 2310.12508): MIA efficacy",
        formula="1 - (1/n) sum_x SVM(p(y | x)), trained on retain (member) against holdout and utility rows (not)",
        defaults="RBF kernel, C 3, gamma auto, as published; as many members as non-members",
        deviations=("of the larger side every so many values in sorted order are taken, not the first of the data set",
                    "of a text answer the confidence is exp of the mean log-probability of its tokens",
                    "the interval is that of the forget rows; the classifier is trained once"),
        higher_is="forgot", range=(0.0, 1.0), ideal="reference", access="logits",
        probes=(("likelihood", ("forget", "retain", "holdout", "utility")),),
    )
    must_show: ClassVar[tuple[Property, ...]] = (
        Property("value", {"world": "perfect", "is_": 0.0}, "forget rows look like training rows"),
        Property("near", {"world": "retrained", "is_": 1.0, "within": 0.2}, "they look like rows never seen"),
        Property("needs", {"without": ("likelihood", "retain", None), "says": "retain"}),
    )

    def sample(self, evidence: Evidence, split: Split | None = None) -> Strata:
        asked, members = _confidences(evidence, "forget"), _confidences(evidence, "retain")
        nonmembers = np.concatenate([_confidences(evidence, "holdout"), _confidences(evidence, "utility", False)])
        if min(len(members), len(nonmembers)) < LEAST:
            raise NotAvailable(f"fewer than {LEAST} retain rows, or rows never trained on, have an answer")
        return {"forget": 1 - predicted_members(members, nonmembers, asked)}


def _confidences(evidence: Evidence, split: Split, must: bool = True) -> Floats:
    rows = evidence.rows("likelihood", split, "answer") if must else evidence.subject.rows("likelihood", split,
                                                                                           "answer")
    return np.exp(np.asarray([value for row in rows if (value := mean_logp(row)) is not None], dtype=float))
