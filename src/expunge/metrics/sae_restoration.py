"""Suppressed or deleted: how likely the facts are once the original's latents are back in the hidden states."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, MetricCard, NotAvailable, RowMetric
from expunge.metrics.layers import Array, rows_by_id, table
from expunge.plugin import Property
from expunge.records.task import SPLITS, Split

FAITHFUL = 0.5
"""Share of the original's own probability that must be left when its states are rebuilt from latents."""


class SAERestorationOptions(plugin.Spec):
    read: Literal["probability", "gain", "share"] = Field("probability", description=(
        "probability: of the fact with the latents restored; gain: beyond what the model says anyway and with its own "
        "states rebuilt; share: gain over what there is to gain"))
    latents: Literal["all", "experts", "random"] = Field("all", description=(
        "all; those that are active more often on forget rows (a quarter); as many random ones"))


def gains(restored_n: Array, plain_n: Array, rebuilt_n: Array) -> Array:
    """Probability restored beyond both baselines: the model as it is, and on its own states rebuilt; shape n."""
    return restored_n - np.maximum(plain_n, rebuilt_n)


class SAERestoration(RowMetric):
    card = MetricCard(
        name="sae_restoration", kind="metric",
        summary="Probability of the fact with the original's autoencoder latents put back in: suppressed or deleted",
        paper="Suppression or Deletion: A Restoration-Based Analysis of Machine Unlearning (arXiv 2602.18505)",
        formula="mean over rows of p_bar(fact | h_l rebuilt from the original's latents)",
        defaults="all latents at strength 1; block, autoencoder and experts are those of the probe restoration",
        needs=frozenset({"original"}),
        deviations=(
            "Probability of the fact in place of accuracy on a class; all latents by default: experts alone leave what "
            "was put into the states beside them.",
            "The latents are the original's and may hold the answer itself: a test model that the original grew out "
            "of, and that never saw the facts, gains 0.26 (a suppressed one 0.78). Only what is beyond a retrained "
            "control counts, and one of another initialisation cannot read the latents at all.",
            "It asks whether the blocks after the chosen one still use the fact. A change of earlier blocks alone is "
            "always undone; what only the last blocks or the head suppress stays so (logit_lens and uds look there).",
            "There is no score where the original's own states, rebuilt, lose half of its probability.",
            "So it does not count in a verdict: a model that lost the facts in early blocks reads high, and one of "
            "another initialisation reads low whatever it knows. Read it beside a control of the same initialisation.",
            "The interval takes the autoencoder as fixed."),
        higher_is="neutral", range=None, ideal="reference", access="weights",
        probes=(("restoration", SPLITS),), per_split=True,
    )
    Spec: ClassVar[type[plugin.Spec]] = SAERestorationOptions
    must_show = (
        Property("orders", {"worlds": ("collapsed", "retrained", "hiding"), "split": "forget"},
                 "what was suppressed below the block comes back, what was deleted or is hidden above it does not"),
        Property("near", {"world": "retrained", "is_": 0.05, "within": 0.03, "split": "forget"}, "nothing to restore"),
        Property("needs", {"without": ("restoration", "forget", None), "split": "forget", "says": "restoration"}),
    )

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        rows = rows_by_id(evidence, "restoration", split)
        if not rows:
            return {}
        p = {key: np.exp(table(rows, key)) for key in ("plain", "rebuilt", "original", "ceiling", self.spec.latents)}
        if p["ceiling"].mean() < FAITHFUL * p["original"].mean():
            raise NotAvailable(f"the autoencoder is too coarse: rebuilt from its latents, the original's states give "
                               f"the facts {p['ceiling'].mean():.2g} in place of {p['original'].mean():.2g}")
        restored_n = p[self.spec.latents][:, -1] if self.spec.latents == "all" else p[self.spec.latents]
        if self.spec.read != "probability":
            restored_n = gains(restored_n, p["plain"], p["rebuilt"])
        if self.spec.read == "share":
            room = float((p["ceiling"] - np.maximum(p["plain"], p["rebuilt"])).mean())
            if room < 0.05:
                raise NotAvailable("the model says the facts as the original does: nothing is left to restore")
            restored_n = restored_n / room
        return dict(zip(rows, restored_n.tolist(), strict=True))
