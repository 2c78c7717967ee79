"""AdvNPO: negative preference optimisation under a latent adversary."""

from __future__ import annotations

from expunge.methods.base import Preset
from expunge.plugin import Card, Property


class AdvNPO(Preset):
    """NPO at perturbed activations, with likelihood on retain rows."""

    card = Card(
        name="adv_npo", kind="preset",
        summary="npo under a latent adversary (LAU)",
        paper="Yuan et al. 2024, Towards Robust Knowledge Unlearning, AAAI 2025 (arXiv 2408.10682)",
        formula="-(2/beta) log sigmoid(-beta log(P(y_f | z + d) / P0(y_f))) + NLL_retain; see lau",
        defaults="beta 0.1; lr 1e-6, batch 4, 1 epoch (RWKU) or lr 3e-6, batch 8, 10 epochs (MUSE); cosine decay, 20 "
                 "warm-up steps",
        deviations=("with the retain likelihood (their GDR form); retain_kl in its place is their KLR form",),
    )
    expands_to = "npo + retain_nll + lau + adamw(lr=1e-06, warmup_steps=20, schedule='cosine')"
    must_show = (
        Property("expands_to_a_recipe", {}, "the name equals the written-out sum"),
    )
