"""FaithUn's score: what is interconnected with a forgotten fact goes, and what only looks like it stays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from expunge.metrics.accuracy import choices
from expunge.metrics.base import Evidence, Groups, Metric, MetricCard, NotAvailable, Strata
from expunge.metrics.layers import Array
from expunge.metrics.rows import by_example
from expunge.plugin import Property
from expunge.records.task import Split

PARTS = {"paraphrase": "UA*", "base": "TA", "same_answer": "SA", "multi_hop": "MA_f", "multi_hop_test": "MA_t"}
"""Group of neighbour rows -> what its accuracy is called."""
NAMES = tuple(PARTS.values())


def relation_score(accuracy: Mapping[str, float]) -> float:
    """Mean of 1 - UA*, TA, SA and MA, the mean of 1 - MA_f and MA_t; of the others where a part has no rows."""
    gone = {part: 1 - accuracy[part] for part in ("UA*", "MA_f") if part in accuracy}
    parts = {**accuracy, **gone}
    hops = [parts[part] for part in ("MA_f", "MA_t") if part in parts]
    terms = [parts[part] for part in ("UA*", "TA", "SA") if part in parts] + ([sum(hops) / len(hops)] if hops else [])
    return sum(terms) / len(terms)


def accuracies(rows_N2: Array) -> dict[str, float]:
    """Accuracy of every part that has rows; rows are (index in NAMES, whether right)."""
    return {name: float(right_N.mean()) for i, name in enumerate(NAMES)
            if len(right_N := rows_N2[rows_N2[:, 0] == i, 1])}


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
        rows = {key: (NAMES.index(PARTS[examples[key].group]), value) for key, value in choices(examples).items()
                if examples[key].group in PARTS}
        there = {part for part, _ in rows.values()}
        if missing := [f"{group} ({PARTS[group]})" for group in PARTS if NAMES.index(PARTS[group]) not in there]:
            raise NotAvailable(f"no neighbour row of the group {missing[0]} can be scored; the task faithun has them")
        # One stratum: an entity that is left out for the interval is left out of all parts.
        return ({"neighbour": np.asarray(list(rows.values()), dtype=float)},
                {"neighbour": [entities.get(key, key) for key in rows]})

    def statistic(self, strata: Strata) -> float:
        return relation_score(accuracies(strata["neighbour"]))

    def remark(self, evidence: Evidence, split: Split | None) -> str | None:
        """UA and the parts."""
        try:
            parts = accuracies(self.sample(evidence)["neighbour"])
        except NotAvailable:
            return None
        own = list(choices(by_example(evidence.rows("likelihood", "forget", "option"))).values())
        shown = {"UA": float(np.mean(own)), **parts} if own else parts
        return ", ".join(f"{part} {value:.2f}" for part, value in shown.items())
