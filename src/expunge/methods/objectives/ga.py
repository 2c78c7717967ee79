"""Gradient ascent."""

from __future__ import annotations

import torch
from torch import Tensor

from expunge.methods._lib.weighted_likelihood import WeightedLikelihood
from expunge.plugin import Card, Property


class GradientAscent(WeightedLikelihood):
    """Raise the loss of the forget answers: the finetuning gradient with inverted sign."""

    card = Card(
        name="ga", kind="objective",
        summary="gradient ascent: raise the loss on the forget answers",
        paper="Jang et al. 2022 (arXiv 2210.01504); TOFU, Maini et al. 2024 (arXiv 2401.06121)",
        formula="L = (1/n_tokens) * sum_t log p(y_t)",
        defaults="TOFU: AdamW, lr 1e-5, weight decay 0.01, linear warm-up over one epoch",
        model_needs=frozenset({"logp", "weights"}),
        unbounded=True,
        deviations=("the mean is over the tokens of the whole optimizer step, not of each micro-batch, "
                    "so gradient accumulation does not change the weights of rows",),
    )
    space = {"weight": ("log", 0.05, 2.0)}
    must_show = (
        Property("gradient_is_minus", {"other": "retain_nll"}, "ascent is finetuning with inverted sign"),
        Property("forgets", {}, "the loss of forget answers grows"),
        Property("grows_without_bound", {}, "the loss is unbounded"),
        Property("collapses_retain", {"survivor": "grad_diff"}, "without a retain term it destroys retained knowledge"),
    )

    value_is_loss = True

    def weight(self, logp_N: Tensor, reference_N: Tensor | None) -> Tensor:
        return torch.ones_like(logp_N)
