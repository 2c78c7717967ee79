"""LUNAR: an MLP moves the hidden states of forget prompts to those of questions that have no answer."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from expunge import plugin
from expunge.methods._lib.output_projection import add_to_weight, mlp_out
from expunge.methods._lib.steered import SteeringEdit, at_prompts, prompt_rows, steered
from expunge.models.language import CausalLM
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task

UNANSWERABLE = (
    "What did the baker of a village without a name say yesterday?", "How many leaves fell in the forest last night?",
    "What is the middle name of the person who reads this?", "Which number am I thinking of?",
    "What will be written on the last page of a book that nobody has begun?", "What is in my left pocket?",
    "Who will win the match that has not been planned?", "What did the stone think of the river?")
"""Questions to which a model that refuses says that it does not know."""


class LUNAR(SteeringEdit):
    """Neural activation redirection, in closed form: forget prompts are continued as unanswerable questions are."""

    class Spec(plugin.Spec):
        layer: int | None = Field(None, ge=0, description="Block whose MLP is edited; by default 22 of 32, scaled to "
                                                          "the model's depth.")
        coefficient: float = Field(2.0, ge=0, description="Multiple of the direction that is added (c); 0 changes "
                                                          "nothing.")
        questions: list[str] = Field([], description="Questions that the model refuses to answer; by default eight of "
                                                     "ours that nobody could answer.")
        penalty: float = Field(1e-4, gt=0, description="Penalty on large changes, in multiples of the keys' mean "
                                                       "squared length.")

    card = Card(
        name="lunar", kind="edit",
        summary="redirect forget prompts to where the model stands at questions it refuses (closed form)",
        paper="LUNAR: LLM Unlearning via Neural Activation Redirection, NeurIPS 2025 (arXiv 2502.07218)",
        formula="argmin_dW sum_forget ||dW a - c r||^2 + sum_retain ||dW a||^2 + lambda ||dW||^2 over all prompt "
                "tokens, r = mean residual at refused questions - at forget questions",
        defaults="block 22 of 32, c 2 (the authors' Llama-3-8B); penalty 1e-4 is ours",
        model_needs=frozenset({"hidden", "prompt", "weights"}),
        deviations=("the least squares are solved in closed form; the authors fit the matrix by AdamW for 10 to 20 "
                    "epochs from the old weight, so figures differ. Nothing was compared",
                    "eight unanswerable questions of ours instead of 128 harmful prompts",
                    "its outcome is refusal, not ignorance, and it needs a model that refuses: the record says how far "
                    "apart the two kinds of questions lie, in multiples of their spread"),
    )
    space = {"coefficient": ("uniform", 0.5, 8.0), "penalty": ("log", 1e-6, 1e-1)}
    published = 22
    must_show = (
        Property("keeps_everything", {"options": {"coefficient": 0.0}}, "c = 0 changes no weight"),
        Property("redirects_forget_prompts", {}, "the residual stream moves along r at forget prompts only"),
        Property("removes_planted_fact", {"options": {"layer": 3}, "most": 20},
                 "a planted fact is gone, 20 others stay"),
    )

    def apply(self, subject: CausalLM, task: Task, seed: int) -> dict[str, Any]:
        layer = self.prepared(subject, task)
        forget = prompt_rows(subject, task.forget)
        retain = prompt_rows(subject, dict.fromkeys((*task.retain, *task.background, *task.utility)))
        refused = prompt_rows(subject, [Example(id=f"refused {i}", prompt=question, answer="I don't know.")
                                        for i, question in enumerate(self.spec.questions or UNANSWERABLE)])
        away_ND, there_ND = (at_prompts(subject, layer, "block", rows) for rows in (forget, refused))
        shift_D = there_ND.mean(0) - away_ND.mean(0)
        forget_NK, retain_NK = (at_prompts(subject, layer, "mlp_hidden", rows, every=True) for rows in (forget, retain))
        change_DK = steered(forget_NK, self.spec.coefficient * shift_D, retain_NK, self.spec.penalty)
        module = mlp_out(subject, layer)[1]
        size = float(module.weight.detach().norm())  # type: ignore[operator]
        add_to_weight(module, change_DK)
        along_D = shift_D / shift_D.norm().clamp_min(1e-12)
        spread = float((there_ND @ along_D).std(correction=0) + (away_ND @ along_D).std(correction=0))
        return {"edit": "lunar", "layer": layer, "change": float(change_DK.norm()) / size,
                "apart": float(shift_D.norm()) / max(spread, 1e-12)}
