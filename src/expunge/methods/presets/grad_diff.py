"""Gradient difference."""

from __future__ import annotations

from expunge.methods.base import Preset
from expunge.plugin import Card, Property


class GradDiff(Preset):
    """Gradient ascent on forget rows with likelihood on retain rows."""

    card = Card(
        name="grad_diff", kind="preset",
        summary="gradient difference: ga + retain_nll",
        paper="Liu et al. 2022 (arXiv 2203.12817); TOFU, Maini et al. 2024 (arXiv 2401.06121)",
        formula="L = -NLL_forget + NLL_retain",
        defaults="both weights 1",
    )
    expands_to = "ga + retain_nll"
    must_show = (
        Property("expands_to_a_recipe", {}, "the name equals the written-out sum"),
        Property("reduces_to", {"other": "ga", "recipe": "grad_diff + retain_nll(weight=0)", "exact": True},
                 "without its retain term it is gradient ascent"),
        Property("kinder_than", {"other": "ga"}, "utility at equal forget loss is higher"),
        Property("over_forgets", {}, "forget answers end less likely than answers never seen"),
    )
