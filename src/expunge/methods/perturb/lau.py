"""LAU: forget gradients under the perturbation of one block's input that best brings the answer back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.data.text_encoder import TokenBatch
from expunge.methods._lib.latent import project, pushed
from expunge.methods.base import Perturb
from expunge.models.language import CausalLM
from expunge.models.scope import Scope
from expunge.models.sites import Site, read
from expunge.plugin import Card, Property
from expunge.seeding import derive
from expunge.training.gradients import Gradient, Oracle
from expunge.training.step import Step


def descended(gradient_of: Callable[[Tensor], Tensor], start_BTD: Tensor, states_BTD: Tensor, mask_BT1: Tensor,
              kappa: float, steps: int) -> Tensor:
    """Normalised gradient steps of length kappa / steps, projected after each: onto the row's ball of radius kappa,
    and so that states + perturbation stays between the smallest and the largest value of the row's states. B T D.

    Args:
        gradient_of: the gradient of the adversary's loss by the perturbation; rows do not mix.
        mask_BT1: 1 at real positions; the others get no perturbation and do not count.
    """
    real = mask_BT1.bool()
    low_B11 = states_BTD.masked_fill(~real, float("inf")).amin((1, 2), keepdim=True)
    high_B11 = states_BTD.masked_fill(~real, float("-inf")).amax((1, 2), keepdim=True)

    def allowed(delta_BTD: Tensor) -> Tensor:
        moved_BTD = delta_BTD * mask_BT1
        project(moved_BTD, kappa, "row")
        return ((states_BTD + moved_BTD).clamp(low_B11, high_B11) - states_BTD) * mask_BT1

    delta_BTD = allowed(start_BTD)
    for _ in range(steps):
        slope_BTD = gradient_of(delta_BTD) * mask_BT1
        delta_BTD = allowed(delta_BTD - kappa / steps * slope_BTD / (slope_BTD.norm(dim=(1, 2), keepdim=True) + 1e-6))
    return delta_BTD


class LAU(Perturb):
    """Compute the forget gradient under a perturbation of a block's input that makes the forget answer likelier."""

    class Spec(plugin.Spec):
        kappa: float = Field(8.0, ge=0, description="Maximum L2 norm of the perturbation, per row; 0 perturbs nothing.")
        steps: int = Field(6, ge=1, description="Steps of the adversary, each of length kappa / steps.")
        layer: int | None = Field(None, ge=0, description="Block whose input is perturbed; 0 is the output of the "
                                                          "embedding. By default 4/32 of the depth, at least 1.")
        random: bool = Field(True, description="Start at a random direction and length within kappa instead of 0.")

    card = Card(
        name="lau", kind="perturb",
        summary="forget gradients under a per-row perturbation of one block's input that brings the answer back",
        paper="Yuan et al. 2024, Towards Robust Knowledge Unlearning, AAAI 2025 (arXiv 2408.10682)",
        formula="g_f at z + d; d <- d - (kappa / S) grad NLL(y_f | z + d) / ||grad||, ||d|| <= kappa over the whole "
                "row, z + d within [min z, max z]",
        defaults="layer 4 of 32, kappa 8, 6 steps (3 with RMU), NPO beta 0.1, lr 1e-6, 1 epoch (RWKU)",
        model_needs=frozenset({"hidden", "logp", "weights"}),
        memory="the adversary's activations, and three times the perturbed ones",
        deviations=("the bounds of activations are those of the row; the authors take the whole batch and its padding, "
                    "so that a row depends on others. One row without padding agrees with their code",
                    "the reference term of npo is that of the unperturbed original, as in the authors' code",
                    "only forget answers are perturbed; refusals and retain rows are not",
                    "dropout stays on in the outer step; the authors train in evaluation mode"),
    )
    reads = ("forget",)
    inside = True
    backpropagates = True
    space = {"kappa": ("log", 0.5, 32.0), "steps": ("choice", 3, 6, 12)}
    must_show = (
        Property("does_nothing", {"options": {"kappa": 0.0}}, "kappa 0 is the base method, bit for bit"),
        Property("restores_weights", {"options": {"steps": 2}}, "weights and hooks are restored bit for bit, also "
                                                                "after exceptions"),
        Property("brings_answers_back", {}, "the forget answers are likelier under it, and its norm is within kappa"),
        Property("row_by_row", {}, "a row's perturbation depends neither on other rows nor on padding"),
        Property("stands_this_attack", {"options": {"kappa": 1.0, "steps": 4, "layer": 1}},
                 "under a new attack of its kind forget answers stay less likely than without"),
    )

    @property
    def idle(self) -> bool:
        return bool(self.spec.kappa == 0)

    def gradient(self, subject: CausalLM, scope: Scope, plain: Oracle, *, step: int, total: int, seed: int) -> Gradient:
        return plain() if self.idle else plain(partial(self.attack, seed=seed))

    def site(self, subject: CausalLM) -> Site:
        depth = len(subject.blocks)
        layer = min(max(round(4 * depth / 32), 1), depth - 1) if self.spec.layer is None else self.spec.layer
        return Site(layer - 1) if layer > 0 else Site(slot="embedding")

    def attack(self, step: Step, seed: int) -> None:
        """Compute the perturbation of a micro-batch's forget rows and apply it to their pass."""
        delta_BTD = self.worst(step.subject, step.batches["forget"], seed)
        step.inside("forget", partial(pushed, step.subject, [self.site(step.subject)], [delta_BTD]))

    def worst(self, subject: CausalLM, batch: TokenBatch, seed: int) -> Tensor:
        """The adversary's perturbation, shape B T D, no gradient."""
        site, batch = self.site(subject), batch.to(subject.device)

        def slope(delta_BTD: Tensor) -> Tensor:
            with torch.enable_grad():
                leaf = delta_BTD.detach().requires_grad_(True)
                with pushed(subject, [site], [leaf]):
                    answers = subject.answers(batch)
                return torch.autograd.grad(answers.row_means(-answers.logp_N).sum(), leaf)[0]

        with subject.evaluating(), read(subject, [site]) as values:
            subject.answers(batch)
            states_BTD = values[0][0].detach()
        mask_BT1 = batch.attention_BT[..., None].to(states_BTD.dtype)
        start_BTD = torch.zeros_like(states_BTD)
        for b, row in enumerate(batch.rows if self.spec.random else ()):
            generator = torch.Generator().manual_seed(derive(seed, row.id))
            drawn_TD = torch.randn(len(row.ids), states_BTD.shape[-1], generator=generator)
            length = self.spec.kappa * float(torch.rand((), generator=generator))
            start_BTD[b, : len(row.ids)] = (length * drawn_TD / drawn_TD.norm()).to(states_BTD)
        with subject.evaluating():
            return descended(slope, start_BTD, states_BTD, mask_BT1, self.spec.kappa, self.spec.steps)
