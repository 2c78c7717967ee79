"""Sign agreement: forget only along coordinates that lower the retain loss too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.methods.base import Combine
from expunge.plugin import Card, Property
from expunge.training.gradients import Gradient, inner


class SignAgree(Combine):
    """Mask the forget gradient where its sign differs from that of a running mean of retain gradients."""

    class Spec(plugin.Spec):
        decay: float = Field(0.9, ge=0, lt=1, description="Share of the running mean that is kept at every step; 0 "
                                                          "takes this step's retain gradient.")
        retain: float = Field(0.01, ge=0, description="Factor of the running mean in the update.")
        normalise: bool = Field(True, description="Divide the forget gradient by its norm, before it is masked.")
        mask: bool = Field(True, description="Whether to mask at all.")

    card = Card(
        name="sign_agree", kind="combine",
        summary="mask the forget gradient where it would raise the retain loss (MUDMAN)",
        paper="MUDMAN, Robust LLM Unlearning with Disruption Masking and Normalization (arXiv 2506.12484)",
        formula="r <- decay r + (1 - decay) g_r; g = retain * r + m g_f / ||g_f||, m = 1 where sign g_f = sign r",
        defaults="decay 0.9; rates 0.1 for forgetting and 1e-3 for retaining: retain 0.01 with sgd(lr=0.1)",
        companions="retain_nll",
        memory="1: the running mean; 2 more while gradients are combined",
        deviations=("both parts move the weights in one step; the authors take the retain step first",
                    "a coordinate without a retain gradient is kept; the authors' comparison of signs drops it",
                    "to first order only a step along the gradient keeps the retain loss: take sgd, for Adam "
                    "rescales every coordinate"),
    )
    separate = True
    space = {"retain": ("log", 1e-3, 1.0), "decay": ("choice", 0.0, 0.9, 0.99)}
    must_show = (
        Property("signs_agree", {}, "every forgetting coordinate has the sign of the running mean"),
        Property("alternates_without_mask", {}, "without mask, norm and memory it is the weighted sum"),
    )

    def __init__(self, spec: Any = None, **options: Any) -> None:
        super().__init__(spec, **options)
        self._mean: list[Tensor] = []

    def __call__(self, forget: Gradient, retain: Gradient) -> Gradient:
        spec = self.spec
        kept = self._mean or [torch.zeros_like(r) for r in retain]
        self._mean = [spec.decay * m + (1 - spec.decay) * r for m, r in zip(kept, retain, strict=True)]
        norm = inner(forget, forget) ** 0.5 if spec.normalise else 1.0
        update = []
        for part, mean in zip(forget, self._mean, strict=True):
            moving = part / norm if norm > 0 else part
            if spec.mask:
                moving = moving.where((moving.sign() == mean.sign()) | (mean == 0), 0.0)
            update.append(moving + spec.retain * mean)
        return update

    def state(self) -> dict[str, Any]:
        return {"mean": self._mean} if self._mean else {}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._mean = list(state.get("mean", []))
