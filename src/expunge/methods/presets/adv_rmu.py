"""AdvRMU: representation misdirection under a latent adversary."""

from __future__ import annotations

from expunge.methods.base import Preset
from expunge.plugin import Card, Property


class AdvRMU(Preset):
    """RMU at perturbed activations of an earlier block."""

    card = Card(
        name="adv_rmu", kind="preset", target="capability",
        summary="rmu under a latent adversary (LAU)",
        paper="Yuan et al. 2024, Towards Robust Knowledge Unlearning, AAAI 2025 (arXiv 2408.10682)",
        formula="mean_t mean_d (H_l(x_f; z + d) - c u)^2 + alpha * activation match; see rmu and lau",
        defaults="rmu at block 7 of 32, steering 300, alpha 300, 3 steps of the adversary, lr 1e-6",
        deviations=("coefficient 6.5: the authors divide a random tensor of rows and tokens by its whole norm, which "
                    "leaves 300 / sqrt(4 * 512) = 6.6 per token",
                    "one control vector for the run; theirs is drawn anew for every token and pass",
                    "one pass per step; theirs sums four passes under one perturbation, which differ in the control "
                    "vectors alone: four times the gradient at their mean",
                    "the perturbed block is lau's default, 4 of 32; theirs is 6",
                    "down projections of three blocks move, as in rmu; theirs moves all weights"),
    )
    expands_to = ("rmu(coefficient=6.5, alpha=300.0) + lau(steps=3) + "
                  "adamw(lr=1e-06, warmup_steps=20, schedule='cosine')")
    must_show = (
        Property("expands_to_a_recipe", {}, "the name equals the written-out sum"),
    )
