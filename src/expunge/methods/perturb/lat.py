"""Latent adversarial training: forget gradients under an adversary in the activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from expunge import plugin
from expunge.data.text_encoder import TokenBatch
from expunge.methods._lib.latent import away, carried, lowest, placed, positions, pushed, sites_at
from expunge.methods.base import Perturb
from expunge.models.language import CausalLM
from expunge.models.scope import Scope
from expunge.models.sites import Site
from expunge.plugin import Card, Property
from expunge.training.gradients import Gradient, Oracle
from expunge.training.step import Step


class LAT(Perturb):
    """Compute every forget gradient under a worst-case perturbation of the activations."""

    class Spec(plugin.Spec):
        eps: float = Field(1.5, ge=0, description="Maximum L2 norm of the perturbation, per token or row.")
        steps: int = Field(16, ge=0, description="Steps of the adversary on every micro-batch.")
        lr: float = Field(5e-2, gt=0, le=1e30, description="Learning rate of the adversary's AdamW.")
        layers: list[int] | None = Field(None, min_length=1, description="Perturbed blocks; by default the one at "
                                                                         "12/32 of the depth.")
        site: Literal["mlp", "block", "embedding"] = Field("mlp", description="Output of the blocks' MLP, of the "
                                                                              "blocks, or of the embedding.")
        mask: Literal["prompt", "all"] = Field("prompt", description="Perturbed positions: the prompt, or all real "
                                                                     "ones. In running text always all.")
        ball: Literal["token", "row"] = Field("token", description="What eps bounds: each token, or each whole row.")
        toward: float = Field(1.0, ge=0, description="Weight of the forget answer's loss for the adversary.")
        away: float = Field(1.0, ge=0, description="Weight of lowering refusals, if the objective has them.")
        away_retain: float = Field(0.0, ge=0, description="Weight of lowering retain answers, perturbed at the same "
                                                          "positions; 1 with RMU.")
        model_steps: int = Field(1, ge=1, description="Optimizer steps on the same rows under one perturbation.")

    card = Card(
        name="lat", kind="perturb",
        summary="latent adversarial training: forget gradients under perturbed activations",
        paper="Sheshadri et al. 2024, Latent Adversarial Training (arXiv 2407.15549)",
        formula="g_f at h + d, d = argmin over |d_t| <= eps of toward * NLL(y_f) - away * mean_t log(1 - p(y_refusal))",
        defaults="eps 1.5, 16 steps at 5e-2, MLP of block 12 of 32, both weights 1 (Who's Harry Potter; weights of "
                 "blocks 13 to 15, lr 5e-5, 100 steps). WMDP: block 7, eps 2, 4 model steps, away_retain 1, with "
                 "RMU at block 8",
        model_needs=frozenset({"hidden", "logp", "weights"}),
        memory="the adversary's activations, and twice the perturbed ones",
        deviations=("the adversary's gradient is not clipped: AdamW does not depend on its scale",
                    "its losses are means per row, so that no perturbation depends on other rows; no dropout",
                    'ball="row" is the ball of LAU (arXiv 2408.10682), with the same adversary otherwise'),
    )
    reads = ("forget",)
    inside = True
    backpropagates = True
    space = {"eps": ("log", 0.1, 8.0), "steps": ("choice", 4, 8, 16)}
    must_show = (
        Property("does_nothing", {"options": {"eps": 0.0}}, "eps 0 is the base method, bit for bit"),
        Property("restores_weights", {"options": {"steps": 2}}, "weights and hooks are restored bit for bit, also "
                                                                "after exceptions"),
        Property("adversary_wins", {}, "tokens within eps, the others at 0, and its loss lower than before"),
        Property("alone_or_in_company", {}, "a row's perturbation depends neither on other rows nor on padding"),
        Property("reaches_forget_sides", {}, "refusals get it on the shared prompt, retain rows do not"),
        Property("harder_to_elicit", {"options": {"steps": 4, "eps": 3.0, "site": "block"}},
                 "under a new attack forget answers stay less likely than without"),
    )

    def __init__(self, spec: BaseModel | None = None, **options: Any) -> None:
        super().__init__(spec, **options)
        self._kept, self._keeps = dict[str, list[Tensor]](), False  # rows of a micro-batch -> their perturbation

    @property
    def repeats(self) -> int:
        return int(self.spec.model_steps)

    @property
    def asks_retain(self) -> bool:
        return bool(self.spec.away_retain > 0)

    def state(self) -> dict[str, Any]:
        return {"kept": self._kept} if self._keeps else {}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._kept, self._keeps = {rows: list(deltas) for rows, deltas in state["kept"].items()}, True

    @property
    def idle(self) -> bool:
        return bool(self.spec.eps == 0 or self.spec.steps == 0)

    def gradient(self, subject: CausalLM, scope: Scope, plain: Oracle, *, step: int, total: int, seed: int) -> Gradient:
        if self.idle:
            return plain()
        self._keeps = self.spec.model_steps > 1
        if step % self.spec.model_steps == 0:
            self._kept = {}
        return plain(self.attack)

    def sites(self, subject: CausalLM) -> list[Site]:
        """Where activations are perturbed."""
        depth = len(subject.blocks)
        return sites_at(subject, self.spec.site, self.spec.layers or [min(round(12 * depth / 32), depth - 1)])

    def attack(self, step: Step) -> None:
        """Compute the perturbation of a micro-batch and apply it to every side except retain."""
        sites = self.sites(step.subject)
        sides = {side: batch for side, batch in step.batches.items() if side != "retain"}
        rows = " ".join(row.key for row in sides["forget"].rows)
        deltas = self._kept.get(rows)
        if deltas is None:
            deltas = self.worst(step.subject, sites, sides["forget"], sides.get("refusal"),
                                step.batches.get("retain") if self.asks_retain else None)
            self._kept |= {rows: deltas} if self._keeps else {}
        for side, batch in sides.items():
            moved = [carried(d, sides["forget"], batch) for d in deltas]
            step.inside(side, partial(pushed, step.subject, sites, moved))

    def loss(self, subject: CausalLM, sites: Sequence[Site], deltas: Sequence[Tensor], forget: TokenBatch,
             refusal: TokenBatch | None, retain: TokenBatch | None = None) -> Tensor:
        """The adversary's loss: low if the forget answer is likely and the refusal and the retain answer are not."""
        with pushed(subject, sites, deltas):
            answers = subject.answers(forget)
        loss = self.spec.toward * answers.row_means(-answers.logp_N).sum()
        if refusal is not None and self.spec.away > 0:
            with pushed(subject, sites, [carried(d, forget, refusal) for d in deltas]):
                answers = subject.answers(refusal)
            loss = loss + self.spec.away * answers.row_means(away(answers)).sum()
        if retain is not None:
            with pushed(subject, sites, [placed(d, retain) for d in deltas]):
                answers = subject.answers(retain)
            loss = loss + self.spec.away_retain * answers.row_means(away(answers)).sum()
        return loss

    def worst(self, subject: CausalLM, sites: Sequence[Site], forget: TokenBatch, refusal: TokenBatch | None = None,
              retain: TokenBatch | None = None) -> list[Tensor]:
        """The adversary's perturbation of the forget rows: one B T D tensor per site, no gradient."""
        mask_BT1 = positions(forget, self.spec.mask)[..., None]
        shape = (*forget.ids_BT.shape, subject.model.config.hidden_size)
        start = [torch.zeros(shape, device=subject.device) for _ in sites]

        def loss(deltas: list[Tensor]) -> Tensor:
            return self.loss(subject, sites, [d * mask_BT1 for d in deltas], forget, refusal, retain)

        with subject.evaluating():
            return lowest(loss, start, steps=self.spec.steps, lr=self.spec.lr, eps=self.spec.eps, ball=self.spec.ball)
