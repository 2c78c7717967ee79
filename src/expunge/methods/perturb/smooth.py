"""Randomised smoothing of the forget loss."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.methods.base import Perturb
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.plugin import Card, Property
from expunge.seeding import derive
from expunge.training.gradients import Gradient, Oracle


def noise(scope: Scope, seed: int) -> Iterator[Tensor]:
    """Standard normal noise for each parameter in turn; the same for the same seed."""
    for i, parameter in enumerate(scope.parameters.values()):
        generator = torch.Generator().manual_seed(derive(seed, i))
        yield torch.randn(parameter.shape, generator=generator).to(parameter.device, parameter.dtype)


class Smooth(Perturb):
    """Average the forget gradient over randomly perturbed weights."""

    class Spec(plugin.Spec):
        sigma: float = Field(1e-4, ge=0, description="Standard deviation of the noise on every weight.")
        draws: int = Field(3, ge=1, description="Perturbations per step; each needs one gradient.")

    card = Card(
        name="smooth", kind="perturb",
        summary="forget gradient averaged over randomly perturbed weights",
        paper="Fan et al. 2025, Towards LLM Unlearning Resilient to Relearning Attacks, ICML 2025 (arXiv 2502.05374)",
        formula="mean over i of g_f at w + sigma xi_i, xi_i normal; the retain gradient at w",
        defaults="sigma 1e-4, 3 draws; WMDP: NPO beta 0.0125, lr 1e-5, retain weight 2",
        model_needs=frozenset({"weights"}),
        memory="2: the running mean and a copy of the trainable weights",
    )
    space = {"sigma": ("log", 1e-5, 1e-2), "draws": ("choice", 1, 3, 10)}
    must_show = (
        Property("does_nothing", {"options": {"sigma": 0.0}}, "sigma 0 is the base method, bit for bit"),
        Property("restores_weights", {}, "weights are restored bit for bit, also after an exception"),
        Property("averages_neighbours", {}, "the mean of the gradients at its draws, which differ and repeat"),
    )

    @property
    def idle(self) -> bool:
        return bool(self.spec.sigma == 0)

    def gradient(self, subject: Subject, scope: Scope, plain: Oracle, *, step: int, total: int, seed: int) -> Gradient:
        if self.spec.sigma == 0:
            return plain()
        mean: list[Tensor] = []
        for draw in range(self.spec.draws):
            with scope.shifted(noise(scope, derive(seed, draw)), self.spec.sigma):
                gradient = plain()
            parts = [g / self.spec.draws for g in gradient]
            mean = [m.add_(p) for m, p in zip(mean, parts, strict=True)] if mean else parts
        return mean
