"""A little fine-tuning: what comes back quickly was never gone."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt

from expunge import plugin
from expunge.attacks.base import AND_RETAIN, Ask, AttackCard, AttackContext, Curve, View
from expunge.models.adapter import add_adapter
from expunge.models.load import float32_master
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.plugin import Property
from expunge.records.task import Example
from expunge.training.plain import Plain, train_plainly

PUBLISHED_WIDTH = 2048
"""Hidden size of the models whose learning rates are the defaults (Phi-1.5, Llama-3.2-1B)."""


def default_rate(width: int, rank: int) -> float:
    """2e-4 with an adapter (Hu et al.), 2e-5 without (OpenUnlearning), scaled by 1 / width as Adam's rate is."""
    return (2e-4 if rank else 2e-5) * PUBLISHED_WIDTH / width


class Relearn(Curve):
    """Fine-tune a copy of the subject and ask it again, along the way too."""

    class Spec(plugin.Spec):
        on: Literal["half", "forget", "related", "unrelated"] = Field("half", description=(
            "half: rows of half the forget entities, asked about the other half; forget: all forget rows, so that "
            "only the speed beside the control counts; related: retain rows; unrelated: utility rows"))
        steps: int = Field(48, ge=0, description="Optimizer steps; 0 does nothing.")
        at: list[NonNegativeInt] = Field([], description="Earlier steps at which to ask as well, for a curve.")
        rank: int = Field(16, ge=0, description="Rank of the LoRA adapter; 0 trains all weights.")
        lr: float | None = Field(None, gt=0, description="Learning rate; by the width of the model when left out.")
        batch_size: int = Field(8, ge=1, description="Rows per step.")

    card = AttackCard(
        name="relearn", kind="attack", access="weights", asks=AND_RETAIN,
        family="relearning", model_needs=frozenset({"logp", "weights"}),
        summary="fine-tune on part of the forget set, on related or on unrelated text",
        paper="Hu et al. 2024 (arXiv 2406.13356); Deeb & Roger 2024 (arXiv 2410.08827) for disjoint halves; "
              "Lucki et al. 2024 (arXiv 2409.18025) for related and unrelated text",
        formula="theta <- AdamW on -log p(answer | question), then ask",
        defaults="Hu et al.: batch 8, weight decay 0.01, 15 to 60 steps, LoRA at 2e-4; full at 2e-5 (OpenUnlearning); "
                 "rank 16 with alpha 32 (Che et al., arXiv 2502.05209); rates are for width 2048 and scale by 1/width",
        deviations=("the rate is constant, so that the points of a curve are exactly the shorter attacks",
                    "one learning rate rather than the worst of a grid"),
        caution="Trained on forget rows themselves, any model learns them: only the lead over the control counts.",
    )
    must_show = (
        Property("keeps_the_contract", {"options": {"steps": 4, "at": [2]}}, "a copy is trained, never the subject"),
        Property("leaves_no_trace", {"options": {"steps": 0}}, "no step, no change"),
        Property("points_are_shorter_attacks", {"steps": 6, "at": 3}, "a curve in one run"),
        Property("recovers", {"from_": "suppressed", "options": {"steps": 24}}, "a suppressed model comes back"),
        Property("finds_nothing", {"options": {"steps": 24}}, "a retrained model does not"),
    )

    @property
    def splits_entities(self) -> bool:
        return bool(self.spec.on == "half")

    def problem(self, context: AttackContext) -> str | None:
        if self.spec.steps and not self._rows(context):
            return f"there are no rows for relearn(on={self.spec.on}) to attack the {context.split} rows"
        return None

    def cost(self, context: AttackContext) -> str:
        return f"{self.spec.steps} steps of {self.spec.batch_size} on {len(self._rows(context))} rows"

    def _rows(self, context: AttackContext) -> list[Example]:
        task = context.task
        return {"half": context.learned, "forget": list(task.probe_rows(context.split)),
                "related": list(task.retain or task.neighbour), "unrelated": list(task.utility)}[self.spec.on]

    def run(self, subject: Subject, context: AttackContext, ask: Ask) -> None:
        spec, rows = self.spec, context.tested if self.splits_entities else context.rows
        if 0 in self.points:
            ask(View(self.label(0), subject, rows))
        if not spec.steps:
            return
        copy = subject.clone()
        if spec.rank:
            scope = add_adapter(copy, rank=spec.rank, seed=context.seed)
        else:
            float32_master(copy)
            scope = Scope(copy, tuple(n for n, _ in copy.model.named_parameters()))
        rate = spec.lr or default_rate(subject.width, spec.rank)
        tick = context.announce(f"relearn on {spec.on}", spec.steps)

        def told(step: int) -> None:
            tick(1)
            if step in self.points:
                ask(View(self.label(step), copy, rows))

        train_plainly(copy, scope, self._rows(context), Plain(rate), steps=spec.steps, batch_size=spec.batch_size,
                      seed=context.seed, on_step=told)
