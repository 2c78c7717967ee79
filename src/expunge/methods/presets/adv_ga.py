"""AdvGA: gradient ascent under a latent adversary."""

from __future__ import annotations

from expunge.methods.base import Preset
from expunge.plugin import Card, Property


class AdvGA(Preset):
    """Gradient ascent at perturbed activations, with likelihood on retain rows."""

    card = Card(
        name="adv_ga", kind="preset",
        summary="gradient ascent under a latent adversary (LAU)",
        paper="Yuan et al. 2024, Towards Robust Knowledge Unlearning, AAAI 2025 (arXiv 2408.10682)",
        formula="-NLL(y_f | z + d) + NLL_retain; see lau",
        defaults="block 4 of 32, kappa 8, 6 steps, lr 1e-6 with cosine decay and 20 warm-up steps, batch 4, 1 epoch",
        deviations=("with the retain likelihood (their GDR form); retain_kl in its place is their KLR form",),
    )
    expands_to = "ga + retain_nll + lau + adamw(lr=1e-06, warmup_steps=20, schedule='cosine')"
    must_show = (
        Property("expands_to_a_recipe", {}, "the name equals the written-out sum"),
    )
