"""Separating forget rows from others by the loss landscape around each text (REMIND)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, Metric, MetricCard, Strata
from expunge.metrics.landscape_gap import losses
from expunge.metrics.layers import Array, entities_of, entity_folds, out_of_fold_logits, rows_by_id, table
from expunge.metrics.statistics import auc
from expunge.plugin import Property
from expunge.records.score import Orientation
from expunge.records.task import Split


class RemindOptions(plugin.Spec):
    against: Literal["holdout", "retain", "rest"] = Field(
        "holdout", description="the negative class: holdout rows, retain rows, or both")
    read: Literal["shape", "gap"] = Field("shape", description=(
        "shape: a classifier on all features, evaluated on held-out entities; gap: the mean gap only, nothing fitted"))
    max_fpr: float = Field(1.0, gt=0, le=1, description=(
        "use the curve up to this false-positive rate, rescaled so that 0.5 is chance"))
    folds: int = Field(5, ge=2, description="groups of entities held out in turn")


def features(l0_n: Array, losses_nK: Array, strengths_nK: Array) -> Array:
    """Ten features of the loss landscape around each text, shape n x 10.

    Loss itself; mean, spread, smallest, largest and range of the neighbours; mean and largest gap to the text;
    slope and curvature of the gap in the strength of the change.
    """
    gaps_nK = losses_nK - l0_n[:, None]
    low_n, high_n = losses_nK.min(1), losses_nK.max(1)
    bends = [_bend(gaps_K, strengths_K) for gaps_K, strengths_K in zip(gaps_nK, strengths_nK, strict=True)]
    return np.column_stack([l0_n, losses_nK.mean(1), losses_nK.std(1), low_n, high_n, high_n - low_n,
                            gaps_nK.mean(1), gaps_nK.max(1), np.asarray(bends)])


def _bend(gaps_K: Array, strengths_K: Array) -> tuple[float, float]:
    """Least-squares slope and quadratic coefficient; 0 where there are too few strengths to fit one."""
    degree = min(2, len(np.unique(strengths_K)) - 1)
    if degree < 1:
        return 0.0, 0.0
    line = np.polyfit(strengths_K, gaps_K, 1)
    return float(line[0]), float(np.polyfit(strengths_K, gaps_K, 2)[0]) if degree == 2 else 0.0


class Remind(Metric):
    card = MetricCard(
        name="remind", kind="metric",
        summary="AUC of separating forget rows from others by the loss of slightly changed texts",
        paper="REMIND, arXiv 2511.04228",
        formula="AUC of a logistic regression on features of (l_0, l_1 .. l_K), entities held out",
        defaults="forget against holdout; ten features, reconstructed: the paper's list is not public",
        needs=frozenset({"holdout"}),
        deviations=(
            "Two classes at a time instead of three; `against=rest` is one class against the others.",
            "The classifier learns either direction, so it also detects a model that over-forgot. `read=gap` "
            "has a direction (above 0.5: sharper around the forget rows).",
            "The interval takes the fitted classifiers as fixed.",
        ),
        higher_is="knows", range=(0.0, 1.0), ideal="reference", access="logits",
        probes=(("landscape", ("forget", "holdout", "retain")),),
    )
    Spec: ClassVar[type[plugin.Spec]] = RemindOptions
    must_show = (
        Property("near", {"world": "perfect", "is_": 1.0, "within": 0.05}, "sharp around memorised texts"),
        Property("near", {"world": "retrained", "is_": 0.5, "within": 0.15}, "both never seen"),
        Property("orders", {"worlds": ("original", "retrained")}),
        Property("needs", {"without": ("landscape", "forget", None), "says": "landscape"}),
    )

    def orientation(self, split: Split | None) -> Orientation:
        """Against retain rows forget rows should differ, as they do in a model that never saw them: neutral."""
        return "knows" if self.spec.against == "holdout" else "neutral"

    def sample(self, evidence: Evidence, split: Split | None = None) -> Strata:
        others: tuple[Split, ...] = ("holdout", "retain") if self.spec.against == "rest" else (self.spec.against,)
        sides = [rows_by_id(evidence, "landscape", of) for of in ("forget", *others)]
        features_nF = np.concatenate([features(losses(side, "l0"), losses(side, "losses"), table(side, "strengths"))
                                      for side in sides])
        label_n = np.repeat([1, *(0 for _ in others)], [len(side) for side in sides])
        if self.spec.read == "gap":
            score_n = features_nF[:, 6]
        else:
            entities = [entity for side in sides for entity in entities_of(side)]
            score_n = out_of_fold_logits(features_nF, label_n, entity_folds(entities, label_n, self.spec.folds))
        return {"forget": score_n[label_n == 1], "others": score_n[label_n == 0]}

    def statistic(self, strata: Strata) -> float:
        if self.spec.max_fpr == 1:
            return auc(strata["forget"], strata["others"])
        from sklearn.metrics import roc_auc_score

        sizes = [len(strata["forget"]), len(strata["others"])]
        score: Any = roc_auc_score(np.repeat([1, 0], sizes), np.concatenate([strata["forget"], strata["others"]]),
                                   max_fpr=self.spec.max_fpr)
        return float(score)
