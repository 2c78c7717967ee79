"""FaithUn's score: what is interconnected with a forgotten fact goes, and what only looks like it stays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from expunge.metrics.accuracy import choices
from expunge.metrics.base import Evidence, Groups, Metric, MetricCard, NotAvailable, Strata
from expunge.metrics.rows import by_example
from expunge.plugin import Property
from expunge.records.task import Split

PARTS = {"paraphrase": "UA*", "base": "TA", "same_answer": "SA", "multi_hop": "MA_f", "multi_hop_test": "MA_t"}
"""Group of neighbour rows -> what its accuracy is called."""


def relation_score(accuracy: Mapping[str, float]) -> float:
    """Mean of 1 - UA*, TA, SA and MA = (1 - MA_f + MA_t) / 2."""
    hops = (1 - accuracy["MA_f"] + accuracy["MA_t"]) / 2
    return (1 - accuracy["UA*"] + accuracy["TA"] + accuracy["SA"] + hops) / 4


class RelScore(Metric):
    card = MetricCard(
        name="rel_score", kind="metric",
        summary="FaithUn's mean of what must go (paraphrases, two hops) and what must stay (same answer, others)",
        paper="FaithUn, EMNLP 2025 (arXiv 2502.19207)",
        formula="(1 - UA* + TA + SA + (1 - MA_f + MA_t) / 2) / 4",
        defaults="accuracies among one right and two wrong options, so chance is one third",
        deviations=("The signs inside MA are not confirmed by the paper's text we have; MA_f counts as 1 - MA_f.",
                    "A model that avoids the right option (accuracy 0) scores above one that has forgotten (one "
                    "third): the remark has all parts.",
                    "It reads neighbour rows by group, as the task faithun has them."),
        model_needs=frozenset({"prompt"}),
        alternatives=True, higher_is="neutral", range=(0.0, 1.0), ideal=1.0, access="logits",
        probes=(("likelihood", ("forget", "neighbour")),),
    )
    must_show = (
        Property("needs", {"without": ("likelihood", "neighbour", None), "says": "neighbour"}),
        Property("relation_score_by_hand", {}, "the parts by group, and a missing group by name"),
    )

    def sample(self, evidence: Evidence, split: Split | None = None) -> Strata:
        return self.grouped(evidence, split)[0]

    def grouped(self, evidence: Evidence, split: Split | None = None) -> tuple[Strata, Groups]:
        examples, entities = by_example(evidence.rows("likelihood", "neighbour", "option")), evidence.subject.entities(
            "neighbour")
        scores = choices(examples)
        found: dict[str, dict[str, float]] = {}
        for key, value in scores.items():
            if (part := PARTS.get(examples[key].group)) is not None:
                found.setdefault(part, {})[key] = value
        if missing := [f"{group} ({part})" for group, part in PARTS.items() if part not in found]:
            raise NotAvailable(f"no neighbour row of the group {missing[0]} can be scored; the task faithun has them")
        strata = {part: np.asarray(list(values.values()), dtype=float) for part, values in found.items()}
        return strata, {part: [entities.get(key, key) for key in values] for part, values in found.items()}

    def statistic(self, strata: Strata) -> float:
        return relation_score({part: float(np.mean(values)) for part, values in strata.items()})

    def remark(self, evidence: Evidence, split: Split | None) -> str | None:
        """UA and the parts."""
        try:
            strata = self.sample(evidence)
        except NotAvailable:
            return None
        own = choices(by_example(evidence.rows("likelihood", "forget", "option")))
        parts = {"UA": list(own.values()), **{part: strata[part].tolist() for part in PARTS.values()}}
        return ", ".join(f"{part} {float(np.mean(values)):.2f}" for part, values in parts.items() if values)
