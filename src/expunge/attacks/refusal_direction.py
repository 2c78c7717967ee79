"""Removal of one direction from the activations: the one along which forget questions were moved.

Legend: N tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.attacks._lib.hooks import Where, prompt_states, rewritten
from expunge.attacks.base import AND_RETAIN, Ask, Attack, AttackCard, AttackContext, View
from expunge.models.language import CausalLM
from expunge.models.sites import Change
from expunge.models.slots import block_number
from expunge.needs import Need
from expunge.plugin import Property

OUTLIER = 3.0
"""Tokens whose norm lies this many standard deviations from the mean norm are excluded."""


def typical(h_ND: Tensor) -> Tensor:
    """Mean over tokens whose norm is not an outlier (|z| <= 3), shape D; the first token often is one."""
    norm_N = h_ND.norm(dim=-1)
    spread = norm_N.std() if len(norm_N) > 1 else norm_N.new_zeros(())
    kept_N = (norm_N - norm_N.mean()).abs() <= OUTLIER * spread.clamp_min(1e-12 * norm_N.mean())
    return h_ND[kept_N].mean(0) if kept_N.any() else h_ND.mean(0)


def direction(h_ND: Tensor, other_MD: Tensor) -> Tensor:
    """Unit vector from the mean of `other_MD` to that of `h_ND`, shape D; zero if the means are equal."""
    d_D = typical(h_ND) - typical(other_MD)
    return d_D / d_D.norm().clamp_min(torch.finfo(d_D.dtype).tiny)


def without(d_D: Tensor, strength: float) -> Change:
    """h <- h - strength * (h . d) d at every position."""

    def change(given: Any, h_BTD: Tensor) -> Tensor:
        unit_D, wide_BTD = d_D.to(h_BTD.device), h_BTD.float()
        return (wide_BTD - strength * (wide_BTD @ unit_D)[..., None] * unit_D).to(h_BTD.dtype)

    return change


class RefusalDirection(Attack):
    """Project out, per block, the difference of means between the subject and the original."""

    class Spec(plugin.Spec):
        strength: float = Field(1.0, ge=0, description="Share of the component that is removed; 0 changes nothing.")
        layer: int | None = Field(None, description="The only block whose output is changed, negative counts from the "
                                                    "end; all blocks if left out.")
        against: Literal["original", "neutral"] = Field("original", description=(
            "original: minus the original model on the same rows; neutral: minus the subject on retain rows"))

    card = AttackCard(
        name="refusal_direction", kind="attack", access="weights", asks=AND_RETAIN, splits_entities=True,
        family="steering", model_needs=frozenset({"hidden", "prompt", "weights"}),
        summary="project the refusal direction out of the activations",
        paper="Lucki et al. 2024 (arXiv 2409.18025), orthogonalisation; Arditi et al. 2024 (arXiv 2406.11717)",
        formula="d_l = unit(mean h_subject - mean h_original) on forget prompts; h <- h - strength (h . d_l) d_l",
        defaults="every block, all positions, tokens with |z| > 3 left out",
        deviations=("learned on half the entities and tested on the other half",
                    "z is that of the norm of a token's activation, within each of the two means",
                    "directions are computed on the unchanged model and removed at all blocks together",
                    "in the tests a refusal is partly broken (0.29 to 0.42; neutral 0.35), npo hardly (to 0.04)"),
        caution="Removing a direction disturbs any model; against the original it also uses the original's "
                "states, so only the excess over the control counts.",
    )
    must_show = (
        Property("keeps_the_contract", {}, "only hooks"),
        Property("leaves_no_trace", {"options": {"strength": 0}}, "nothing is removed"),
        Property("projects_out", {}, "the direction is removed, orthogonal components stay, and d is a unit vector"),
        Property("recovers", {"from_": "refusing"}, "the refusal goes and the answer comes"),
        Property("brings_back", {"from_": "refusing", "by": 0.08}, "more than before"),
        Property("brings_back", {"from_": "refusing", "options": {"against": "neutral"}, "by": 0.03},
                 "without an original too"),
        Property("finds_nothing", {}, "a retrained model has nothing to recover"),
    )

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"original"} if self.spec.against == "original" else ())

    def problem(self, context: AttackContext) -> str | None:
        if not context.learned:
            return f"the {context.split} rows are not about two entities, to learn from one and test the other"
        if self.spec.against == "neutral" and not context.task.probe_rows("retain"):
            return "the task has no retain rows for refusal_direction(against=neutral)"
        return None

    def cost(self, context: AttackContext) -> str:
        return f"a pass over {len(context.learned)} rows per block, for two means"

    def run(self, subject: CausalLM, context: AttackContext, ask: Ask) -> None:
        if not self.spec.strength:
            return ask(View(self.text(), subject, context.tested))
        with rewritten(subject, self._changes(subject, context)):
            ask(View(self.text(), subject, context.tested))

    def _changes(self, subject: CausalLM, context: AttackContext) -> dict[Where, Change]:
        chosen = range(len(subject.blocks)) if self.spec.layer is None else [block_number(subject, self.spec.layer)]
        other, rows = ((context.require_original(), context.learned) if self.spec.against == "original"
                       else (subject, context.task.probe_rows("retain")))
        tick: Callable[..., None] = context.announce("directions", len(chosen))
        changes: dict[Where, Change] = {}
        for block in chosen:
            subject_ND = torch.cat(prompt_states(subject, context.learned, block))
            other_ND = torch.cat(prompt_states(other, rows, block))
            changes[block] = without(direction(subject_ND, other_ND.to(subject_ND.device)), self.spec.strength)
            tick(1)
        return changes
