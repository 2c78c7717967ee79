"""Model utility: one number for all knowledge that should remain."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, Groups, Metric, MetricCard, NotAvailable, Strata
from expunge.metrics.probability import normalised_probabilities, probabilities
from expunge.metrics.rouge_l import rouges
from expunge.metrics.rows import by_example
from expunge.metrics.statistics import harmonic_mean
from expunge.metrics.truth_ratio import Variant, truth_scores
from expunge.plugin import Property
from expunge.records.observation import Row
from expunge.records.task import Split

PARTS = ("probability", "rouge_l", "truth_ratio")
ADDED = 1e-10
"""What OpenUnlearning adds to the denominators."""


class ModelUtilityOptions(plugin.Spec):
    variant: Variant = Field("arithmetic", description=(
        "form of the truth ratio (see truth_ratio): arithmetic, the paper; geometric, OpenUnlearning, which also adds "
        "1e-10 to the denominators of probabilities; legacy, the first code"))


class ModelUtility(Metric):
    """One stratum per group with one column per part, so that a resampled row keeps its three numbers."""

    card = MetricCard(
        name="model_utility",
        kind="metric", target="capability",
        summary="Harmonic mean of probability, ROUGE-L and truth ratio on retain and every utility group",
        paper="TOFU, arXiv 2401.06121, section 2.2.1",
        formula="HM of {probability, rouge_l, truth_ratio} x {retain, each group of the utility split}",
        defaults="truth ratio of the paper; OpenUnlearning's utilities are model_utility(variant=geometric)",
        needs=frozenset({"retain", "wrong_answers"}),
        deviations=("The groups are those of the task: on TOFU retain, real_authors and world_facts, so nine "
                    "numbers; a task without utility rows has three. Compare values of one task only.",),
        alternatives=True, higher_is="knows", range=(0.0, 1.0), ideal="reference", access="logits",
        probes=(("likelihood", ("retain", "utility")), ("generation", ("retain", "utility"))),
    )
    Spec: ClassVar[type[plugin.Spec]] = ModelUtilityOptions
    must_show = (
        Property("near", {"world": "perfect", "is_": 1.0, "within": 1e-3}, "equals the common value"),
        Property("value", {"world": "uniform", "is_": 0.0}, "0, not NaN, when one part is 0"),
        Property("orders", {"worlds": ("original", "collapsed")}),
        Property("needs", {"without": ("generation", "retain", None), "says": "retain rouge_l"}),
        Property("needs", {"without": ("likelihood", "retain", "wrong"), "says": "retain truth_ratio"}),
        Property("needs", {"without": ("likelihood", "utility", "wrong"), "says": "truth_ratio"}),
    )

    def sample(self, evidence: Evidence, split: Split | None = None) -> Strata:
        return self.grouped(evidence, split)[0]

    def grouped(self, evidence: Evidence, split: Split | None = None) -> tuple[Strata, Groups]:
        found = {"retain": self._table(evidence, "retain", None)}
        rows = evidence.subject.rows("likelihood", "utility") + evidence.subject.rows("generation", "utility")
        for group in sorted({row["group"] for row in rows}):
            found[f"utility/{group}"] = self._table(evidence, "utility", group)
        strata, groups = {k: table for k, (table, _) in found.items()}, {k: whose for k, (_, whose) in found.items()}
        missing = [f"{' '.join(filter(None, group.split('/')))} {part}" for group, table in strata.items()
                   for part, values in zip(PARTS, table.T, strict=True) if np.isnan(values).all()]
        if missing:
            raise NotAvailable(f"it needs all of {', '.join(PARTS)}, and the rows for these are missing: "
                               + ", ".join(missing))
        return strata, groups

    def statistic(self, strata: Strata) -> float:
        return harmonic_mean(value for table in strata.values() for value in column_means(table))

    def _table(self, evidence: Evidence, split: Split, group: str | None) -> tuple[NDArray[np.float64], list[str]]:
        """One row per example id, one column per part; NaN where the example has no value. And the entity of each."""
        def of_group(rows: tuple[Row, ...]) -> list[Row]:
            return [row for row in rows if group is None or row["group"] == group]

        examples = by_example(of_group(evidence.subject.rows("likelihood", split)))
        generated = of_group(evidence.subject.rows("generation", split))
        added = ADDED if self.spec.variant == "geometric" else 0.0
        likely = normalised_probabilities(examples, added) if split == "utility" else probabilities(examples)
        parts = (likely, rouges(generated), truth_scores(examples, "true_better", self.spec.variant))
        ids = dict.fromkeys(key for part in parts for key in part)
        if not ids:
            return np.full((1, len(PARTS)), np.nan), [""]
        entities = evidence.subject.entities(split)
        return (np.array([[part.get(key, np.nan) for part in parts] for key in ids]),
                [entities.get(key, key) for key in ids])


def column_means(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean per column over the rows that have it; 0 for a column without values in a resample."""
    seen = ~np.isnan(table)
    return np.where(seen, table, 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
