"""CIR: MLP outputs on forget text lose what they had in common with the original's."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from expunge.data.encoder import Batch
from expunge.data.text_encoder import TokenBatch
from expunge.errors import ExpungeError
from expunge.methods.base import Objective, WeightedSpec
from expunge.methods.run_context import RunContext
from expunge.models.language import CausalLM
from expunge.models.sites import Site
from expunge.plugin import Card, Property
from expunge.records.task import Task
from expunge.training.step import Step, Term


def agreement(output_BTD: Tensor, original_BTD: Tensor, length: float) -> Tensor:
    """max(<o, o0>, 0) / length^2 of every position, shape B T: 1 for an output of mean length that did not change.

    In float32 at least: sums of many products lose their last digits in half precision.
    """
    wide = torch.promote_types(output_BTD.dtype, torch.float32)
    return (output_BTD.to(wide) * original_BTD.to(wide)).sum(-1).clamp_min(0) / length ** 2


def after_first(batch: Batch) -> int:
    """Real tokens but the first of each row."""
    return int(batch.count("positions")) - len(batch.rows)


class CIR(Objective):
    """Push the outputs of the middle MLPs away from their old direction, never beyond orthogonal."""

    builds = True

    class Spec(WeightedSpec):
        layers: list[int] | None = Field(None, min_length=1, description=(
            "Blocks whose MLP output is broken; by default from 6/16 to 12/16 of the depth."))
        inputs: int = Field(24, ge=0, description="Directions taken out of the inputs of matrices, by project_shared.")
        gradients: int = Field(36, ge=0, description="The same of the gradients by their outputs.")
        every: int = Field(8, ge=1, description="Steps from which project_shared finds the directions; those of an "
                                                "epoch as published.")
        retain: float = Field(1.5e-3, ge=0, description="Weight of activation_match, which keeps the states of retain "
                                                        "rows: the retain rate over the forget rate.")

    card = Card(
        name="cir", kind="objective", target="capability",
        summary="break MLP outputs on forget text along directions that other tokens do not share",
        paper="Collapse of Irrelevant Representations (CIR, arXiv 2509.11816)",
        formula="L = mean_l mean_t max(<o_lt, o0_lt>, 0) / (mean_t ||o0_lt||)^2, o the output of an MLP",
        defaults="Llama-3.2-1B: MLPs of blocks 6 to 11 of 16, 24 and 36 directions, forget rate 0.2 on a gradient of "
                 "norm 1, retain rate 3e-4 on the states after block 11, until the loss on WikiText passes 1.001 times "
                 "its start",
        needs=frozenset({"retain", "reference.hidden"}),
        model_needs=frozenset({"hidden", "weights"}),
        companions="activation_match + layers(MLPs up to the last block) + project_shared + sgd(lr=0.2)",
        deviations=("the mean length is that over all forget rows, not over a batch: no row depends on others",
                    "forget and retain parts move the weights in one step; the authors take two",
                    "their stop by the loss on WikiText is not offered: see --stop-at-floor"),
    )
    space = {"inputs": ("choice", 1, 8, 24), "gradients": ("choice", 1, 12, 36)}
    must_show = (
        Property("stops_at_orthogonal", {}, "no pull on outputs that point away, and 1 at the start for a mean length"),
        Property("leaves_no_mark", {}, "lengths are measured before the first step; nothing changes"),
        Property("retain_term_starts_at_zero", {}, "its value is 0 before the first step"),
        Property("forgets", {"options": {"inputs": 4, "gradients": 4, "every": 2, "retain": 0.05}, "lr": 0.1,
                             "steps": 50, "retain_rise": 1.0}, "forget answers are lost before retain answers"),
    )

    @property
    def asks(self) -> tuple[str, ...]:
        return ("forget",)

    def blocks(self, depth: int) -> list[int]:
        """The blocks whose MLPs are broken, in a model of `depth` blocks."""
        first = min(round(6 * depth / 16), depth - 1)
        return self.spec.layers or list(range(first, max(round(12 * depth / 16), first + 1)))

    def companions(self, depth: int) -> str:
        spec, last = self.spec, max(self.blocks(depth))
        return (f"activation_match(layer={last}, distance='length', weight={spec.retain!r}) + "
                f"layers(index='0-{last}', modules='mlp') + project_shared(inputs={spec.inputs}, "
                f"gradients={spec.gradients}, every={spec.every}) + sgd(lr=0.2, warmup=0.0, schedule='constant')")

    def prepare(self, subject: CausalLM, task: Task, run: RunContext) -> dict[str, Any]:
        sites = [Site(block, "mlp") for block in self.blocks(len(subject.blocks))]
        rows = [subject.encoder.encode(example) for example in task.forget]
        total_L, count = torch.zeros(len(sites), dtype=torch.float64), 0
        with subject.evaluating():
            for part in subject.encoder.batches(rows):
                batch = subject.collate([rows[i] for i in part])
                kept_BT = _after_first(batch)
                total_L += torch.stack([out_BTD[kept_BT].double().norm(dim=-1).sum().cpu()
                                        for out_BTD in subject.at(batch, sites)])
                count += after_first(batch)
        return {"lengths": (total_L / max(count, 1)).tolist()}

    def terms(self, step: Step) -> dict[str, Term]:
        lengths = getattr(self, "made", {}).get("lengths")
        if not lengths:
            raise ExpungeError("cir has no lengths of outputs.", "They are measured before the first step.")
        batch = step.batches["forget"]
        sites = [Site(block, "mlp") for block in self.blocks(len(step.subject.blocks))]
        pairs = zip(step.at("forget", sites), step.reference.at(batch, sites), lengths, strict=True)
        kept_BT = _after_first(batch)
        parts = [(agreement(now_BTD, before_BTD, length) * kept_BT).sum(-1) for now_BTD, before_BTD, length in pairs]
        return {"cir": Term(torch.stack(parts).mean(0), after_first, "forget")}


def _after_first(batch: TokenBatch) -> Tensor:
    kept_BT = batch.attention_BT.bool()
    kept_BT[:, 0] = False
    return kept_BT
