"""Keep the original's attention on the retain rows, with more of it on the words that carry content."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from expunge.methods._lib.attention_targets import Direction, map_divergence, marked, marks_of, shifted
from expunge.methods.base import Retain, WeightedSpec
from expunge.methods.run_context import RunContext
from expunge.models.language import CausalLM
from expunge.plugin import Card, Property
from expunge.records.task import Task
from expunge.training.step import Step, Term


class RetainAttention(Retain):
    """Learn the original's attention maps with the columns of content words raised."""

    class Spec(WeightedSpec):
        reinforce: float = Field(0.0, ge=0, description="Share that is added to the attention on content words, "
                                                        "before rows are scaled to sum to 1 (mu); 0 holds the maps.")
        kl: Direction = Field("forward", description="forward: KL(target || map); reverse: KL(map || target).")

    card = Card(
        name="retain_attention", kind="retain",
        summary="hold the original's attention maps on retain rows, or raise content words in them",
        paper="Wisdom is Knowing What not to Say: Attention Shifting (AS), NeurIPS 2025 (arXiv 2510.17210), its "
              "retain term",
        formula="R = mean_(l,h,i) KL(A'_i || A_i), A'_ij ~ A0_ij (1 + mu [j carries content])",
        defaults="mu 0 here, 0.5 beside attention_shift; both are ours",
        needs=frozenset({"retain", "reference.attention"}),
        model_needs=frozenset({"attention", "weights"}),
        memory="maps of all blocks and heads, twice, and for full weights a frozen copy of the model",
        deviations=("as attention_shift's",),
    )
    space = {"weight": ("log", 0.1, 10.0), "reinforce": ("uniform", 0.0, 2.0)}
    must_show = (
        Property("zero_at_start", {}, "value and gradient are zero while the model is its reference"),
        Property("leaves_first_update", {}, "its first gradient is 0: the first update is the objective's"),
        Property("never_negative", {}, "a divergence"),
    )

    @property
    def builds(self) -> bool:
        return True

    def prepare(self, subject: CausalLM, task: Task, run: RunContext) -> dict[str, Any]:
        return marks_of(subject, task.retain)

    def terms(self, step: Step) -> dict[str, Term]:
        batch = step.batches["retain"]
        marked_BT = marked(self.made, batch.rows, batch.ids_BT.shape[1], batch.device)
        targets = [shifted(one, marked_BT, self.spec.reinforce) for one in step.reference.attention(batch)]
        moved_B = map_divergence(targets, step.attention("retain"), self.spec.kl)
        return {"retain_attention": Term(moved_B, "positions", "retain")}
