"""LfU: hidden states that an undesirable update of the model does not change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from expunge.data.text_encoder import TokenBatch
from expunge.methods._lib.latent import pushed
from expunge.methods.base import Retain, WeightedSpec
from expunge.models.language import CausalLM
from expunge.models.sites import Site, read
from expunge.plugin import Card, Property
from expunge.training.recomputing import without_checkpointing
from expunge.training.step import Step, Term


def unit_steps(gradients: Sequence[Tensor], length: float) -> list[Tensor]:
    """Per row, `length` times the gradients over their norm, all tensors together; zero where that is zero.

    Args:
        gradients: one tensor per block, shape B 1 D.
    """
    norm_B11 = torch.stack([g.double().pow(2).sum((1, 2), keepdim=True) for g in gradients]).sum(0).sqrt()
    scale_B11 = torch.where(norm_B11 > 0, length / norm_B11.clamp_min(1e-30), 0.0)
    return [(g.double() * scale_B11).to(g.dtype) for g in gradients]


class LfU(Retain):
    """Match hidden states to those under steering vectors that took one step in an undesirable direction."""

    class Spec(WeightedSpec):
        length: float = Field(0.1, ge=0, description="Norm of the undesirable step, all blocks together; 0 makes the "
                                                     "term 0.")
        undesirable: Literal["forgetting", "relearning"] = Field(
            "forgetting", description="forgetting: the step raises the forget loss, and retain rows are held; "
                                      "relearning: it lowers the forget loss, and forget rows are held.")
        layers: list[int] | None = Field(None, min_length=1, description="Blocks with a vector and a matched output; "
                                                                         "all by default.")
        through: Literal["model", "both"] = Field("model", description="Whether gradients also pass through the "
                                                                       "changed model.")

    card = Card(
        name="lfu", kind="retain",
        summary="hidden states that one undesirable update of the model leaves as they are",
        paper="Learning from the Undesirable: Robust Adaptation of Language Models without Forgetting "
              "(arXiv 2511.13052)",
        formula="R = sum_l mean_t mean_d (H_l(x) - H_l(x; v))^2, v = length * g / ||g||, g the gradient of the "
                "forget loss by vectors that are added to the output of every block",
        defaults="length 0.1 and weight 1 are ours: the paper's values are not known here",
        needs=frozenset({"retain"}),
        model_needs=frozenset({"hidden", "logp", "weights"}),
        deviations=("written from the abstract and secondary sources; no code was compared",
                    "the changed model has steering vectors; the paper's low-rank adapters are not offered",
                    "each row has vectors of its own, from the forget row beside it, so that nothing depends on how "
                    "rows are batched",
                    "no dropout in its passes: with it the term would not be 0 at length 0",
                    "gradients do not pass through the changed model unless through=both"),
    )
    value_is_loss = False
    space = {"weight": ("log", 0.1, 100.0), "length": ("log", 0.01, 10.0)}
    must_show = (
        Property("nothing_without_step", {}, "length 0 gives value and gradient 0 exactly"),
        Property("step_has_its_length", {}, "the vectors of a row have the given norm and raise its forget loss"),
        Property("gradient_of_chosen_side", {}, "gradients pass through the plain model only, or through both"),
        Property("never_negative", {}, "a squared distance"),
        Property("step_moves_less", {"options": {"weight": 100.0, "length": 1.0}},
                 "after training the undesirable step changes hidden states less"),
    )

    def sites(self, subject: CausalLM) -> list[Site]:
        return [Site(layer) for layer in self.spec.layers or range(len(subject.blocks))]

    def vectors(self, subject: CausalLM, batch: TokenBatch) -> list[Tensor]:
        """The undesirable step on every row of forget rows, one B 1 D tensor per block; no gradient."""
        sites, zero = self.sites(subject), torch.zeros(len(batch.rows), 1, subject.width, device=subject.device)
        made = [zero.clone().requires_grad_(True) for _ in sites]
        with torch.enable_grad(), pushed(subject, sites, made):
            answers = subject.answers(batch)
            gradients = torch.autograd.grad(-answers.row_means(answers.logp_N).sum(), made)
        sign = 1.0 if self.spec.undesirable == "forgetting" else -1.0
        return [sign * step for step in unit_steps(gradients, self.spec.length)]

    def states(self, subject: CausalLM, batch: TokenBatch, vectors: Sequence[Tensor] = ()) -> list[Tensor]:
        """Outputs of the blocks under the vectors, shape B T D each."""
        sites = self.sites(subject)
        with pushed(subject, sites if vectors else [], vectors), read(subject, sites) as values:
            subject.answers(batch)
        return [found[-1] for found in values]

    def terms(self, step: Step) -> dict[str, Term]:
        subject, held = step.subject, "retain" if self.spec.undesirable == "forgetting" else "forget"
        side = held if held in step.batches else "retain"  # plain training has no forget rows
        batch, training = step.batches[side], subject.model.training
        if self.spec.through == "both" and subject.recomputes:
            raise without_checkpointing("lfu(through='both')")
        subject.model.eval()
        try:
            vectors = self.vectors(subject, step.batches.get("forget", batch))
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.spec.through == "both"):
                other = self.states(subject, batch, vectors)
            mine = self.states(subject, batch)
        finally:
            subject.model.train(training)
        error_BT = torch.stack([(m - o).pow(2).mean(-1) for m, o in zip(mine, other, strict=True)]).sum(0)
        return {"lfu": Term((error_BT * batch.attention_BT).sum(-1), "positions", side)}
