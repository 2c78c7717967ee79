"""BLUR on TOFU: forget and retain questions in one prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from expunge import plugin
from expunge.benchmarks.base import TaskCard, TaskPlugin
from expunge.benchmarks.tofu import tofu_task
from expunge.data.tasks import with_changes
from expunge.plugin import Property
from expunge.records.task import Example, Split, Task

SIDES: tuple[Split, ...] = ("forget", "retain")
ORDERS = ("forget_first", "retain_first")
GROUPS = tuple(f"combined_{order}" for order in ORDERS)
SPLIT_SCORES = tuple(f"{split}.rouge_l(group={group})" for group in ("single", *GROUPS)
                     for split in ("forget", "retain"))


class BlurBench(TaskPlugin):
    """TOFU's rows, and prompts that ask one row of each side; each side is scored on the one answer by itself."""

    class Spec(plugin.Spec):
        base: Literal["tofu"] = Field("tofu", description=(
            "The benchmark that is made harder; also written blur_bench:tofu."))
        forget: Literal["forget01", "forget05", "forget10"] = Field("forget10", description=(
            "How many per cent of TOFU's authors are to be forgotten."))

    card = TaskCard(
        name="blur_bench", kind="task", target="entity", model_needs=frozenset({"prompt"}),
        summary="BLUR on TOFU: one prompt asks what is to be forgotten and what is to stay (blur_bench:tofu)",
        paper="BLUR: A Benchmark for LLM Unlearning Robust to Forget-Retain Overlap (arXiv 2506.15699)",
        defaults="forget10; 200 new tokens",
        licence="MIT (TOFU)", source="made of the files of TOFU, see the task tofu",
        suite=", ".join((*SPLIT_SCORES, "relearn(on=related, steps=16)", "relearn(on=unrelated, steps=16)")),
        deviations=("Of the three kinds of combined prompts this is concatenation; inserted keywords and overlap in "
                    "meaning need the published queries, forgelab/BLUR, whose fields are not documented.",
                    "Forget rows meet rows that TOFU asks of the retain set, spread over its authors; in both orders.",
                    "The reference is TOFU's answer; a card says that of the original model is meant.",
                    "The name blur belongs to a combiner, so the task is called blur_bench.",
                    "Relearning on related and unrelated rows takes the place of its sets D_hi and D_lo."),
    )
    part = "base"
    must_show = (
        Property("name_leads_back", {"options": {"forget": "forget01"}}, "the name of a task gives its rows again"),
        Property("splits_are_apart", {"own_questions": True},
                 "no row to forget or to hold out is trained on elsewhere"),
    )

    def load(self, data_dir: Path | None) -> Task:
        part = self.spec.forget
        name = "blur_bench:tofu" + (f"(forget={part})" if part != "forget10" else "")
        return combined_task(tofu_task(part, data_dir), name)


def combined_task(task: Task, name: str) -> Task:
    """The task with combined prompts among what an audit asks of both sides."""
    sides = {side: [with_changes(row, group="single") for row in task.probe_rows(side)] for side in SIDES}
    made: dict[str, list[Example]] = {side: list(rows) for side, rows in sides.items()}
    step = max(len(sides["retain"]) // len(sides["forget"]), 1)  # retain rows of all authors, not of the first few
    for order in ORDERS:
        for i, pair in enumerate(zip(sides["forget"], sides["retain"][::step], strict=False)):
            turns = pair if order == "forget_first" else pair[::-1]
            for side, row in zip(SIDES, pair, strict=True):
                made[side].append(Example(
                    id=f"blur/{side}/{order}/{i}", prompt=" ".join(one.prompt for one in turns), answer=row.answer,
                    entity=row.entity, group=f"combined_{order}"))
    return task.model_copy(update={"name": name, "probes": {**task.probes, **{s: tuple(r) for s, r in made.items()}}})
