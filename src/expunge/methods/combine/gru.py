"""GRU: the forget gradient without its component against a running mean of retain gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.methods.base import Combine
from expunge.plugin import Card, Property
from expunge.training.gradients import Gradient, inner


def rectified(forget: Gradient, retain: Gradient, floor: float = -1.0) -> Gradient:
    """`forget` without its component along `retain` where their inner product is negative, else `forget` itself.

    With a floor above -1, what is removed is computed from max(cosine, floor), so at most that share of its length.
    """
    dot, square = inner(forget, retain), inner(retain, retain)
    if dot >= 0 or square == 0:
        return forget
    least = floor * (inner(forget, forget) * square) ** 0.5
    share = (dot if floor <= -1 else max(dot, least)) / square
    return [f - share * r for f, r in zip(forget, retain, strict=True)]


class GRU(Combine):
    """Rectify the forget gradient by a running mean of retain gradients, which alone gives no step."""

    class Spec(plugin.Spec):
        gamma: float = Field(0.8, gt=0, le=1, description="Weight of the new retain gradient in the running mean, not "
                                                          "of the old mean; 1 has no memory.")
        floor: float = Field(-1.0, ge=-1, le=0, description="Cosine below which no more is removed, -0.5 in the "
                                                            "authors' clipped form; -1 removes all.")
        retain: float = Field(0.0, ge=0, description="Factor of this step's retain gradient that is added after the "
                                                     "projection; 0 only projects.")

    card = Card(
        name="gru", kind="combine",
        summary="forget gradient without its component against a running mean of retain gradients",
        paper="Wang et al. 2025, GRU: Mitigating the Trade-off between Unlearning and Retention for LLMs "
              "(arXiv 2503.09117)",
        formula="r <- gamma g_r + (1 - gamma) r; d = g_f - min(<g_f, r>, 0) / ||r||^2 r",
        defaults="gamma 0.8 as in the authors' version for open-unlearning; 0.6 and 0.99 in their own scripts. Clip "
                 "norm 100, lr 1e-5 (7B) or 2e-5 (Phi)",
        companions="retain_nll",
        memory="1: the running mean; 2 more while gradients are combined",
        deviations=("gradients are clipped at norm 1 by the default optimizer; the authors clip at 100",
                    "a zero running mean leaves the forget gradient; the authors divide by its norm",
                    "a step is a whole batch; in the open-unlearning version the npo branch never advances its step "
                    "counter, so that with accumulation every micro-batch was a step"),
    )
    separate = True
    space = {"gamma": ("choice", 0.6, 0.8, 0.99), "floor": ("choice", -1.0, -0.5), "retain": ("choice", 0.0, 1.0)}
    must_show = (
        Property("never_against_memory", {}, "<d, r> >= 0, and the forget gradient itself where <g_f, r> >= 0"),
        Property("memory_as_published", {}, "the running mean of several steps beside a loop in float64, and resumed"),
        Property("gamma_one_is_pcgrad", {}, "without memory it is one-sided pcgrad; the floor removes less"),
        Property("protects_better_than_alone", {}, "in a run the forget loss grows and retain answers lose less"),
    )

    def __init__(self, spec: Any = None, **options: Any) -> None:
        super().__init__(spec, **options)
        self._mean: list[Tensor] = []

    def __call__(self, forget: Gradient, retain: Gradient) -> Gradient:
        spec = self.spec
        kept = self._mean or [r.new_zeros(()) for r in retain]
        self._mean = [spec.gamma * r + (1 - spec.gamma) * m for m, r in zip(kept, retain, strict=True)]
        update = rectified(forget, self._mean, spec.floor)
        if spec.retain == 0:
            return list(update)
        return [u + spec.retain * r for u, r in zip(update, retain, strict=True)]

    def state(self) -> dict[str, Any]:
        return {"mean": self._mean} if self._mean else {}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._mean = list(state.get("mean", []))
