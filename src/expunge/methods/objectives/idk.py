"""Refusal finetuning ("I don't know")."""

from __future__ import annotations

import random

from expunge.methods._lib.refused import RefusalSpec, refuse
from expunge.methods._lib.weighted_likelihood import token_mean
from expunge.methods.base import Objective
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task
from expunge.training.step import Step, Term


class RefusalFinetuning(Objective):
    """Train the model to answer forget questions with a refusal."""

    Spec = RefusalSpec
    card = Card(
        name="idk", kind="objective",
        summary="refusal finetuning: answer forget questions with \"I don't know\"",
        paper="TOFU, Maini et al. 2024 (arXiv 2401.06121), the IDK baseline",
        formula="L = mean_t -log p(refusal_t | forget question)  (+ retain_nll)",
        defaults="a new refusal from about 100 each time a row is drawn; AdamW as for ga",
        needs=frozenset({"questions"}),
        model_needs=frozenset({"logp", "weights"}),
        companions="retain_nll",
        deviations=("the refusal and the retain loss are two token means that are added; TOFU takes one mean over the "
                    "concatenated batch. Here the ratio of the two does not depend on answer lengths",
                    "refusals come from a built-in list unless refusals= names a file",
                    "running text has no question, so its refusal follows an empty prompt",
                    "an image gets another class, drawn uniformly each time: random labelling (Golatkar et al. 2020); "
                    "the code of Unlearn-Saliency draws the right class too"),
    )
    reads = ("refusal",)
    space = {"weight": ("log", 0.1, 4.0)}
    must_show = (
        Property("refuses", {"familiar": True}, "refusals on forget questions after training"),
        Property("over_refuses_alone", {"familiar": True}, "without a retain term retain questions are refused too"),
    )

    def sides(self, example: Example, task: Task, rng: random.Random) -> dict[str, Example]:
        return {"refusal": refuse(example, self.spec.refusals, rng)}

    def terms(self, step: Step) -> dict[str, Term]:
        answers = step.answers("refusal")
        return {"idk": token_mean(-answers.logp_N, answers, "refusal")}
