"""MUDMAN: a slow adversary, a mask of sign agreement, and normalised steps."""

from __future__ import annotations

from expunge.methods.base import Preset
from expunge.plugin import Card, Property


class Mudman(Preset):
    """Normalised ascent at a slow adversary, along coordinates that lower the retain loss too, by plain descent."""

    card = Card(
        name="mudman", kind="preset", target="capability",
        summary="ascent at a slow adversary, masked by sign agreement with the retain gradient",
        paper="MUDMAN, Robust LLM Unlearning with Disruption Masking and Normalization (arXiv 2506.12484)",
        formula="w <- w - 0.1 m g_f(a) / ||g_f(a)|| - 1e-3 r; see forked_adversary and sign_agree",
        defaults="rates 0.1 and 1e-3, decay 0.9, a fork every 32 steps, adversary at 1e-3, 300 steps of batch 16",
        deviations=("all weights move; the authors train the gate projections: add layers(modules='gate_proj')",
                    "the authors stop once the retain loss has risen by 0.05: see --stop-at-floor",
                    "their headline, 40% better than TAR, is not verified here"),
    )
    expands_to = ("ga + retain_nll + forked_adversary(every=32, lr=0.001) + sign_agree(decay=0.9, retain=0.01) + "
                  "sgd(lr=0.1, warmup=0.0, schedule='constant')")
    must_show = (
        Property("expands_to_a_recipe", {}, "the name equals the written-out sum"),
        Property("forgets", {"lr": 0.3, "steps": 30, "retain_rise": 0.3}, "forget answers are lost, others stay"),
    )
