"""Constrained entropic unlearning, as published: margin loss, retain loss and dual ascent."""

from __future__ import annotations

from expunge.methods.base import Preset
from expunge.plugin import Card, Property


class EntropicPDU(Preset):
    """Flatten forget predictions while dual ascent keeps the retain loss below its bound."""

    card = Card(
        name="entropic_pdu", kind="preset",
        summary="constrained entropic unlearning: margin + retain_nll + pdu",
        paper="Entesari et al. 2025, Constrained Entropic Unlearning (arXiv 2506.05314, NeurIPS 2025)",
        formula="min mean_t (max_v z - mean_v z)^2 subject to NLL_retain <= epsilon",
        defaults="those of its parts; 10 epochs, lr 1e-5, batch 4 on 8 devices (TOFU)",
    )
    expands_to = "margin + retain_nll + pdu"
    must_show = (
        Property("expands_to_a_recipe", {}, "the name equals the written-out sum"),
        Property("reduces_to", {"other": "margin", "at": "moved"}, "its forget gradient is that of margin"),
    )
