"""PROD: distil the original into itself without the true token and without the tail of what is left."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from expunge.data.encoder import Batch
from expunge.methods._lib.edited_teacher import EditedTeacher, forbid, nucleus
from expunge.methods._lib.weighted_likelihood import token_mean
from expunge.methods.base import WeightedSpec
from expunge.plugin import Card, Property
from expunge.training.step import Step, Term


def prod(teacher_NV: Tensor, target_N: Tensor, top_p: float, most: int | None, temperature: float) -> Tensor:
    """Logits of the target: the original's without the true token, its nucleus alone, over the temperature; N V."""
    return nucleus(forbid(teacher_NV, target_N), top_p, most) / temperature


class PROD(EditedTeacher):
    """Learn the original's likeliest tokens other than the true one, in their own proportions."""

    class Spec(WeightedSpec):
        top_p: float = Field(0.8, gt=0, le=1, description="Kept are the likeliest other tokens up to the first with "
                                                          "which their probability exceeds this; 1 keeps all.")
        max_tokens: int | None = Field(None, ge=1, description="Most tokens that are kept (the code's max_N).")
        temperature: float = Field(1.0, gt=0, le=100, description="Of the target, once its tokens are chosen.")
        alpha: float = Field(0.0, ge=0, description="Coefficient of ascent on the true token, weighted by its "
                                                    "original probability; above 0 the loss is unbounded.")

    card = Card(
        name="prod", kind="objective",
        summary="distil the original without the true token, over the nucleus of all others",
        paper="Large Language Model Unlearning for Source Code (PROD), AAAI 2026 (arXiv 2506.17125)",
        formula="L = mean_t [CE(softmax(nucleus(z0_t with z0_t[y_t] = -inf)), softmax(z_t)) + alpha p0_t log p_t]",
        defaults="top_p 0.8, alpha 0, no temperature, no max_tokens (the authors' script); AdamW lr 5e-6, batch 1 "
                 "times 32, 10 epochs, no retain term. Which alpha the paper's tables have is not known to us",
        needs=frozenset({"reference.logits"}),
        model_needs=frozenset({"distribution", "logp", "weights"}),
        deviations=("the mean is over answer tokens; the code counts prompt and padding too, and leaves the truth in "
                    "the distribution when it chooses the nucleus of the first predicted token",
                    "log p is exact; the code takes log(p + 1e-10), whose gradient vanishes below 1e-10",
                    "top_p=1 keeps every token; in the code rounding may drop the last of the tail",
                    "with alpha the target no longer sums to 1, as in the code",
                    "the share of completions that parse as code is not measured"),
    )
    space = {"top_p": ("choice", 0.5, 0.8, 0.95, 1.0), "weight": ("log", 0.1, 2.0)}
    must_show = (
        Property("target_without_truth", {}, "the target sums to 1 and has 0 at the truth; with top_p 1 it is the "
                                             "original's distribution without it"),
        Property("nucleus_by_hand", {}, "kept are the fewest likeliest tokens that exceed top_p"),
        Property("adds_ascent", {}, "alpha adds alpha p0 log p, and makes the loss unbounded"),
        Property("keeps_order_of_others", {"steps": 200, "lr": 3e-3}, "p of the truth falls below 1e-3, and the other "
                                                                     "tokens keep the original's order"),
        Property("never_negative", {}, "a cross-entropy"),
        Property("forgets", {}, "the loss of forget answers grows"),
    )

    @property
    def unbounded(self) -> bool:
        return bool(self.spec.alpha)

    def edit(self, teacher_NV: Tensor, batch: Batch) -> Tensor:
        spec = self.spec
        return prod(teacher_NV, batch.target_N, spec.top_p, spec.max_tokens, spec.temperature)

    def terms(self, step: Step) -> dict[str, Term]:
        terms = super().terms(step)
        if self.spec.alpha:
            answers = step.answers("forget")
            ascent_N = self.spec.alpha * step.reference.logp(answers.batch).exp() * answers.logp_N
            terms["prod_ascent"] = token_mean(ascent_N, answers, "forget")
        return terms
