"""Direct preference optimisation with refusals as the preferred answer."""

from __future__ import annotations

import random

from pydantic import Field
from torch import Tensor

from expunge.methods._lib.refused import RefusalSpec, refuse
from expunge.methods._lib.weighted_likelihood import log_ratio, sequence_mean
from expunge.methods.base import Objective
from expunge.methods.objectives.npo import npo
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task
from expunge.training.step import Step, Term


def preference(chosen_B: Tensor, rejected_B: Tensor, beta: float) -> Tensor:
    """Loss per pair from the log(P / P0) of both answers: -(2/beta) log sigmoid(beta (chosen - rejected))."""
    return npo(rejected_B - chosen_B, beta)


class DPO(Objective):
    """Prefer a refusal to the memorised answer, relative to the original model."""

    class Spec(RefusalSpec):
        beta: float = Field(0.1, gt=0, description="Inverse temperature on the difference of the two log ratios.")

    card = Card(
        name="dpo", kind="objective",
        summary="preference optimisation: a refusal is preferred to the forget answer",
        paper="Rafailov et al. 2023 (arXiv 2305.18290) as used by TOFU (arXiv 2401.06121)",
        formula="L = -(2/beta) * mean log sigmoid(beta * (log(P_idk/P0_idk) - log(P_bad/P0_bad)))",
        defaults="beta 0.1; optimisation as for npo (open-unlearning, IdkDPO)",
        needs=frozenset({"questions", "reference.logp"}),
        model_needs=frozenset({"logp", "weights"}),
        deviations=("refusals come from a built-in list unless refusals= names a file",
                    "running text has no question, so its refusal follows an empty prompt",),
    )
    reads = ("forget", "refusal")
    space = {"beta": ("log", 0.02, 1.0), "weight": ("log", 0.05, 2.0)}
    must_show = (
        Property("loss_at_start", {"per_beta": 2.0}, "(2/beta) log 2 when the model is its reference"),
        Property("without_chosen_is_npo", {}, "without the refusal term it is NPO"),
        Property("forgets", {}, "the loss of forget answers grows"),
        Property("refuses", {"options": {"beta": 0.3}, "lr": 5e-4, "familiar": True},
                 "refusals on forget questions after training"),
        Property("over_refuses_alone", {"options": {"beta": 0.3}, "lr": 5e-4, "familiar": True},
                 "without a retain term retain questions are refused too"),
    )

    def sides(self, example: Example, task: Task, rng: random.Random) -> dict[str, Example]:
        return {"forget": example, "refusal": refuse(example, self.spec.refusals, rng)}

    def terms(self, step: Step) -> dict[str, Term]:
        loss_B = preference(log_ratio(step, "refusal"), log_ratio(step, "forget"), self.spec.beta)
        return {"dpo": sequence_mean(loss_B, "forget")}
