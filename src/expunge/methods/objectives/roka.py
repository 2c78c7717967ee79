"""ROKA: ascent on forget rows, while retained rows that the model answers by the same means keep their answers."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, Field
from torch import Tensor
from torch.nn import functional as F

from expunge.errors import ExpungeError, UsageError
from expunge.methods._lib.weighted_likelihood import sequence_mean, token_mean
from expunge.methods.base import Objective, WeightedSpec
from expunge.models.contributions import contributions
from expunge.models.subject import AnySubject
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task
from expunge.training.step import Step, Term


def reallocated(weights_P: Tensor, removed: int) -> Tensor:
    """The parent's weights once a component is gone: its weight goes to the siblings in proportion to theirs, so that
    the total and the ratios of the siblings stay."""
    rest_P = weights_P.clone()
    rest_P[removed] = 0
    return rest_P + weights_P[removed] * rest_P / rest_P.sum()


class Roka(Objective):
    """Gradient ascent with neural healing: the nearest retained rows are trained on what the model says of them."""

    class Spec(WeightedSpec):
        alpha: float = Field(1.0, ge=0, description="Coefficient of healing; 0 leaves gradient ascent.")
        siblings: int = Field(5, ge=1, description="Retain rows that are healed per forget row, the nearest ones (k).")
        pool: int = Field(4, ge=1, description="Retain rows drawn per forget row; siblings are chosen among all that "
                                               "a step draws.")
        layer: int | None = Field(None, description="Block at whose output contributions are compared; the last one "
                                                    "if left out.")

    card = Card(
        name="roka", kind="objective",
        summary="gradient ascent that heals the retained rows that the model answers by the same means",
        paper="ROKA: Robust Knowledge Unlearning against Adversaries, 2026 (arXiv 2603.00436)",
        formula="L = mean_t log p(y_t | x_f) + alpha mean_(k nearest) -log p(argmax p | x_s), nearest by the cosine of "
                "R(x) = h * d f_y(x) / dh; x_f drawn in proportion to p(y | x_f)",
        defaults="k 5 of the 5 to 10 and alpha 1 of the 1 to 5 that notes on the paper suggest; ours, as is the block",
        needs=frozenset({"retain"}),
        model_needs=frozenset({"blocks", "distribution", "logp", "weights"}),
        memory="activations of k more rows per forget row",
        deviations=("written from notes on the paper: no code is known, its k, alpha, rate and layer are not known to "
                    "us, nothing was compared",
                    "with labels alone: the variant that makes pseudo labels and follows a centroid is left out",
                    "a token whose loss is that of a uniform guess is pushed no further; the paper's ascent is "
                    "unbounded",
                    "siblings come from retain rows with another answer, so that none is of what is forgotten",
                    "of text, f is the sum of the answer's logits, p(y | x_f) is length-normalised, and a sibling's "
                    "pseudo label is the likeliest token at every position of its answer",
                    "long runs on images harm what is kept: 0.80 to 0.93 retain accuracy on digits, where ga keeps "
                    "0.997 (single runs by hand; no study is stored)",
                    "its attacker is the function attacks/_lib/indirect_request.py: it chooses a request before a "
                    "method runs, so no audit can run it"),
    )
    reads: ClassVar[tuple[str, ...]] = ("forget",)
    space = {"alpha": ("log", 0.1, 10.0), "siblings": ("choice", 3, 5, 10)}
    must_show = (
        Property("reduces_to", {"other": "ga", "options": {"alpha": 0.0}, "at": "moved"}, "no healing: plain ascent"),
        Property("reallocates_by_hand", {}, "a removed weight goes to its siblings; total and ratios stay to 1e-12"),
        Property("heals_while_it_forgets", {}, "along the update the forget loss rises and the healing loss falls"),
        Property("chooses_siblings", {}, "the nearest retain rows by contribution, none with the forgotten answer"),
        Property("spares_siblings", {"options": {"alpha": 4.0}}, "at equal forgetting, ascent costs retain rows of the "
                 "same form over 10 points, healing less than 3"),
        Property("forgets", {}, "the loss of forget answers grows"),
    )

    def __init__(self, spec: BaseModel | None = None, **options: Any) -> None:
        super().__init__(spec, **options)
        count = self.spec.siblings if self.spec.alpha else 0
        self._healed = tuple(f"sibling_{k}" for k in range(1, count + 1))
        self.reads = ("forget", *self._healed)  # type: ignore[misc]  # the number of sides depends on the options

    def problems(self, task: Task) -> list[ExpungeError]:
        answers = {row.answer for row in task.forget}
        if not self._healed or not answers or any(row.answer not in answers for row in task.retain):
            return []
        return [UsageError("roka needs retain rows with other answers than the forget rows.",
                           "It heals what the model says of rows like those, and every retain row has one of theirs.",
                           "Give other retain rows, or write roka(alpha=0), which is ga.")]

    def sides(self, example: Example, task: Task, rng: random.Random) -> dict[str, Example]:
        others = [row for row in task.retain if row.answer != example.answer]
        count = self.spec.pool if self._healed else 0
        return {"forget": example, **{f"candidate_{i}": rng.choice(others) for i in range(count)}}

    def rollout(self, subject: AnySubject, draws: Sequence[Mapping[str, Example]],
                seed: int) -> Sequence[Mapping[str, Example]]:
        encode, rows = subject.encoder.encode, [draw["forget"] for draw in draws]
        said_B = torch.zeros(len(rows))
        tokens = [encode(row) for row in rows]
        for part in subject.encoder.batches(tokens):
            answers = subject.answers(subject.collate([tokens[i] for i in part]))
            said_B[part] = answers.row_means(answers.logp_N).float().cpu()
        source = torch.Generator().manual_seed(seed)
        drawn = torch.multinomial(said_B.softmax(0), len(rows), True, generator=source).tolist()
        pool = list({row.id: row for draw in draws for side, row in draw.items() if side.startswith("candidate")}
                    .values())
        kept = [{side: row for side, row in draw.items() if not side.startswith("candidate")} for draw in draws]
        if not pool:
            return [{**draw, "forget": rows[i]} for draw, i in zip(kept, drawn, strict=True)]
        block = -1 if self.spec.layer is None else self.spec.layer
        found_BD = contributions(subject, [*tokens, *map(encode, pool)], block)
        alike_BP = found_BD[: len(rows)] @ found_BD[len(rows):].T
        healed = []
        for i in drawn:
            near = [pool[j] for j in alike_BP[i].argsort(descending=True) if pool[j].answer != rows[i].answer]
            healed.append({side: near[k % len(near)] for k, side in enumerate(self._healed)})
        return [{**draw, "forget": rows[i], **near} for draw, i, near in zip(kept, drawn, healed, strict=True)]

    def terms(self, step: Step) -> dict[str, Term]:
        answers, most = step.answers("forget"), math.log(step.subject.outcomes)
        terms = {"roka_forget": token_mean(answers.logp_N.where(answers.logp_N.detach() > -most, 0.0), answers,
                                           "forget")}
        if self._healed:
            healed_B = torch.stack([self._heal(step, side) for side in self._healed]).mean(0)
            terms["roka_heal"] = sequence_mean(self.spec.alpha * healed_B, "forget")
        return terms

    @staticmethod
    def _heal(step: Step, side: str) -> Tensor:
        """Cross-entropy to what the model says now, mean over a row's tokens; shape B."""
        answers = step.answers(side)
        said_N = answers.logits_NV.detach().argmax(-1)
        return answers.row_means(F.cross_entropy(answers.logits_NV.float(), said_N, reduction="none"))
