"""Plain likelihood on the retain rows."""

from __future__ import annotations

from expunge.methods._lib.weighted_likelihood import token_mean
from expunge.methods.base import Retain
from expunge.plugin import Card, Property
from expunge.training.step import Step, Term


class RetainNLL(Retain):
    """Continue training on the retain rows (gradient descent on retain, GDR)."""

    card = Card(
        name="retain_nll", kind="retain",
        summary="likelihood of the retain answers",
        paper="TOFU, Maini et al. 2024 (arXiv 2401.06121), gradient difference",
        formula="R = (1/n_tokens) * sum_t -log p(y_t)",
        defaults="weight 1",
        needs=frozenset({"retain"}),
        model_needs=frozenset({"logp", "weights"}),
    )
    reads = ("retain",)
    space = {"weight": ("log", 0.2, 5.0)}
    must_show = (
        Property("matches_plain_finetuning", {}, "equals the loss Hugging Face computes on the same labels"),
        Property("protects_retain", {}, "the loss of retain answers stays lower than without it"),
    )

    def terms(self, step: Step) -> dict[str, Term]:
        answers = step.answers("retain")
        return {"retain_nll": token_mean(-answers.logp_N, answers, "retain")}
