"""ICU: ascent on each forget row, paired with the retain row nearest to it, which is learned and held."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from expunge.methods._lib.divergence import cross_entropy
from expunge.methods._lib.weighted_likelihood import token_mean
from expunge.methods.base import Objective, WeightedSpec
from expunge.methods.run_context import RunContext
from expunge.models.language import CausalLM
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task
from expunge.training.step import Step, Term


def mean_states(subject: CausalLM, examples: Sequence[Example]) -> Tensor:
    """Mean state after the last block over the tokens of each row, of length 1; shape rows D."""
    rows = [subject.encoder.encode(example) for example in examples]
    found = torch.zeros(len(rows), subject.width)
    with subject.evaluating():
        for few in subject.encoder.batches(rows):
            batch = subject.collate([rows[i] for i in few])
            hidden_BTD = subject.hidden(batch, len(subject.blocks) - 1).float() * batch.attention_BT[..., None]
            found[few] = F.normalize(hidden_BTD.sum(1), dim=-1).cpu()
    return found


class ICU(Objective):
    """Unlearn a row and learn its nearest relative among the rows that stay, in pairs."""

    class Spec(WeightedSpec):
        ascent: float = Field(1.0, ge=0, description="Coefficient of gradient ascent on the forget row.")
        learn: float = Field(0.5, ge=0, description="Coefficient of the loss of its partner.")
        divergence: float = Field(1.0, ge=0, description="Coefficient of the cross-entropy with the original's "
                                                         "distribution on its partner.")

    card = Card(
        name="icu", kind="objective",
        summary="ascent on each row, paired with the nearest retain row, which is learned and held",
        paper="Learn while Unlearn: An Iterative Unlearning Framework for Generative Language Models (ICU) "
              "(arXiv 2407.20271)",
        formula="L = -a NLL(x_f) + b NLL(x_l) + c mean_t CE(q0_t, q_t) on x_l, x_l the retain row nearest to x_f",
        defaults="coefficients 1, 0.5 and 1, Adam lr 5e-6 with betas 0.9 and 0.98, batch 8, dropout off, 200 tokens a "
                 "row; with still_recites, epoch after epoch until no pair is left (the authors' script)",
        needs=frozenset({"retain", "reference.logits"}),
        model_needs=frozenset({"distribution", "hidden", "logp", "weights"}),
        companions="still_recites",
        deviations=("neighbours are found by the original's own mean states (cosine); the authors embed texts with "
                    "MiniLM and search by L2 distance",
                    "the divergence is a mean over supervised tokens; the code takes all positions, padding too",
                    "a pair of which nothing is active counts 0; a batch without any is NaN in the code",
                    "both members of a pair are dropped by still_recites, which compares by ROUGE-L in place of "
                    "BERTScore; the run does not end with the last pair, but nothing moves any more"),
    )
    reads: ClassVar[tuple[str, ...]] = ("forget", "learn")
    builds = True
    space = {"ascent": ("log", 0.1, 2.0), "learn": ("log", 0.1, 2.0), "divergence": ("log", 0.1, 4.0)}
    must_show = (
        Property("reduces_to", {"other": "ga", "options": {"learn": 0.0, "divergence": 0.0}, "at": "moved"},
                 "without its partner it is ga"),
        Property("pairs_with_nearest", {}, "partners are retain rows, the nearest by the original's states"),
        Property("weighs_three_terms", {}, "each term is the plain loss of its own rows"),
        Property("forgets", {}, "the loss of forget answers grows"),
    )

    @property
    def unbounded(self) -> bool:
        return bool(self.spec.ascent)

    @property
    def asks(self) -> tuple[str, ...]:
        return ("learn",)

    def prepare(self, subject: CausalLM, task: Task, run: RunContext) -> dict[str, Any]:
        nearest = (mean_states(subject, task.forget) @ mean_states(subject, task.retain).T).argmax(-1).tolist()
        return {row.id: task.retain[i].id for row, i in zip(task.forget, nearest, strict=True)}

    def sides(self, example: Example, task: Task, rng: random.Random) -> dict[str, Example]:
        wanted = self.made[example.id]
        return {"forget": example, "learn": next(row for row in task.retain if row.id == wanted)}

    def terms(self, step: Step) -> dict[str, Term]:
        answers, partners, spec = step.answers("forget"), step.answers("learn"), self.spec
        terms = {"icu": token_mean(spec.ascent * answers.logp_N, answers, "forget")}
        if spec.learn:
            terms["icu_learn"] = token_mean(-spec.learn * partners.logp_N, partners, "learn")
        if spec.divergence:
            original = step.reference.answers(partners.batch).source
            held_N = spec.divergence * cross_entropy(original, partners.source)
            terms["icu_divergence"] = token_mean(held_N, partners, "learn")
        return terms
