"""Sharpness-aware forgetting under quantisation: adds the forget gradient at rounded weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from expunge import plugin
from expunge.methods.base import Perturb
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.plugin import Card, Property
from expunge.training.gradients import Gradient, Oracle


def fake_quantized(weight: Tensor, bits: int, rows: int = 0) -> Tensor:
    """Symmetric rounding with one scale per output row: s = max|row| / (2^(bits-1) - 1), s * round(w / s).

    No value is clipped, so the straight-through derivative is 1 everywhere: the gradient at the rounded weights is
    used for the unrounded ones. `rows` is the dimension of output rows.
    """
    others = [d for d in range(weight.dim()) if d != rows]
    scale = weight.abs().amax(dim=others, keepdim=True).float() / (2 ** (bits - 1) - 1)
    rounded = (weight.float() / scale).round() * scale
    return torch.where(scale > 0, rounded, 0.0).to(weight.dtype)


def linear_weights(subject: Subject) -> Iterator[tuple[Tensor, int]]:
    """Weights of all linear layers and convolutions, except an embedding used as head, with the dimension of their
    output rows."""
    tied = getattr(subject.embedding, "weight", None)
    for module in subject.model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, Conv1D)) and module.weight is not tied:
            yield module.weight, 1 if isinstance(module, Conv1D) else 0


@contextmanager
def quantized(subject: Subject, bits: int) -> Iterator[None]:
    """The subject with rounded linear layers; restores the weights bit for bit on exit."""
    saved: list[tuple[Tensor, Tensor]] = []
    try:
        with torch.no_grad():
            for weight, rows in linear_weights(subject):
                saved.append((weight, weight.detach().clone()))
                weight.copy_(fake_quantized(weight, bits, rows))
        yield
    finally:
        with torch.no_grad():
            for weight, before in reversed(saved):
                weight.copy_(before)


class SAF(Perturb):
    """Forget at the quantised weights too, so that rounding does not bring answers back."""

    class Spec(plugin.Spec):
        bits: int = Field(4, ge=2, le=32, description="Bits of the rounded weights; 32 disables rounding and adds "
                                                      "nothing.")
        alpha: float = Field(1.0, ge=0, description="Maximum weight of the gradient at the rounded weights.")
        warmup: float = Field(1 / 3, ge=0, lt=1, description="Share of the run without it; it then rises to its "
                                                             "maximum over half of the remaining steps.")

    card = Card(
        name="saf", kind="perturb",
        summary="add the forget gradient at fake-quantised weights, so that rounding restores nothing",
        paper="DurableUn, Quantization-Induced Recovery Attacks (arXiv 2605.02196)",
        formula="g_f(w) + alpha(t) g_f(Q4(w)), straight through the rounding; the retain gradient at w",
        defaults="4 bits, warm-up 100 of 300 steps, retain weight max(1, alpha + 1). alpha is 1 here: the published 3 "
                 "gives a model that knows neither side (retain accuracy 0.045)",
        model_needs=frozenset({"weights"}),
        conflicts=frozenset({"lora"}),
        memory="a copy of all linear layers and a second gradient",
        deviations=("alpha is 1 where the authors take up to 3, and the retain weight is that of the recipe's own "
                    "retain term: use retain_nll(weight=2) for the published max(1, alpha + 1)",
                    "the durability certificate is a measure of audits and not part of this",
                    "weights are rounded in memory, per output row; the authors' simulator rounds byte codes of a "
                    "4-bit base, which hardly changes its rows",
                    "no adapters: with one switched off, the reference would be the rounded base",
                    "a head tied to the embeddings is not rounded, as in quantisers"),
    )
    space = {"alpha": ("uniform", 0.0, 3.0), "bits": ("choice", 3, 4, 8)}
    must_show = (
        Property("does_nothing", {"options": {"alpha": 0.0}}, "alpha 0 is the base method, bit for bit"),
        Property("does_nothing", {"options": {"bits": 32, "warmup": 0.0}}, "so are 32 bits"),
        Property("restores_weights", {"options": {"warmup": 0.0}}, "weights are restored bit for bit, also after "
                                                                   "exceptions"),
        Property("rounds_as_exported", {}, "its forward is that of the quantised and dequantised weights"),
        Property("straight_through", {}, "the gradient at rounded weights reaches all of them, and is added by alpha"),
        Property("alpha_rises", {}, "0, then linear, then constant: at steps 100, 150 and 200 of 300"),
        Property("rounding_spares_control", {}, "8 bits hardly change a model that forgot nothing"),
        Property("rounds_to_the_same", {}, "weights that moved within their step round to what they were"),
        Property("survives_rounding", {"bits": 3}, "after rounding, the model answers less than without the term"),
    )

    def weight(self, step: int, total: int) -> float:
        """alpha at step `step` (from 0) of `total`: 0 in the warm-up, then linear, constant from half of the rest."""
        begin = self.spec.warmup * total
        return float(min(max(2 * self.spec.alpha * (step + 1 - begin) / (total - begin), 0.0), self.spec.alpha))

    @property
    def idle(self) -> bool:
        return bool(self.spec.alpha == 0 or self.spec.bits == 32)

    def gradient(self, subject: Subject, scope: Scope, plain: Oracle, *, step: int, total: int, seed: int) -> Gradient:
        gradient, weight = plain(), self.weight(step, total)
        if weight == 0 or self.spec.bits == 32:
            return gradient
        with quantized(subject, self.spec.bits):
            rounded = plain()
        return [f + weight * r for f, r in zip(gradient, rounded, strict=True)]
