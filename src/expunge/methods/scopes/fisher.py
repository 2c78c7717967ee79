"""Only weights that are more important to forget rows than to all rows may change."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.methods._lib.importance import Importance, importance, largest
from expunge.methods.base import Rows, ScopePlugin
from expunge.methods.scopes.salun import masked_scope, rows_of
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.plugin import Card, Property


def fisher_masks(forget: Importance, everything: Importance, density: float) -> dict[str, Tensor]:
    """Masks of the top share `density` of all weights by I_forget / I_all; 0/0 counts as 0."""
    return largest({name: torch.where(value > 0, value / everything[name], 0.0)
                    for name, value in forget.items()}, density)


class Fisher(ScopePlugin):
    """The weight selection of selective synaptic dampening as a mask for any objective."""

    class Spec(plugin.Spec):
        density: float = Field(0.1, gt=0, le=1, description="Share of all weights that may change.")
        batch_size: int = Field(8, ge=1, description="Rows per squared gradient, the same for both passes; 1 is "
                                                     "the per-sample Fisher diagonal.")
        seed: int = Field(0, description="Seed of the order of rows.")

    card = Card(
        name="fisher", kind="scope",
        summary="only weights far more important to forget rows than to all rows may change",
        paper="the selection rule of Foster et al. 2024, SSD (arXiv 2308.07707)",
        formula="m = 1 for the top share of I_f / I_D, I = mean over batches of (grad of the batch's mean loss)^2",
        defaults="density 0.1 is our choice: SSD thresholds the ratio at 10 instead of taking a share",
        model_needs=frozenset({"logp", "weights"}),
        deviations=("a share of the weights instead of a threshold on the ratio, so that the number of weights is "
                    "known",
                    "I_D is taken over the forget and retain rows of the task; the dampening itself is the edit ssd"),
    )
    reads: ClassVar[tuple[str, ...]] = ("forget", "retain")
    space = {"density": ("log", 0.01, 1.0)}
    must_show = (
        Property("scope_keeps_bits", {}, "weights outside the mask are bit-identical under AdamW with decay"),
        Property("masks_largest_ratio", {"density": 0.2}, "the mask is the top share by I_f / I_D"),
        Property("kinder_than_scope", {"other": "all"}, "at equal forget loss retain answers lose less"),
    )

    def apply(self, subject: Subject, rows: Rows | None = None) -> Scope:
        both = rows_of("fisher", rows, self.reads)
        forget = rows_of("fisher", rows, ("forget",))
        options = {"batch_size": self.spec.batch_size, "seed": self.spec.seed}
        return masked_scope(subject, fisher_masks(importance(subject, forget, **options),
                                                  importance(subject, both, **options), self.spec.density))
