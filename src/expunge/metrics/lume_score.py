"""The final score of SemEval-2025 task 4: forgetting, keeping, membership and general knowledge in one number."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from expunge import plugin
from expunge.metrics.accuracy import COMPARED, choices
from expunge.metrics.base import Evidence, Metric, MetricCard, NotAvailable, Strata
from expunge.metrics.membership import attack_strata
from expunge.metrics.mia_loss import MiaLoss
from expunge.metrics.rouge_l import rouge_l
from expunge.metrics.rows import by_example
from expunge.metrics.statistics import auc, harmonic_mean
from expunge.plugin import Property
from expunge.records.observation import Row
from expunge.records.task import Split

SIDES: tuple[Split, ...] = ("forget", "retain")
Part = Literal["final", "tasks", "membership", "mmlu"]
NEEDED: dict[str, tuple[Part, ...]] = {"tasks": ("final", "tasks"), "membership": ("final", "membership"),
                                       "mmlu": ("final", "mmlu")}


class LumeOptions(plugin.Spec):
    part: Part = Field("final", description="final: the mean of the three; tasks, membership or mmlu: one of them")
    members: str = Field("", description=(
        "group of the documents whose membership is asked, in forget and holdout; it is no cell. All rows by default"))


def said(row: Row) -> float:
    """Of a text to be completed the recall of ROUGE-L with stems; of a question 1 for the very answer, case aside."""
    if row["group"].endswith("_sc"):
        return rouge_l(row["reference"], row["text"]) or 0.0
    return float(row["text"].strip().lower() == row["reference"].strip().lower())


def membership(area: float) -> float:
    """1 - 2 |AUC - 1/2|: 1 where members and others look alike, 0 where they are told apart, either way."""
    return 1 - 2 * abs(area - 0.5)


def task_aggregate(cells: dict[str, float]) -> float:
    """Harmonic mean of all cells, those of forget rows turned round; 0 as soon as one is 0."""
    return harmonic_mean(1 - value if name.startswith("forget") else value for name, value in cells.items())


class LumeScore(Metric):
    card = MetricCard(
        name="lume_score", kind="metric",
        summary="Final score of SemEval-2025 task 4: mean of task aggregate, membership and MMLU",
        paper="LUME (arXiv 2502.15097) and SemEval-2025 task 4 (arXiv 2504.02883)",
        formula="mean(HM of 12 cells, 1 - 2 |AUC - 1/2|, MMLU); a cell: ROUGE-L recall or exact match, 1 - v on forget",
        defaults="as the organisers' script; a cell is a group of rows, of which LUME has three tasks of two kinds",
        needs=frozenset({"retain", "holdout"}),
        deviations=("MMLU is asked by the probability of letters after the question, without demonstrations.",
                    "The AUC takes the mean log-probability of a document's tokens."),
        higher_is="forgot", range=(0.0, 1.0), ideal=1.0, access="logits", alternatives=True,
        probes=(("generation", ("forget", "retain")), ("likelihood", ("forget", "holdout", "utility"))),
    )
    Spec: ClassVar[type[plugin.Spec]] = LumeOptions
    must_show = (
        Property("needs", {"without": ("generation", "forget", None), "says": "generation"}),
        Property("lume_by_hand", {}, "one cell of 0 makes the aggregate 0; all at v and membership at chance"),
    )

    def sample(self, evidence: Evidence, split: Split | None = None) -> Strata:
        wanted = self.spec.part
        strata: dict[str, NDArray[np.float64]] = {}
        if wanted in NEEDED["tasks"]:
            for side in SIDES:
                cells: dict[str, list[float]] = {}
                for row in evidence.rows("generation", side, "prompt"):
                    if not self.spec.members or row["group"] != self.spec.members:
                        cells.setdefault(f"{side}/{row['group']}", []).append(said(row))
                strata |= {name: np.asarray(values) for name, values in cells.items()}
        if wanted in NEEDED["membership"]:
            strata |= attack_strata(MiaLoss(group=self.spec.members), evidence)
        if wanted in NEEDED["mmlu"]:
            right = choices(by_example(evidence.rows("likelihood", "utility", "option"), COMPARED["text"]))
            if not right:
                raise NotAvailable("no utility row has two options and a right one")
            strata["mmlu"] = np.asarray(list(right.values()))
        return strata

    def statistic(self, strata: Strata) -> float:
        parts = []
        if cells := {name: float(values.mean()) for name, values in strata.items() if "/" in name}:
            parts.append(task_aggregate(cells))
        if "holdout" in strata:
            parts.append(membership(auc(members=-strata["forget"], nonmembers=-strata["holdout"])))
        if "mmlu" in strata:
            parts.append(float(strata["mmlu"].mean()))
        return float(np.mean(parts))
