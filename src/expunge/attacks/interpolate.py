"""Linear interpolation between the weights of the subject and the original."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.attacks._lib.matrices import merged_clone
from expunge.attacks.base import AND_RETAIN, Ask, Attack, AttackCard, AttackContext, View
from expunge.errors import UsageError
from expunge.models.subject import Subject
from expunge.plugin import Property


def mixed(weights: Mapping[str, Tensor], other: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """(1 - alpha) * weights + alpha * other per floating-point tensor, in float32, cast to the dtype of `weights`.

    Integer tensors are unchanged. At alpha 1 the result is `other`, bit for bit if the dtypes are equal.

    Raises:
        UsageError: names or shapes differ.
    """
    odd = sorted(name for name in weights.keys() | other.keys()
                 if name not in weights or name not in other or weights[name].shape != other[name].shape)
    if odd:
        raise UsageError("interpolate needs two models of one architecture.",
                         f"{len(odd)} tensors differ in name or shape, the first is {odd[0]}.",
                         "Give the original the subject was unlearned from.")
    return {name: torch.lerp(w.float(), other[name].to(w.device).float(), alpha).to(w.dtype)
            if w.is_floating_point() else w for name, w in weights.items()}


class Interpolate(Attack):
    """Move a copy along the straight line to the original and observe it."""

    class Spec(plugin.Spec):
        alpha: float = Field(0.5, ge=0, le=1, description="Share of the original; 0 does nothing, 1 is the original.")

    card = AttackCard(
        name="interpolate", kind="attack", access="weights", asks=AND_RETAIN, needs=frozenset({"original"}),
        family="merging", model_needs=frozenset({"weights"}),
        summary="mix the weights with those of the original",
        paper="linear mode connectivity (Frankle et al., arXiv 1912.05671); weight interpolation, WiSE-FT "
              "(arXiv 2109.01903)",
        formula="w <- (1 - alpha) w + alpha w_original",
        defaults="alpha 0.5, the midpoint, is our choice",
        deviations=("alpha is between 0 and 1: outside this range there is neither model, and a rise means nothing",
                    "a PEFT adapter is merged into its weights first, on both sides"),
        uses_original=True,
        caution="The knowledge comes from the original, so a rise alone proves nothing, and at alpha 1 every model "
                "knows. An excess over the equally mixed control shows that the subject is still linearly connected to "
                "the original. A control trained from another initialisation is not connected: its mixtures know "
                "neither side, which retain.probability shows.",
    )
    must_show = (
        Property("keeps_the_contract", {"options": {"alpha": 0.5}}, "a copy is mixed; neither model changes"),
        Property("leaves_no_trace", {"options": {"alpha": 0.0}}, "alpha 0, no change"),
        Property("ends_at_the_original", {}, "alpha 1 has the original's logits, bit for bit, for any subject"),
        Property("mixes_by_hand", {}, "the middle is the mean; tied weights once; other architectures are refused"),
        Property("recovers", {"from_": "suppressed"}, "at alpha 0.5 a suppressed model knows, the control does not"),
        Property("finds_nothing", {}, "a second retrained model gains what the first gains"),
    )

    def cost(self, context: AttackContext) -> str:
        return f"one mixture with {self.spec.alpha:g} of the original"

    def run(self, subject: Subject, context: AttackContext, ask: Ask) -> None:
        if self.spec.alpha == 0:
            return ask(View(self.text(), subject, context.rows))
        from peft import PeftModel

        copy, original = merged_clone(subject), context.require_original()
        if isinstance(original.model, PeftModel):
            original = merged_clone(original)
        copy.model.load_state_dict(mixed(copy.model.state_dict(), original.model.state_dict(), self.spec.alpha))
        ask(View(self.text(), copy, context.rows))
