"""Quantisation: rounding may undo a small change that unlearning made."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor

from expunge import plugin
from expunge.attacks._lib.matrices import matrices, merged_clone
from expunge.attacks._lib.rounding import NF4_BLOCK, default_group, nf4, round_to_nearest, torchao_rounded
from expunge.attacks.base import AND_RETAIN, Ask, Attack, AttackCard, AttackContext, View
from expunge.models.subject import Subject
from expunge.plugin import Property

TORCHAO = (2, 3, 4, 8)
"""Bit widths of torchao's integers."""
FULL = 16
"""From this number of bits on weights are not rounded."""


class Quantise(Attack):
    """Round the matrices of a copy's decoder blocks and observe it."""

    class Spec(plugin.Spec):
        bits: int = Field(4, ge=2, le=32, description="Bits per weight; 16 and more change nothing.")
        form: Literal["int", "nf4"] = Field("int", description="int: even steps; nf4: 16 normal quantiles, 4 bits.")
        group: int | None = Field(None, ge=0, description=(
            "Weights of a row that share a scale, 0 for the whole row. Default: the row from 8 bits on, 128 below, "
            "blocks of 64 of the flat matrix with nf4"))
        adapter: Literal["rounded", "merged", "kept"] = Field("rounded", description=(
            "A PEFT adapter: rounded: its matrices too, separately; merged: added to the weights, then rounded; "
            "kept: only the base is rounded"))
        backend: Literal["own", "torchao"] = Field("own", description="torchao must be installed, and rounds to "
                                                                      "8, 4, 3 or 2 bits.")

        @model_validator(mode="after")
        def _fits(self) -> Quantise.Spec:
            if self.form == "nf4" and (self.bits not in (4, *range(FULL, 33)) or self.backend != "own"):
                raise ValueError("nf4 has 4 bits and is rounded by backend own")
            if self.backend == "torchao" and self.bits not in (*TORCHAO, *range(FULL, 33)):
                raise ValueError(f"torchao rounds to {', '.join(map(str, TORCHAO))} bits")
            return self

    card = AttackCard(
        name="quantise", kind="attack", access="weights", asks=AND_RETAIN,
        family="quantisation", model_needs=frozenset({"weights"}),
        summary="round the weights to 8, 4 or fewer bits",
        paper="Zhang et al. 2024 (arXiv 2410.16454); DurableUn (arXiv 2605.02196) for adapters; "
              "QLoRA (arXiv 2305.14314) for nf4",
        formula="w <- s round(w / s), s = max|w| / (2^(bits-1) - 1) per group",
        defaults="4 bits in groups of 128; 8 bits per output row; nf4 in blocks of 64",
        deviations=(
            "round-to-nearest only: GPTQ and AWQ need calibration text and special kernels",
            "only matrices in decoder blocks are rounded, stacked experts too; embeddings, norms, biases, the output "
            "head and adapters of guards outside the blocks are not rounded, as in loaders",
            "weights are dequantised to their original dtype; nf4 scales are not quantised again",
            "DurableUn's simulator rounds byte codes of a 4-bit base and 8 bits with one scale per tensor, which "
            "destroys any model; here a model must have floating-point weights",
            "equal codes alone do not recover knowledge: on the test bed, after 60 steps of npo at 1e-4, 90 % of the "
            "4-bit codes are the original's and probability stays 0.21; if the original's own weights lie on the "
            "grid, the same steps are undone (0.08 to 0.79)"),
        caution="Rounding damages every model a little: retain.probability shows how much, and only a rise above the "
                "equally rounded control is recovery. Models that were released in few bits are most exposed.",
    )
    must_show = (
        Property("keeps_the_contract", {"options": {"bits": 4}}, "a copy is rounded, never the subject"),
        Property("leaves_no_trace", {"options": {"bits": 32}}, "no rounding at full precision"),
        Property("leaves_no_trace", {"options": {"bits": 16, "form": "nf4"}}, "nor at 16 bits"),
        Property("rounds_by_hand", {}, "values computed by hand, for even steps, groups, padding and nf4"),
        Property("rounds_blocks_only", {}, "each matrix by output row, GPT-2 too; nothing else moves"),
        Property("identity_rises_as_lr_falls", {"rates": [1e-3, 3e-4, 1e-4]}, "the paper's test of its explanation"),
        Property("undoes_small_steps", {}, "4 bits move the loss back, 8 bits do not, a retrained model stays"),
        Property("rounds_adapters", {}, "rounded, merged and kept are three attacks"),
        Property("needs_torchao", {}, "without it a message; with it nearly the same values"),
        Property("recovers", {"from_": "on the grid"}, "small steps from weights on the grid are undone"),
        Property("finds_nothing", {}, "a retrained model has nothing to recover"),
        Property("finds_nothing", {"options": {"form": "nf4"}}, "nor with nf4"),
    )

    def cost(self, context: AttackContext) -> str:
        return f"all matrices of a copy rounded to {self.spec.bits} bits"

    def run(self, subject: Subject, context: AttackContext, ask: Ask) -> None:
        if self.spec.bits >= FULL:
            return ask(View(self.text(), subject, context.rows))
        copy = merged_clone(subject) if self.spec.adapter == "merged" else subject.clone()
        for matrix in matrices(copy):
            if not (matrix.adapter and self.spec.adapter == "kept"):
                matrix.write(self.rounded(matrix.rows))
        ask(View(self.text(), copy, context.rows))

    def rounded(self, weight_OI: Tensor) -> Tensor:
        """One matrix, rounded."""
        bits, group = self.spec.bits, self.spec.group
        if self.spec.form == "nf4":
            return nf4(weight_OI, NF4_BLOCK if group is None else group)
        rounding = torchao_rounded if self.spec.backend == "torchao" else round_to_nearest
        return rounding(weight_OI, bits, default_group(bits) if group is None else group)
