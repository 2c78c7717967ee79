"""FairSISA: a sharded model whose yes-or-no decisions get equal error rates in two groups, by a linear program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from pydantic import Field

from expunge.errors import DataError, ExpungeError
from expunge.exact import fairness
from expunge.exact.decisions import Attribute, FairSisaForCausalLM, labelled, votes
from expunge.exact.fairness import How
from expunge.exact.ledger import NO_SHARD, Ledger, ShardPlace, ShardPlan, content
from expunge.exact.sisa import Sisa
from expunge.models.language import CausalLM
from expunge.plugin import Card, Property
from expunge.records.task import Example
from expunge.seeding import derive


class FairSisa(Sisa):
    """SISA with some labelled rows set apart, on which a fair post-processor of the votes is fitted."""

    class Spec(Sisa.Spec):
        attribute: Attribute = Field("group", description="Field of a row that holds the protected attribute; rows "
                                                          "without it are trained on only.")
        how: How = Field("ensemble", description="Program over all votes, over their majority (aggregate_first), or "
                                                 "over each shard's vote (correct_first).")
        fit: float = Field(0.25, gt=0, lt=1, description="Share of the labelled rows that is fitted on and not "
                                                         "trained on.")
        least: int = Field(5, ge=0, description="Vote vectors with fewer rows in a group share a value (ensemble).")

    card = Card(
        name="fair_sisa", kind="exact",
        summary="sisa whose decisions between two answers have equal error rates in two groups",
        paper="Kadhe et al. 2023, FairSISA (arXiv 2312.07420); SISA: arXiv 1912.03817",
        formula="min error of q(votes, group) with equal true and false rates of answer 1 in both groups",
        defaults="options of sisa; the program over all votes, fitted on a quarter of the labelled rows",
        model_needs=frozenset({"distribution", "logp", "sequence", "weights"}),
        deviations=(*Sisa.card.deviations,
                    "the linear programs are derived from Hardt et al. 2016, since the paper has no code",
                    "rare vote vectors share a value: with others of as many votes for 1, else of the same majority",
                    "decisions are drawn by `decisions.decide`; free text is answered as by sisa and not changed"),
        memory="one adapter per shard; every batch runs once per shard, in parallel",
    )
    space = {"shards": ("choice", 1, 3, 5), "slices": ("choice", 1, 2, 4), "lr": ("log", 5e-5, 2e-3)}
    must_show = (
        Property("orders_the_errors", {}, "the program over all votes has the lowest error of those that are fair, and "
                                          "correcting before aggregating leaves a gap"),
        Property("fits_without_the_row", {}, "deleting a fitted row, or one of a shard: byte for byte as training "
                                             "without it"),
        Property("decides_by_its_table", {}, "decisions follow votes and table, and equal rates are met in the fit"),
    )
    model_class = FairSisaForCausalLM

    def training_problems(self, subject: CausalLM, rows: Sequence[Example]) -> list[ExpungeError]:
        problems = super().training_problems(subject, rows)
        chosen, field = labelled(rows, self.spec.attribute), self.spec.attribute
        values, answers = {getattr(row, field) for row in chosen}, {row.answer for row in chosen}
        if len(values) != 2 or len(answers) != 2:
            problems.append(DataError(
                f"fair_sisa needs rows of two groups with one of two answers; these have {len(values)} values of "
                f"{field} and {len(answers)} answers.", "A fair decision is between two answers, for two groups.",
                f"Give the labelled rows a {field} (--map {field}=FIELD), and other rows none; or take sisa."))
        return problems

    def more_of_plan(self) -> dict[str, Any]:
        return {"own": self.spec.model_dump(include={"attribute", "how", "fit", "least"})}

    def place_of(self, row: Example, plan: ShardPlan) -> ShardPlace:
        share = derive(plan.seed, "fair", "fit", row.id) / 2 ** 63
        if labelled([row], plan.own["attribute"]) and share < plan.own["fit"]:
            return ShardPlace(shard=NO_SHARD, slice=0, content=content(row))
        return super().place_of(row, plan)

    def finish(self, model: CausalLM, ledger: Ledger, texts: Mapping[str, Example]) -> dict[str, Any]:
        """Fit the table on the rows set apart; the model's config keeps it."""
        fair, rows = ledger.plan.own, [texts[name] for name in ledger.apart()]
        values = sorted({getattr(row, fair["attribute"]) for row in rows})
        answers = sorted({row.answer for row in rows})
        if len(values) != 2 or len(answers) != 2:
            raise DataError(f"The {len(rows)} rows to fit on have {len(values)} groups and {len(answers)} answers.",
                            "A fair decision needs two of each.", "Give more labelled rows, or a larger fit=.")
        group_N = np.array([values.index(getattr(row, fair["attribute"])) for row in rows])
        label_N = np.array([answers.index(row.answer) for row in rows])
        counts_AYV = fairness.counts_of(votes(model, rows, answers), label_N, group_N)
        ways = fairness.WAYS | {"ensemble": partial(fairness.ensemble, least=fair["least"])}
        found = {"majority": fairness.majority(counts_AYV)} | {way: make(counts_AYV) for way, make in ways.items()}
        model.model.config.fairness = {"attribute": fair["attribute"], "values": values, "answers": answers,
                                       "table": found[fair["how"]].tolist()}
        return {"fairness": {"rows": len(rows), "read": ledger.apart(), "how": fair["how"],
                             "on_the_fitted_rows": {w: fairness.figures(counts_AYV, q) for w, q in found.items()}}}

