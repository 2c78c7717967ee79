"""Pruning: set the smallest weights to zero, or those important to the forget rows only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.attacks._lib.matrices import input_norms, matrices, merged_clone
from expunge.attacks.base import AND_RETAIN, Ask, Attack, AttackCard, AttackContext, View
from expunge.models.subject import Subject
from expunge.needs import ModelNeed
from expunge.plugin import Property
from expunge.records.task import Example
from expunge.seeding import stream


def smallest(values: Sequence[Tensor], share: float) -> list[Tensor]:
    """Masks of the smallest elements over all tensors: exactly round(share * n) of n.

    Args:
        values: float32, non-negative. Ties are filled in order.
    """
    left = wanted = round(share * sum(v.numel() for v in values))
    low, high = 0, 0x7F800000  # as int32, non-negative finite floats keep their order
    while low < high:  # bisection needs no concatenated copy and no sort
        middle = (low + high) // 2
        if sum(int((v.view(torch.int32) <= middle).sum()) for v in values) >= wanted:
            high = middle
        else:
            low = middle + 1
    left -= sum(int((v.view(torch.int32) < low).sum()) for v in values)
    masks = []
    for value in values:
        bits = value.view(torch.int32)
        tied = (bits == low).flatten()
        taken = tied & (tied.cumsum(0) <= left)
        left -= int(taken.sum())
        masks.append((bits < low) | taken.view_as(bits))
    return masks


def set_difference(forget: Sequence[Tensor], utility: Sequence[Tensor], share: float, spare: float) -> list[Tensor]:
    """Masks of the weights in the top `share` of forget importance and not in the top `spare` of utility importance."""
    low, low_utility = smallest(forget, 1 - share), smallest(utility, 1 - spare)
    return [~low_forget & low_other for low_forget, low_other in zip(low, low_utility, strict=True)]


class Prune(Attack):
    """Set weights of a copy to zero and observe it."""

    class Spec(plugin.Spec):
        share: float | None = Field(None, ge=0, lt=1, description=(
            "Share of the weights: the smallest, or those most important to the forget rows; 0 changes nothing. "
            "Default 0.3, or 0.01 by difference"))
        by: Literal["magnitude", "difference"] = Field("magnitude", description=(
            "magnitude: the smallest |w|; difference: weights important to rows of half the forgotten entities and "
            "not among the most important elsewhere, tested on the other half"))
        scope: Literal["matrix", "model"] = Field("matrix", description="Shares per matrix, or over all matrices.")
        spare: float = Field(0.005, ge=0, lt=1, description="By difference: the share most important elsewhere, "
                                                            "which is kept.")
        elsewhere: Literal["utility", "retain"] = Field("utility", description="By difference: the other split.")
        rows: int = Field(128, ge=1, description="By difference: maximum number of rows per side, drawn.")

    card = AttackCard(
        name="prune", kind="attack", access="weights", asks=AND_RETAIN,
        family="pruning", model_needs=frozenset({"weights"}),
        summary="set small weights to zero, or those important to the forget rows only",
        paper="Wei et al. 2024 (arXiv 2402.05162) and Lucki et al. 2024 (arXiv 2409.18025) for the set difference; "
              "Wanda (arXiv 2306.11695) for its importance; Han et al. 2015 (arXiv 1506.02626) for magnitude",
        formula="w <- 0 on top_p(|w| ||x||_forget) without top_q(|w| ||x||_utility), or where |w| is smallest",
        defaults="0.3 by magnitude; by difference 1 % and 0.5 %, within the range of the published grids; 128 rows",
        deviations=(
            "one pair of shares instead of the best of about 45: name several attacks for a grid",
            "shares are of a whole matrix, where Wanda ranks within each output row",
            "inputs are read where an answer token is predicted, so that prompts and padding do not count",
            "a PEFT adapter is merged first; by difference, stacked experts are not pruned, since no layer exposes "
            "their inputs",
            "neither form recovers what ordinary npo hid: on the test bed 0.03 becomes 0.05 with the best of 60 pairs "
            "of shares; it recovers if unlearning filled the zeros of a sparse model (0.07 to 0.27) or added a gate "
            "in idle neurons (0.03 to 0.30)"),
        caution="Pruning damages every model: retain.probability shows how much, and only a rise above the equally "
                "pruned control is recovery.",
    )
    must_show = (
        Property("keeps_the_contract", {}, "a copy is pruned, never the subject"),
        Property("keeps_the_contract", {"options": {"by": "difference", "scope": "model"}}, "by importance too"),
        Property("leaves_no_trace", {"options": {"share": 0.0}}, "no weight, no change"),
        Property("leaves_no_trace", {"options": {"share": 0.0, "by": "difference"}}, "the tested half unchanged"),
        Property("prunes_exactly", {}, "exactly the requested number, the smallest, per matrix and globally; ties in "
                                       "order"),
        Property("difference_by_hand", {}, "importance by a loop; the difference of the two sets"),
        Property("recovers", {"from_": "sparse", "options": {"share": 0.5}}, "small steps that filled its zeros"),
        Property("recovers", {"from_": "gated", "options": {"by": "difference"}}, "detects a gate for forget rows"),
        Property("finds_nothing", {}, "a retrained model has nothing to recover"),
        Property("finds_nothing", {"options": {"by": "difference"}}, "nor a gate"),
    )

    @property
    def splits_entities(self) -> bool:
        return bool(self.spec.by == "difference")

    @property
    def model_needs(self) -> frozenset[ModelNeed]:
        """Inputs of the matrices are taken where answer tokens are predicted."""
        return self.card.model_needs | ({"sequence"} if self.spec.by == "difference" else frozenset())

    @property
    def share(self) -> float:
        default = 0.3 if self.spec.by == "magnitude" else 0.01
        return default if self.spec.share is None else float(self.spec.share)

    def problem(self, context: AttackContext) -> str | None:
        if self.splits_entities and not all(self._sides(context)):
            return f"prune(by='difference') needs {context.split} rows on two entities, and {self.spec.elsewhere} rows"
        return None

    def cost(self, context: AttackContext) -> str:
        passes = f", after a pass over {sum(map(len, self._sides(context)))} rows" if self.splits_entities else ""
        return f"{self.share:.1%} of the weights at most{passes}"

    def _sides(self, context: AttackContext) -> tuple[list[Example], list[Example]]:
        """Rows whose importances are compared: the half the attacker holds, and others."""
        def drawn(rows: Sequence[Example], side: str) -> list[Example]:
            return stream(context.seed, "prune", side).sample(list(rows), min(self.spec.rows, len(rows)))
        return drawn(context.learned, "forget"), drawn(context.task.split(self.spec.elsewhere), "elsewhere")

    def run(self, subject: Subject, context: AttackContext, ask: Ask) -> None:
        rows = context.tested if self.splits_entities else context.rows
        if self.share == 0:
            return ask(View(self.text(), subject, rows))
        copy = merged_clone(subject)
        targets = [m for m in matrices(copy) if m.module is not None or not self.splits_entities]
        norms = [input_norms(copy, targets, side) for side in self._sides(context)] if self.splits_entities else []
        indices = range(len(targets))
        for part in [indices] if self.spec.scope == "model" else [[i] for i in indices]:
            sizes = [targets[i].rows.float().abs().contiguous() for i in part]
            if self.splits_entities:
                forget, other = ([size * norm[i] for i, size in zip(part, sizes, strict=True)] for norm in norms)
                masks = set_difference(forget, other, self.share, self.spec.spare)
            else:
                masks = smallest(sizes, self.share)
            for i, pruned in zip(part, masks, strict=True):
                targets[i].write(targets[i].rows.masked_fill(pruned, 0.0))
        ask(View(self.text(), copy, rows))
