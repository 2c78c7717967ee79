"""Whether a probe of the original's hidden states still finds the forget rows in those of the subject."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, Groups, Metric, MetricCard, NotAvailable, Strata
from expunge.metrics.layers import Array, cross_chosen, entities_of, entity_folds, logits_of
from expunge.metrics.states import paired_states
from expunge.plugin import Property
from expunge.records.task import Split

Labels = NDArray[np.intp]


class TransferProbeOptions(plugin.Spec):
    layer: Literal["chosen", "mean", "last"] = Field("chosen", description=(
        "chosen: the best one, chosen on the other half of the entities; mean: mean over all; last: the last"))
    folds: int = Field(5, ge=2, description="groups of entities held out in turn")


def transferred(source_nD: Array, target_nD: Array, label_n: Labels, fold_n: Labels) -> Array:
    """Per row 1 where a probe on the source's states of other folds is right on the target's state of this one."""
    hit_n = np.zeros(len(label_n))
    for fold in np.unique(fold_n):
        out = fold_n == fold
        logit = logits_of(source_nD[~out], label_n[~out], target_nD[out])
        hit_n[out] = (logit > 0) == label_n[out]
    return hit_n


class TransferProbe(Metric):
    card = MetricCard(
        name="transfer_probe", kind="metric",
        summary="Accuracy of a probe of the original's states on those of the model, forget against holdout rows",
        paper="Are We Truly Forgetting? (arXiv 2503.06991): how far features serve as they did before",
        formula="balanced accuracy on h_l of the subject of a logistic regression on h_l of the original, of "
                "other entities",
        defaults="as linear_probe: C = 1, standardised; five groups of entities held out in turn",
        needs=frozenset({"holdout", "original"}),
        deviations=("The paper measures features of classifiers on other data sets, by nearest neighbours; here the "
                    "task is that of the audit, and the probe is linear.",
                    "0.5 says that the states have moved or lost the rows; linear_probe, which is fitted on the model "
                    "itself, tells which.",
                    "The interval takes the fitted probes and the chosen layer as fixed."),
        higher_is="knows", range=(0.0, 1.0), ideal="reference", access="weights",
        probes=(("hidden", ("forget", "holdout")),),
    )
    Spec: ClassVar[type[plugin.Spec]] = TransferProbeOptions
    must_show = (
        Property("near", {"world": "original", "is_": 1.0, "within": 0.1}, "its own states"),
        Property("near", {"world": "retrained", "is_": 0.5, "within": 0.15}, "forget rows look like holdout rows"),
        Property("orders", {"worlds": ("original", "retrained")}),
        Property("needs", {"without": ("hidden", "forget", None), "says": "hidden"}),
    )

    def sample(self, evidence: Evidence, split: Split | None = None) -> Strata:
        return self.grouped(evidence, split)[0]

    def grouped(self, evidence: Evidence, split: Split | None = None) -> tuple[Strata, Groups]:
        if evidence.original is None:
            raise NotAvailable("no original model was given (--original)")
        sides: tuple[Split, ...] = ("forget", "holdout")
        forget, holdout = (paired_states(evidence, side, "original") for side in sides)
        by_id = {row["id"]: row for side in sides for row in evidence.rows("hidden", side)}
        entities = entities_of({key: by_id[key] for key in (*forget[0], *holdout[0])})
        label_n = np.repeat([1, 0], [len(forget[0]), len(holdout[0])])
        own_nLD, source_nLD = (np.concatenate([forget[i], holdout[i]]) for i in (1, 2))
        fold_n = entity_folds(entities, label_n, self.spec.folds)
        layers = range(own_nLD.shape[1])[-1 if self.spec.layer == "last" else 0:]
        hit_nL = np.stack([transferred(source_nLD[:, i], own_nLD[:, i], label_n, fold_n) for i in layers], 1)
        hit_n = cross_chosen(hit_nL, entities) if self.spec.layer == "chosen" else hit_nL.mean(1)
        count = len(forget[0])
        return ({"forget": hit_n[:count], "control": hit_n[count:]},
                {"forget": entities[:count], "control": entities[count:]})

    def statistic(self, strata: Strata) -> float:
        return float(np.mean([strata["forget"].mean(), strata["control"].mean()]))
