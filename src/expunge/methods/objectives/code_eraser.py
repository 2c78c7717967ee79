"""CodeEraser: ascent on the secret tokens of a text alone, while the text around them is learned."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from expunge.data.encoder import Batch
from expunge.data.word_tokens import marked_tokens
from expunge.errors import ExpungeError, UsageError
from expunge.methods._lib.divergence import kl
from expunge.methods.base import Objective, WeightedSpec
from expunge.methods.run_context import RunContext
from expunge.models.language import CausalLM
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task
from expunge.training.step import Step, Term


def secrets_of(row: Example) -> tuple[str, ...]:
    """What is secret in a row's answer: its `secrets`, or its bare fact where it names none."""
    return row.secrets or tuple(filter(None, (row.short_answer,)))


class CodeEraser(Objective):
    """Forget the secret spans of a text and keep the text around them."""

    class Spec(WeightedSpec):
        context: float = Field(0.5, ge=0, description="Coefficient of the loss of all other answer tokens (gamma).")
        divergence: float = Field(0.1, ge=0, description="Coefficient of the divergence from the original: taken away "
                                                         "at secret tokens, and added on retain rows (lambda).")
        retain: float = Field(1.0, ge=0, description="Factor of the latter on retain rows (alpha).")

    card = Card(
        name="code_eraser", kind="objective",
        summary="ascent on secret spans, with the text around them learned and retain rows held",
        paper="Scrub It Out! Erasing Sensitive Memorization in Code Language Models (CodeEraser), ICSE 2026 "
              "(arXiv 2509.13755)",
        formula="L = -mean_secret NLL + gamma mean_context NLL - lambda mean_secret KL(q0 || q)  (+ lambda alpha KL "
                "on retain rows)",
        defaults="gamma 0.5 (the paper; 0.1 in the README's command), lambda 0.1, alpha 1, lr 3e-6 constant, Adam "
                 "betas 0.9 and 0.98, no weight decay, one batch of 32 rows, at most 100 epochs",
        needs=frozenset({"reference.logits"}),
        model_needs=frozenset({"distribution", "logp", "sequence", "weights"}),
        unbounded=True,
        deviations=("rows name their secrets in the field `secrets`, or by `short_answer`; none are searched for. "
                    "Tokens that only touch a secret are context; the authors count these as secret",
                    "answer tokens only: give code as running text to count all of it",
                    "both sides in every step; the authors take one step on all forget rows, then one on all retain "
                    "rows",
                    "both divergences are means per token; in the code that on retain rows is a sum over positions, "
                    "padding too, so its coefficient is smaller here by the length of a row",
                    "padding is left out of the mean over context, where the code counts it as 0",
                    "the ascent stops at a forget loss of log(vocabulary) over all answer tokens; the authors stop at "
                    "thresholds of MA and EL on secrets"),
    )
    reads = ("forget",)
    builds = True
    space = {"context": ("choice", 0.0, 0.1, 0.5, 1.0), "divergence": ("log", 0.01, 1.0)}
    must_show = (
        Property("erases_secrets_alone", {"steps": 30, "lr": 5e-4}, "secret tokens are forgotten, and the text around "
                                                                    "them loses a tenth of that, where ga loses both"),
        Property("is_ascent_on_all", {}, "with every token secret and nothing else it is ga"),
        Property("counts_token_roles", {}, "secret and context tokens are means of their own, found by the words"),
        Property("refuses_rows_without_secrets", {}, "a row without a secret is told before the model is loaded"),
        Property("forgets", {"lr": 2e-3}, "the loss of forget answers grows"),
        Property("grows_without_bound", {"options": {"context": 0.0, "divergence": 0.0}}, "the loss is unbounded"),
    )

    def companions(self, depth: int) -> str:
        weight = self.spec.divergence * self.spec.retain
        return f"retain_kl(weight={weight!r})" if weight else ""

    def problems(self, task: Task) -> list[ExpungeError]:
        without = [row.id for row in task.forget if not secrets_of(row)]
        return [UsageError(f"code_eraser needs secrets, and {len(without)} of {len(task.forget)} forget rows name "
                           f"none, such as {without[0]}.", "They are parts of the answer: the field `secrets`, a list "
                           "of texts, or `short_answer`.", "Add the field, or take an objective that forgets whole "
                           "answers, such as npo.")] if without else []

    def prepare(self, subject: CausalLM, task: Task, run: RunContext) -> dict[str, Any]:
        processor = subject.encoder.processor
        encoded = [(subject.encoder.encode(row), row) for row in task.forget]
        return {tokens.key: marked_tokens(tokens, secrets_of(row), processor) for tokens, row in encoded}

    def marks(self, batch: Batch) -> Tensor:
        """True for every secret token, shape N."""
        return torch.tensor([m for row in batch.rows for m in self.made[row.key]], device=batch.device)

    def secret(self, batch: Batch) -> int:
        return int(self.marks(batch).sum())

    def around(self, batch: Batch) -> int:
        return int((~self.marks(batch)).sum())

    def terms(self, step: Step) -> dict[str, Term]:
        answers, spec = step.answers("forget"), self.spec
        secret_N = self.marks(answers.batch)
        gain_N = answers.logp_N
        if spec.divergence:
            gain_N = gain_N - spec.divergence * kl(step.reference.answers(answers.batch).source, answers.source)
        terms = {"code_eraser": Term(answers.per_row(gain_N.where(secret_N, 0.0)), self.secret, "forget")}
        if spec.context:
            loss_N = (-spec.context * answers.logp_N).where(~secret_N, 0.0)
            terms["code_eraser_context"] = Term(answers.per_row(loss_N), self.around, "forget")
        return terms
