"""The weighted sum of gradients, as of a single loss."""

from __future__ import annotations

from expunge.methods.base import Combine
from expunge.plugin import Card, Property
from expunge.training.gradients import Gradient


class Weighted(Combine):
    """Add the two gradients; the weights are already in the terms."""

    card = Card(
        name="weighted", kind="combine",
        summary="add forget and retain gradients (the default)",
        paper="TOFU, Maini et al. 2024 (arXiv 2401.06121)",
        formula="g = g_forget + g_retain",
        defaults="coefficients are the terms' own weights",
    )
    must_show = (Property("sum_of_gradients", {}, "one backward pass of the summed loss gives the same"),)

    def __call__(self, forget: Gradient, retain: Gradient) -> Gradient:
        return [f + r for f, r in zip(forget, retain, strict=True)]
