"""SADR: while an edit looks for a value, heads must not turn to the edited name more than any head did before.

Legend: B rows, H heads, T tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from expunge.data.text_encoder import TokenBatch
from expunge.methods._lib.value_descent import Penalty, ValueTerm
from expunge.methods.base import WeightedSpec
from expunge.models.head import raised
from expunge.models.language import CausalLM
from expunge.plugin import Card, Property
from expunge.training.step import Step, Term

UNIT = 1e-4
"""Of the authors' code, where the weight is 100 for ROME and 50 for MEMIT."""
LEAST = 1e-8
"""Added to both maps."""


def drift(before: Sequence[Tensor], now: Sequence[Tensor], from_B: Tensor, to_B: Tensor | None = None) -> Tensor:
    """sum KL(before || now) of what one token of each row looks at, over blocks and heads; shape B.

    Args:
        before, now: maps B H T T of each block; no gradient goes to the former.
        from_B: the token that looks.
        to_B: count only heads that look at this token more than every head of their block did before.
    """
    rows_B, found = torch.arange(len(from_B), device=from_B.device), []
    for old_BHTT, new_BHTT in zip(before, now, strict=True):
        p_BHT = raised(old_BHTT).detach()[rows_B, :, from_B] + LEAST
        q_BHT = raised(new_BHTT)[rows_B, :, from_B] + LEAST
        gap_BH = (p_BHT * (p_BHT / q_BHT).log()).sum(-1)
        if to_B is not None:
            most_B = p_BHT[rows_B, :, to_B].amax(-1)
            gap_BH = gap_BH * (q_BHT[rows_B, :, to_B] > most_B[:, None])
        found.append(gap_BH.sum(-1))
    return torch.stack(found).sum(0)


class AttentionDrift(ValueTerm):
    """Restricts, in the value descent of an edit, how attention drifts to the edited name (SADR)."""

    class Spec(WeightedSpec):
        weight: float = Field(100.0, ge=0, description="Gamma: 100 for rome and 50 for memit, in units of 1e-4; 0 "
                                                       "removes it.")
        hinge: bool = Field(True, description="In an edit: count only heads that look at the name more than every head "
                                              "of their block did before. False counts all heads, as the authors' "
                                              "memit does.")

    card = Card(
        name="attention_drift", kind="retain",
        summary="while an edit looks for a value, keep what the end of a prompt looks at (SADR)",
        paper="Revealing and Mitigating Over-Attention in Knowledge Editing, ICLR 2025 (arXiv 2502.14838)",
        formula="gamma 1e-4 sum_l mean_prompts sum_(h in mask) KL(A0_lh || A_lh) at the last token of the prompt, "
                "mask: A_lh(name) > max_h' A0_lh'(name)",
        defaults="gamma 100, hinge (the authors' ROME; rome(steps=80) goes with it)",
        needs=frozenset({"retain", "reference.attention"}),
        model_needs=frozenset({"attention", "weights"}),
        memory="maps of all blocks and heads, twice, and in a loop a frozen copy of the model for full weights",
        deviations=("the first forward pass of the descent has the loss 0 here too; the authors leave it out there",
                    "in a training loop, which the paper has not, all heads count: a retain row has no edited name",
                    "nothing was compared: their divergence is defined inside a long function",
                    "options of their code for other divergences, keys and hidden states are left out"),
    )
    space = {"weight": ("log", 1.0, 1000.0)}
    must_show = (
        Property("leaves_first_update", {}, "its first gradient is 0: the first update is the objective's"),
        Property("drift_by_hand", {}, "value and mask beside loops over rows, blocks and heads; 0 without a change"),
        Property("restricts_drift", {}, "an edit with it lets attention drift less and still says its target"),
    )

    def on_value(self, subject: CausalLM, batch: TokenBatch, at_B: Tensor) -> Penalty:
        before: list[Tensor] = []
        from_B = torch.tensor([row.prompt - 1 for row in batch.rows], device=at_B.device)
        with subject.evaluating():
            before += subject.attention(batch)

        def penalty(delta_D: Tensor) -> Tensor:
            found_B = drift(before, subject.attention(batch), from_B, at_B if self.spec.hinge else None)
            return self.spec.weight * UNIT * found_B[:-1].mean()  # the last row only says what is to stay

        return penalty

    def terms(self, step: Step) -> dict[str, Term]:
        batch = step.batches["retain"]
        from_B = torch.tensor([row.prompt - 1 for row in batch.rows], device=batch.device).clamp_min(0)
        found_B = drift(step.reference.attention(batch), step.attention("retain"), from_B)
        return {"attention_drift": Term(UNIT * found_B, "sequences", "retain")}
