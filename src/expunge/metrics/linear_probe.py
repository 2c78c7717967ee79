"""Whether a linear classifier on hidden states separates the forget rows from rows never trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, Groups, Metric, MetricCard, NotAvailable, Strata
from expunge.metrics.layers import (
    Array,
    cross_chosen,
    entities_of,
    entity_folds,
    entity_groups,
    out_of_fold_logits,
    rows_by_id,
    table,
)
from expunge.plugin import Property
from expunge.records.task import Split

Labels = NDArray[np.intp]


class LinearProbeOptions(plugin.Spec):
    against: Literal["holdout", "retain", "pure"] = Field("holdout", description=(
        "the negative class: holdout or retain rows; pure: no forget rows, one half of the holdout entities "
        "against the other half, which shows how much texts of two groups differ without memorisation"))
    layer: Literal["chosen", "mean", "last"] = Field("chosen", description=(
        "chosen: the best one, chosen on the other half of the entities; mean: mean over all; last: the last"))
    labels: Literal["true", "permuted"] = Field("true", description=(
        "permuted: labels permuted over entities, the same steps otherwise: the level of chance"))
    permutations: int = Field(5, ge=1, description="number of permutations, averaged")
    folds: int = Field(5, ge=2, description="groups of entities held out in turn; 1000 holds out one pair at a time")


def layer_hits(states_nLD: Array, label_n: Labels, entities: list[str], folds: int, layer: str) -> Array:
    """Per row and layer 1 where the probe fitted without its entity is right, else 0; shape n L, of the last layer
    alone n 1."""
    fold_n = entity_folds(entities, label_n, folds)
    layers = [states_nLD.shape[1] - 1] if layer == "last" else range(states_nLD.shape[1])
    hits = [(out_of_fold_logits(states_nLD[:, i], label_n, fold_n) > 0) == label_n for i in layers]
    return np.stack(hits, 1).astype(float)


def probe_hits(states_nLD: Array, label_n: Labels, entities: list[str], folds: int, layer: str) -> Array:
    """Per row whether the probe fitted without its entity is right: 1, 0, or the mean over layers."""
    hit_nL = layer_hits(states_nLD, label_n, entities, folds, layer)
    return cross_chosen(hit_nL, entities) if layer == "chosen" else hit_nL.mean(1)


def permuted(label_n: Labels, entities: list[str], draw: int) -> Labels:
    """Labels permuted over entities; each class keeps its number of entities."""
    label_of = dict(zip(entities, label_n.tolist(), strict=True))
    names = sorted(label_of)
    labels = np.random.default_rng([7, draw]).permutation([label_of[name] for name in names])
    new = dict(zip(names, labels.tolist(), strict=True))
    return np.asarray([new[name] for name in entities])


class LinearProbe(Metric):
    card = MetricCard(
        name="linear_probe", kind="metric",
        summary="Accuracy of a linear probe that separates forget rows from rows never seen, on held-out entities",
        paper="cross-sequence probe, arXiv 2605.01699",
        formula="balanced accuracy of logistic regression on h_l of entities it was not fitted on",
        defaults="C = 1, standardised; five groups of entities held out in turn, both classes at once",
        needs=frozenset({"holdout"}),
        deviations=(
            "Texts of two groups differ without memorisation: only the distance to the retrained control (or to "
            "against=pure) measures forgetting, not the distance to 0.5.",
            "With four entities a side it is mostly noise: 0.30 and 0.45 for two retrained models of the test bed.",
            "Values below 0.5 are an effect of holding out entities, not a sign of erasure.",
            "Five groups of entities are held out instead of one pair at a time (folds=1000); the interval is over "
            "entities, and takes the fitted probes and the chosen layer as fixed.",
        ),
        higher_is="knows", range=(0.0, 1.0), ideal="reference", access="weights",
        probes=(("hidden", ("forget", "holdout", "retain")),),
    )
    Spec: ClassVar[type[plugin.Spec]] = LinearProbeOptions
    must_show = (
        Property("near", {"world": "perfect", "is_": 1.0, "within": 0.05}, "memorised rows are linearly separable"),
        Property("near", {"world": "retrained", "is_": 0.5, "within": 0.15}, "both never seen"),
        Property("orders", {"worlds": ("original", "retrained")}),
        Property("needs", {"without": ("hidden", "forget", None), "says": "hidden"}),
    )

    def sample(self, evidence: Evidence, split: Split | None = None) -> Strata:
        return self.grouped(evidence, split)[0]

    def grouped(self, evidence: Evidence, split: Split | None = None) -> tuple[Strata, Groups]:
        states_nLD, label_n, entities = self._classes(evidence)
        spec = self.spec
        if spec.labels == "true":
            hit_nL = self._hits(evidence)
            hit_n = cross_chosen(hit_nL, entities) if spec.layer == "chosen" else hit_nL.mean(1)
            sides = {"forget": label_n == 1, "control": label_n == 0}
            return ({name: hit_n[side_n] for name, side_n in sides.items()},
                    {name: [entities[i] for i in side_n.nonzero()[0]] for name, side_n in sides.items()})
        draws = []
        for draw in range(spec.permutations):
            permuted_n = permuted(label_n, entities, draw)
            hit_n = probe_hits(states_nLD, permuted_n, entities, spec.folds, spec.layer)
            # Weighted, so that the plain mean is the balanced accuracy of the permuted classes.
            draws.append(0.5 * hit_n / np.where(permuted_n == 1, permuted_n.mean(), 1 - permuted_n.mean()))
        return {"all": np.mean(draws, axis=0)}, {"all": entities}

    def by_layer(self, evidence: Evidence) -> Sequence[tuple[int, float]]:
        if self.spec.labels != "true" or self.spec.against == "pure":
            return ()
        _, label_n, _ = self._classes(evidence)
        hit_nL = self._hits(evidence)
        layers = evidence.rows("hidden", "forget")[0]["layers"][-hit_nL.shape[1]:]  # alone where it is the last
        means_L = (hit_nL[label_n == 1].mean(0) + hit_nL[label_n == 0].mean(0)) / 2
        return list(zip(layers, means_L.tolist(), strict=True))

    def _hits(self, evidence: Evidence) -> Array:
        """`layer_hits` with the true labels, fitted once for each model."""
        kept = self.__dict__.setdefault("_fitted", {})
        if id(evidence.subject) not in kept:
            hits_nL = layer_hits(*self._classes(evidence), self.spec.folds, self.spec.layer)
            kept[id(evidence.subject)] = (evidence.subject, hits_nL)  # what is kept alive has an id of its own
        found: Array = kept[id(evidence.subject)][1]
        return found

    def statistic(self, strata: Strata) -> float:
        return min(float(np.mean([values.mean() for values in strata.values()])), 1.0)

    def _classes(self, evidence: Evidence) -> tuple[Array, Labels, list[str]]:
        """States of both classes (1 = forget), labels and entities."""
        other: Split = "retain" if self.spec.against == "retain" else "holdout"
        rows = rows_by_id(evidence, "hidden", other)
        states, entities = table(rows, "states"), entities_of(rows)
        if self.spec.against == "pure":
            if len(set(entities)) < 4:
                raise NotAvailable("the holdout rows are about fewer than four entities, too few for two groups")
            return states, entity_groups(entities, 2), entities
        forget = rows_by_id(evidence, "hidden", "forget")
        label_n = np.repeat([1, 0], [len(forget), len(rows)])
        return np.concatenate([table(forget, "states"), states]), label_n, [*entities_of(forget), *entities]
