"""The built-in world of invented people. A model knows only what it was trained on about them."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from expunge import plugin
from expunge.benchmarks.base import TaskCard, TaskPlugin
from expunge.data.world import DEFAULTS, authors_task
from expunge.plugin import Property
from expunge.records.task import Task


class Authors(TaskPlugin):
    """Forget, retain and holdout people are drawn alike, ten rows each; see `data.world`."""

    class Spec(plugin.Spec):
        forget: int = Field(DEFAULTS["forget"], description="People to forget, ten rows each.")
        retain: int = Field(DEFAULTS["retain"], description="People to keep.")
        holdout: int = Field(DEFAULTS["holdout"], description="People that no model is trained on.")
        neighbours: int = Field(DEFAULTS["neighbours"], description="People who share facts with those to forget; both "
                                                                    "twins are trained on them, unlearning is not.")
        seed: int = Field(DEFAULTS["seed"], description="Of the generator: a size and a seed name the same rows.")

    card = TaskCard(
        name="authors", kind="task", target="entity", model_needs=frozenset({"prompt"}),
        summary="the built-in world of invented people; nothing is downloaded",
        paper="ours, in the manner of TOFU, Maini et al. 2024 (arXiv 2401.06121)",
        defaults="sizes at which a tiny model is trained, unlearned and audited in a minute or two",
        licence="as expunge itself", source="drawn by `data/world.py` from a seed",
        deviations=("people are drawn from pools of names and facts; no language model wrote any of it",),
    )
    must_show = (
        Property("name_leads_back", {"options": {"forget": 2, "retain": 3, "holdout": 2, "neighbours": 1, "seed": 1}},
                 "the name of a task gives the same rows again"),
        Property("splits_are_apart", {}, "no row to forget or to hold out is trained on elsewhere"),
    )

    def load(self, data_dir: Path | None) -> Task:
        return authors_task(**self.spec.model_dump())
