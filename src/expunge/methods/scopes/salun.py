"""SalUn: only the weights most salient for the forget rows may change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.data.encoder import Row
from expunge.errors import UsageError
from expunge.methods._lib.importance import Importance, largest, summed_gradient
from expunge.methods.base import Rows, ScopePlugin
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.plugin import Card, Property


def saliency_masks(gradients: Importance, density: float) -> dict[str, Tensor]:
    """Masks of the top share `density` of all weights by |summed gradient|; name -> bool tensor."""
    return largest({name: gradient.abs() for name, gradient in gradients.items()}, density)


def masked_scope(subject: Subject, masks: Mapping[str, Tensor]) -> Scope:
    """A scope with these masks; tensors that are entirely free or entirely frozen need none."""
    names = tuple(name for name, mask in masks.items() if bool(mask.any()))
    return Scope(subject, names, {n: masks[n] for n in names if not bool(masks[n].all())})


def rows_of(name: str, rows: Rows | None, sides: Sequence[str]) -> list[Row]:
    """The rows of these sides, concatenated; raises UsageError if a side is empty."""
    missing = [side for side in sides if not (rows or {}).get(side)]
    if missing or rows is None:
        raise UsageError(f"{name} chooses weights by gradients on {' and '.join(sides)} rows, and there are "
                         f"no {' and no '.join(missing)} rows.", fix="Use another scope, such as layers(...).")
    return [row for side in sides for row in rows[side]]


class SalUn(ScopePlugin):
    """Saliency mask for any objective: all other weights keep their bits, also under weight decay."""

    class Spec(plugin.Spec):
        density: float = Field(0.5, gt=0, le=1, description="Share of all weights that may change; 1 uses "
                                                            "no mask.")
        batch_size: int = Field(8, ge=1, description="Rows per gradient; affects memory and time, not the mask.")

    card = Card(
        name="salun", kind="scope",
        summary="only the weights most salient for the forget rows may change",
        paper="Fan et al. 2024, SalUn (arXiv 2310.12508)",
        formula="m = 1 for the top share of |sum_i grad L(x_i)|, i over forget rows, all weights together",
        defaults="half of the weights (the authors' repository)",
        model_needs=frozenset({"logp", "weights"}),
        deviations=("the gradient is that of the summed answer losses; the authors sum batch means, which "
                    "over-weights a smaller last batch",
                    "gradients are masked and masked weights are restored after every step, as in the later code",
                    "the published gain over no mask is for classifiers and is not verified here",
                    "ties in saliency, such as weights without gradient, are taken in parameter order",
                    "random labels belong to classifiers and the diffusion form to image models: combine the "
                    "mask with any text objective, and expect those forms where such models are supported"),
    )
    reads: ClassVar[tuple[str, ...]] = ("forget",)
    space = {"density": ("uniform", 0.1, 1.0)}
    must_show = (
        Property("scope_keeps_bits", {}, "weights outside the mask are bit-identical under AdamW with decay"),
        Property("masks_largest", {"density": 0.3}, "the mask is the top share by |summed gradient|, over all weights"),
        Property("same_as_scope", {"options": {"density": 1.0}, "other": "all"}, "density 1 is the plain method"),
        Property("forgets_within_mask", {}, "forgetting through the salient half works as through all weights"),
    )

    def apply(self, subject: Subject, rows: Rows | None = None) -> Scope:
        if self.spec.density == 1:
            return Scope(subject, tuple(name for name, _ in subject.model.named_parameters()))
        forget = rows_of("salun", rows, self.reads)
        gradients = summed_gradient(subject, forget, batch_size=self.spec.batch_size)
        return masked_scope(subject, saliency_masks(gradients, self.spec.density))
