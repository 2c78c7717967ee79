"""PCGrad: conflicting gradients are projected off each other."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from expunge import plugin
from expunge.methods.base import Combine
from expunge.plugin import Card, Property
from expunge.training.gradients import Gradient, inner


def deconflicted(moving: Gradient, other: Gradient) -> Gradient:
    """`moving` without its component along `other` if their inner product is negative, else `moving`."""
    dot, square = inner(moving, other), inner(other, other)
    if dot >= 0 or square == 0:
        return moving
    return [m - dot / square * o for m, o in zip(moving, other, strict=True)]


class PCGrad(Combine):
    """Project each gradient off the other where they conflict, then add (gradient surgery)."""

    class Spec(plugin.Spec):
        project: Literal["both", "forget"] = Field("both", description="Projected gradients: both as published, "
                                                                       "or the forget gradient only.")

    card = Card(
        name="pcgrad", kind="combine",
        summary="project forget and retain gradients off each other where they conflict",
        paper="Yu et al. 2020, Gradient Surgery for Multi-Task Learning (arXiv 2001.06782)",
        formula="g_f - min(<g_f, g_r>, 0) / ||g_r||^2 g_r + g_r - min(<g_f, g_r>, 0) / ||g_f||^2 g_f",
        defaults="both gradients are projected; forget only is the baseline of geometric unlearning (2511.17100)",
        companions="retain_nll",
        memory="2: both gradients, until they are combined",
    )
    separate = True
    must_show = (
        Property("sum_without_conflict", {}, "with a positive inner product it is the weighted sum, bit for bit"),
        Property("never_against", {}, "the update has a negative product with neither gradient"),
        Property("forgets_with_retain", {}, "in a run the forget loss grows and retain answers stay"),
    )

    def __call__(self, forget: Gradient, retain: Gradient) -> Gradient:
        forget_part = deconflicted(forget, retain)
        retain_part = deconflicted(retain, forget) if self.spec.project == "both" else retain
        return [f + r for f, r in zip(forget_part, retain_part, strict=True)]
