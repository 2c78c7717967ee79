"""Skip one decoder block, which undoes suppression located in a single block."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.attacks._lib.hooks import rewritten
from expunge.attacks.base import AND_RETAIN, Ask, Attack, AttackCard, AttackContext, View
from expunge.errors import UsageError
from expunge.models.language import CausalLM
from expunge.models.slots import block_number
from expunge.plugin import Property


class LayerSkip(Attack):
    """Observe the model without one of its blocks, for each block in turn."""

    class Spec(plugin.Spec):
        blocks: list[int] | Literal["none"] = Field([], description=(
            "Blocks to skip, one at a time, each a separate attack; negative counts from the end. Empty: each block of "
            "the model in turn, as attempts of one attack. none: no block is skipped"))

    card = AttackCard(
        name="layer_skip", kind="attack", access="weights", asks=AND_RETAIN,
        family="internals", model_needs=frozenset({"hidden", "weights"}),
        summary="skip one decoder block at a time",
        paper="No single source; pruning as tampering: Che et al. 2025 (arXiv 2502.05209)",
        formula="block_l(h) = h for one l",
        defaults="every block in turn",
        deviations=("the block still runs and fills its cache, but its output is not used",
                    "blocks of an unknown model cannot be named beforehand, so with blocks=[] they are attempts of one "
                    "attack: the best block per row counts, on the control too",
                    "in the tests it undoes suppression by one block (0.08 to 0.93); little of what training spread "
                    "over all blocks comes back (refusal 0.28 to 0.40, npo 0.03 to 0.07)"),
        caution="The best of several blocks is a search: each named block has its own label, and a worst case over "
                "labels must be corrected for their number.",
    )
    must_show = (
        Property("keeps_the_contract", {"options": {"blocks": [0, -1]}}, "only a hook"),
        Property("leaves_no_trace", {"options": {"blocks": "none"}}, "no block is skipped"),
        Property("equals_deletion", {}, "equals a model built without the block"),
        Property("recovers", {"from_": "one block holds it down", "options": {"blocks": [-1]}}, "and that block is "
                                                                                                "skipped"),
        Property("brings_back", {"from_": "one block holds it down", "by": 0.5}, "whichever block it is"),
        Property("finds_nothing", {}, "a retrained model knows no more without a block"),
    )

    @property
    def _chosen(self) -> list[int]:
        return [] if self.spec.blocks == "none" else list(dict.fromkeys(self.spec.blocks))

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(type(self)(blocks=[b]).text() for b in self._chosen) or (self.text(),)

    def cost(self, context: AttackContext) -> str:
        return f"{len(self._chosen) or 'as many'} passes" + ("" if self._chosen else " as the model has blocks")

    def run(self, subject: CausalLM, context: AttackContext, ask: Ask) -> None:
        if self.spec.blocks == "none":
            return ask(View(self.text(), subject, context.rows))
        every = self._chosen or range(len(subject.blocks))
        numbers = [block_number(subject, block) for block in every]  # raises for a wrong one before any pass
        if len(set(numbers)) < len(numbers):
            raise UsageError(f"{self.text()} names one block twice.", f"The model has {len(subject.blocks)} of them.")
        tick = context.announce("skip a block", len(every))
        for i, block in enumerate(every):
            label, attempt = (self.labels[i], 0) if self._chosen else (self.text(), i)
            with rewritten(subject, {block: _skip}):
                ask(View(label, subject, context.rows, attempt))
            tick(1)


def _skip(given: Any, output_BTD: Tensor) -> Tensor:
    input_BTD: Tensor = given
    return input_BTD
