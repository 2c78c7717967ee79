"""BLUR: the retain gradient with its component along the forget gradient replaced, or the reverse."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from expunge import plugin
from expunge.methods.base import Combine
from expunge.plugin import Card, Property
from expunge.training.gradients import Gradient, inner


def without_component(moving: Gradient, fixed: Gradient, gamma: float) -> Gradient:
    """moving + (gamma - c) fixed with c = <moving, fixed> / ||fixed||^2, one scalar over all parameters.

    Its inner product with `fixed` is gamma ||fixed||^2, for any `moving`; with `fixed` zero the result is `moving`.
    """
    square = inner(fixed, fixed)
    share = gamma - inner(moving, fixed) / square if square > 0 else 0.0
    return [m + share * f for m, f in zip(moving, fixed, strict=True)]


class BLUR(Combine):
    """Bi-level: forgetting is the lower level; retaining is the upper one, without its component along forgetting."""

    class Spec(plugin.Spec):
        gamma: float = Field(1.0, ge=0, description="Weight of the gradient of the lower level.")
        form: Literal["retain_above", "forget_above", "sum"] = Field(
            "retain_above", description="Which gradient is on the upper level (published: retain); "
                                        '"sum" is the penalty ablation g_forget + gamma g_retain.')

    card = Card(
        name="blur", kind="combine",
        summary="two levels: the retain gradient without its component along the forget gradient",
        paper="BLUR, A Bi-Level Optimization Approach for LLM Unlearning, EACL 2026 (arXiv 2506.08164)",
        formula="d = g_r + (gamma - <g_r, g_f> / ||g_f||^2) g_f",
        defaults="gamma 1 (TOFU and MUSE, with NPO and the retain likelihood). The WMDP form, "
                 "g_f + alpha (g_r - c g_f), is gamma 1 with alpha as the weight of the retain term",
        companions="retain_nll",
        memory="2: both gradients, until they are combined",
        deviations=("npo has a log ratio for each answer; the authors' code takes the mean over a batch first",
                    "gradients are clipped after the combination; in the authors' loop clipping has no effect",
                    "one process only, so inner products need no reduction over ranks"),
    )
    separate = True
    space = {"gamma": ("log", 0.1, 10.0)}
    must_show = (
        Property("product_is_gamma", {}, "<d, g_f> = gamma ||g_f||^2 for any retain gradient"),
        Property("sum_when_orthogonal", {}, "equal to the weighted sum for orthogonal gradients"),
        Property("one_scalar", {}, "the coefficient is one number over all parameters, not one per tensor"),
        Property("forgets_monotonically", {}, "on two conflicting quadratics the forget loss falls at every step"),
        Property("forgets_with_retain", {}, "in a run the forget loss grows and retain answers stay"),
    )

    def __call__(self, forget: Gradient, retain: Gradient) -> Gradient:
        if self.spec.form == "sum":
            return [f + self.spec.gamma * r for f, r in zip(forget, retain, strict=True)]
        above, below = (retain, forget) if self.spec.form == "retain_above" else (forget, retain)
        return without_component(above, below, self.spec.gamma)
