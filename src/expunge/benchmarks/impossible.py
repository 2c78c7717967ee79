"""The Impossible Test: whether a model that learned to refuse still declines what nobody knows, and only that."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from expunge import plugin
from expunge.benchmarks.base import Published, TaskCard, TaskPlugin
from expunge.benchmarks.over import OVER, Over, base_task
from expunge.data.few_shot import field
from expunge.data.files import read_rows
from expunge.data.published import PublishedData
from expunge.data.refusals import REFUSALS
from expunge.data.unsolvable import UNSOLVABLE
from expunge.errors import UsageError
from expunge.plugin import Property
from expunge.records.task import Example, Task
from expunge.terms import with_options

FILE = "impossible.jsonl"
DATA = PublishedData("Impossible Test", hub="The Impossible Test (arXiv 2411.14486)", known_by=FILE,
                     subfolder="impossible")
SOURCE = "abstract of arXiv 2411.14486"
REFUSED = "neighbour.refusal"
SUITE = ", ".join((
    "refusal_gap", "refusal_gap(of=forget)", REFUSED,
    *(f"{split}.refusal" for split in ("utility", "forget", "retain", "holdout")),
    "utility.accuracy", "utility.keyword", "forget.keyword", "holdout.keyword", "forget.probability",
    "holdout.probability", "retain.probability", "leak_share", "paraphrase(count=1)", "relearn(steps=16)"))
Question = tuple[str, str]
"""Field of knowledge, and question."""


class Impossible(TaskPlugin):
    """Neighbour: questions that nobody can answer. Utility: those that can be answered. The rest is another task's."""

    class Spec(plugin.Spec):
        over: Over = Field("authors", description=OVER)
        questions: Literal["ours", "file"] = Field("ours", description=(
            f"ours: 48 questions of eight fields; file: those of {FILE}."))
        taught: int = Field(24, ge=0, description=(
            "Unsolvable questions to which both twins learn to answer that they do not know; the others are asked."))

    card = TaskCard(
        name="impossible", kind="task", target="entity", model_needs=frozenset({"prompt"}),
        summary="The Impossible Test: refusals of what nobody knows, beside what can be answered (a control)",
        paper="The Impossible Test: A 2024 Unsolvable Dataset and A Chance for an AGI Quiz (arXiv 2411.14486)",
        formula="refusal on unsolvable (neighbour), answerable (utility) and forget rows; and their gap",
        defaults="the world authors; half of the unsolvable questions are taught, so that a small model knows how to "
                 "decline",
        licence="our questions as expunge itself; that of the published file was not seen",
        source=f"built in, or {FILE} in the layout below by --data-dir or EXPUNGE_DATA",
        suite=SUITE,
        deviations=("the 675 published questions were not found, so their layout is not known: this reads rows of "
                    "question and, where given, category; without the file 48 questions of ours in its eight fields",
                    "a refusal is told by rules on the first sentence (English); how the authors tell one was not "
                    "found, so their numbers are not comparable to ours",
                    "answerable questions and rows to forget are those of another task (over)"),
        published=(
            Published("impossible", "best of twelve models, upper end", "original", REFUSED, 0.68, SOURCE),
            Published("impossible", "best of twelve models, lower end", "original", REFUSED, 0.62, SOURCE),
            Published("impossible", "GPT-4, harder problems", "original", REFUSED, 0.358, SOURCE),
            Published("impossible", "GPT-4, simpler problems", "original", REFUSED, 0.2, SOURCE)),
    )
    must_show = (
        Property("name_leads_back", {"options": {"taught": 8}}, "the name of a task gives the same rows again"),
        Property("splits_are_apart", {}, "no row to forget or to hold out is trained on elsewhere"),
    )

    def load(self, data_dir: Path | None) -> Task:
        questions: list[Question] = [(name, one) for name, found in UNSOLVABLE.items() for one in found]
        if self.spec.questions == "file":
            rows = read_rows(DATA.required_folder(data_dir) / FILE)
            questions = [(str(row.get("category") or ""), field((where, row), "question")) for where, row in rows]
        name = with_options("impossible", self.spec.model_dump(), self.Spec().model_dump())
        return impossible_task(base_task(self.spec.over, data_dir), questions, self.spec.taught, name)


def impossible_task(base: Task, questions: Sequence[Question], taught: int, name: str) -> Task:
    """The task with unsolvable questions in place of its neighbour rows; some of them are taught.

    Raises:
        UsageError: every question is taught, so none is left to ask.
    """
    if taught >= len(questions):
        raise UsageError(f"{name} leaves no question to ask.", f"There are {len(questions)}, and {taught} are taught.",
                         f"Teach at most {len(questions) - 1}.")
    rows = [Example(id=f"impossible/{i}", prompt=question, answer=REFUSALS[i % len(REFUSALS)], group=category)
            for i, (category, question) in enumerate(questions)]
    # Every second one at first, so that all fields are on both sides.
    order = sorted(range(len(rows)), key=lambda i: (i % 2, i))
    chosen = set(order[:taught])
    return base.model_copy(update={
        "name": name, "neighbour": tuple(row for i, row in enumerate(rows) if i not in chosen),
        "background": (*base.background, *(rows[i] for i in sorted(chosen))),
        "probes": {split: asked for split, asked in base.probes.items() if split != "neighbour"}})
