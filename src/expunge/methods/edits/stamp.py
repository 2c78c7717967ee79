"""STAMP: one MLP moves forget prompts to where it stands at refusals, by least squares."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field

from expunge import plugin
from expunge.data.refusals import REFUSALS
from expunge.methods._lib.output_projection import add_to_weight, mlp_out
from expunge.methods._lib.steered import SteeringEdit, at_prompts, prompt_rows, steered
from expunge.models.language import CausalLM
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task


class STAMP(SteeringEdit):
    """Steering through a pseudoinverse: forget activations move to the refusals', retain activations stay."""

    class Spec(plugin.Spec):
        layer: int | None = Field(None, ge=0, description="Block whose MLP is edited; by default 7 of 32, scaled to "
                                                          "the model's depth.")
        at: Literal["prompt", "entity"] = Field("prompt", description="Where prompts are read: at their end, or at the "
                                                                      "end of the entity, where they name one.")
        strength: float = Field(1.0, ge=0, description="Multiple of the step from forget prompts to refusals; 0 "
                                                       "changes nothing.")
        rank: int | None = Field(None, ge=1, description="Directions of the keys that may be used (STAMP-LR); None "
                                                         "takes all.")
        penalty: float = Field(1e-6, gt=0, description="Penalty on large changes, in multiples of the keys' mean "
                                                       "squared length.")

    card = Card(
        name="stamp", kind="edit",
        summary="move forget prompts, in one MLP, to where it stands at refusals (closed form); others stay",
        paper="RePAIR: Interactive Machine Unlearning through Prompt-Aware Model Repair, 2026 (arXiv 2604.12820)",
        formula="W <- W + [v 1^T | 0] [X_f | X_r]^+, v = mean MLP output at refusals - mean at forget prompts",
        defaults="layer 7 of 32 (published as nearly as good as all); penalty 1e-6 is ours",
        model_needs=frozenset({"hidden", "prompt", "weights"}),
        deviations=("nothing was compared: no code is published, and the linear algebra is read from summaries. Which "
                    "matrix is solved, how v is made and the rank of the refusals are uncertain",
                    "the update is added to the weight; solving for a whole new weight would destroy all directions "
                    "outside the rows",
                    "refusals are our texts, read at their last token; prompts are read at theirs, or "
                    "at the entity, which is ours",
                    "the watchdog and the surgeon, which read a dialogue, are not part of it",
                    "its outcome is refusal, not ignorance: multiple choice may end below chance"),
    )
    space = {"strength": ("uniform", 0.5, 4.0), "penalty": ("log", 1e-8, 1e-2)}
    published = 7
    must_show = (
        Property("steers_in_closed_form", {}, "forget keys get the shift and retain keys nothing to 1e-4; with all "
                                              "directions the low-rank form is the same"),
        Property("keeps_everything", {"options": {"strength": 0.0}}, "a shift of 0 changes no weight"),
        Property("removes_planted_fact", {"options": {"layer": 2, "at": "entity"}, "most": 20},
                 "a planted fact is gone, 20 others stay"),
    )

    def apply(self, subject: CausalLM, task: Task, seed: int) -> dict[str, Any]:
        layer = self.prepared(subject, task)
        others, entity = dict.fromkeys((*task.retain, *task.background, *task.utility)), self.spec.at == "entity"
        forget, retain = prompt_rows(subject, task.forget, entity), prompt_rows(subject, others, entity)
        refused = prompt_rows(subject, [Example(id=f"refusal {i}", prompt="", answer=words, kind="text")
                                        for i, words in enumerate(REFUSALS)])
        away_D, there_D = (at_prompts(subject, layer, "mlp", rows).mean(0) for rows in (forget, refused))
        shift_D = self.spec.strength * (there_D - away_D)
        forget_NK, retain_NK = (at_prompts(subject, layer, "mlp_hidden", rows) for rows in (forget, retain))
        change_DK = steered(forget_NK, shift_D, retain_NK, self.spec.penalty, self.spec.rank)
        module = mlp_out(subject, layer)[1]
        size = float(module.weight.detach().norm())  # type: ignore[operator]
        add_to_weight(module, change_DK)
        missed = float((forget_NK.double() @ change_DK.T - shift_D).norm() / (shift_D.norm() * len(forget) ** 0.5
                                                                             ).clamp_min(1e-12))
        return {"edit": "stamp", "layer": layer, "change": float(change_DK.norm()) / size, "missed": missed,
                "retain_change": float(torch.linalg.vector_norm(retain_NK.double() @ change_DK.T, dim=1).mean()
                                       / shift_D.norm().clamp_min(1e-12))}
