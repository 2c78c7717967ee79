"""Low-rank adapters: the base does not change, and with adapters switched off it is the original."""

from __future__ import annotations

from pydantic import Field

from expunge import plugin
from expunge.methods.base import Rows, ScopePlugin
from expunge.models.adapter import add_adapter
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.plugin import Card, Property


class LoRA(ScopePlugin):
    """Train PEFT LoRA adapters; the reference model then needs no extra memory."""

    class Spec(plugin.Spec):
        rank: int = Field(8, ge=1, description="Rank of each adapter.")
        alpha: float | None = Field(None, gt=0, description="Scaling numerator; twice the rank if left out.")
        targets: str | list[str] = Field("all-linear", description=(
            'Names of modules, or of matrices without a layer of their own such as "experts.gate_up_proj" or "router"; '
            '"all-linear": the linear layers of the decoder blocks and stacks of experts.'))
        dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
        seed: int = Field(0, description="Seed of the initial matrix A.")

    card = Card(
        name="lora", kind="scope",
        model_needs=frozenset({"weights"}),
        summary="low-rank adapters; the original stays in memory once",
        paper="Hu et al. 2021 (arXiv 2106.09685)",
        formula="W + (alpha / rank) * B A, B = 0 at the start",
        defaults="rank 8, alpha 16 (twice the rank), every linear layer of the decoder blocks, stacked experts too",
        deviations=("not on the head, a vision tower or routers (name these with targets=); of a Mamba mixer on "
                    "in_proj alone, since its kernels read the other weights past an adapter",),
    )
    adapter = True
    must_show = (
        Property("scope_keeps_bits", {}, "the base keeps its bits"),
        Property("merged_equals_unmerged", {}, "merging the adapter changes no output"),
    )

    def apply(self, subject: Subject, rows: Rows | None = None) -> Scope:
        return add_adapter(subject, **self.spec.model_dump())
