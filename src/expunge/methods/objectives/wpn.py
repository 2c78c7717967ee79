"""WPN: pooled states of a prompt are pulled to those of a refusal, away from those of answers to be forgotten."""

from __future__ import annotations

import random

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from expunge.data.text_encoder import TokenBatch
from expunge.methods._lib.refused import RefusalSpec, refuse
from expunge.methods._lib.weighted_likelihood import sequence_mean, token_mean
from expunge.methods.base import Objective
from expunge.models.head import raised
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task
from expunge.training.step import Step, Term


def position_weights(batch: TokenBatch, answer: bool) -> Tensor:
    """i / sum_j j for the i-th token of each row's answer (or prompt), 0 elsewhere; shape B T, rows sum to 1."""
    weight_BT = torch.zeros(batch.ids_BT.shape, device=batch.device)
    for b, row in enumerate(batch.rows):
        start, count = (row.prompt, row.supervised) if answer else (0, row.prompt)
        weight_BT[b, start: start + count] = torch.arange(1, count + 1) / (count * (count + 1) / 2)
    return weight_BT


def pooled(hidden_BTD: Tensor, weight_BT: Tensor) -> Tensor:
    """Weighted mean of the states of each row, of length 1; shape B D."""
    return F.normalize((raised(hidden_BTD) * weight_BT[..., None]).sum(1), dim=-1)


def n_pair(anchor_BD: Tensor, positive_BD: Tensor, negative_BKD: Tensor, temperature: float) -> Tensor:
    """log(1 + sum_k exp((a . n_k - a . p) / temperature)) of every row; shape B."""
    gap_BK = ((negative_BKD - positive_BD[:, None]) * anchor_BD[:, None]).sum(-1) / temperature
    return F.pad(gap_BK, (1, 0)).logsumexp(-1)


class WPN(Objective):
    """Contrast refusals with answers to be forgotten in the last states, and train on the refusals."""

    class Spec(RefusalSpec):
        temperature: float = Field(0.05, gt=0, le=100, description="Of the cosine similarities.")
        negatives: int = Field(3, ge=1, description="Answers to be forgotten per row, its own among them.")
        language: float = Field(1.0, ge=0, description="Coefficient of the loss of the refusal's tokens.")

    card = Card(
        name="wpn", kind="objective",
        summary="n-pair contrast of position-weighted states: near a refusal, far from forget answers",
        paper="WPN: An Unlearning Method Based on N-pair Contrastive Learning in Language Models, ECAI 2024 "
              "(arXiv 2408.09459); its abstract and standard definitions",
        formula="L = mean_b log(1 + sum_k exp((a . n_k - a . p) / tau)) + c NLL(y+ | x), e = sum_i h_i i / sum_j j",
        defaults="batch 8, lr 1e-5, at most one epoch; temperature and coefficients are ours",
        model_needs=frozenset({"hidden", "logp", "weights"}),
        companions="retain_kl",
        memory="activations of negatives + 2 more rows per forget row",
        deviations=("no code is stored and nothing was compared; which texts are anchor, positive and negatives, the "
                    "term on the refusal's tokens and retain_kl follow from the abstract by our reading",
                    "the anchor is the pooled prompt; it could be the model's own continuation",
                    "negatives are drawn for every row, its own answer first, in place of those of the batch: so the "
                    "loss of a row does not depend on its neighbours",
                    "states are those after the last block, before the final norm, divided by their length; the "
                    "penalty on lengths is left out",
                    "running text has no prompt but its first token"),
    )
    reads = ("refusal",)
    space = {"temperature": ("log", 0.02, 1.0), "negatives": ("choice", 1, 3, 7), "language": ("log", 0.1, 10.0)}
    must_show = (
        Property("pools_by_position", {}, "weights are i / sum i, sum to 1, and leave padding out"),
        Property("n_pair_by_hand", {}, "softplus(a . n - a . p) with one negative; it falls as the positive gains on "
                                       "the negatives"),
        Property("negatives_are_forget_answers", {}, "its own answer first, then distinct others with their questions"),
        Property("refuses", {"familiar": True}, "refusals on forget questions after training"),
        Property("forgets", {}, "the loss of forget answers grows"),
    )

    @property
    def others(self) -> list[str]:
        """The sides of its negatives that are other rows'."""
        return [f"negative_{k}" for k in range(1, self.spec.negatives)]

    def sides(self, example: Example, task: Task, rng: random.Random) -> dict[str, Example]:
        rows, count = [row for row in task.forget if row.id != example.id] or [example], len(self.others)
        drawn = rng.sample(rows, count) if count <= len(rows) else rng.choices(rows, k=count)
        return {"forget": example, "refusal": refuse(example, self.spec.refusals, rng),
                **dict(zip(self.others, drawn, strict=True))}

    def terms(self, step: Step) -> dict[str, Term]:
        last = len(step.subject.blocks) - 1

        def state(side: str, answer: bool = True) -> Tensor:
            return pooled(step.hidden(side, last), position_weights(step.batches[side], answer))

        negative_BKD = torch.stack([state(side) for side in ("forget", *self.others)], 1)
        loss_B = n_pair(state("forget", answer=False), state("refusal"), negative_BKD, self.spec.temperature)
        terms = {"wpn": sequence_mean(loss_B, "forget")}
        if self.spec.language:
            said = step.answers("refusal")
            terms["wpn_language"] = token_mean(-self.spec.language * said.logp_N, said, "refusal")
        return terms
