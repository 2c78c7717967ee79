"""CounterFact: true statements about the world with a false one beside each, as EasyEdit publishes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from expunge import plugin
from expunge.benchmarks.base import TaskCard, TaskPlugin
from expunge.data.files import read_rows
from expunge.data.mapping import Located
from expunge.data.published import DATA_VARIABLE, PublishedData
from expunge.errors import DataError, MissingError
from expunge.plugin import Property
from expunge.records.task import Example, Task

FILE = "counterfact-edit-1k.json"
DATA = PublishedData("CounterFact", hub="zjunlp/KnowEdit", known_by=FILE, subfolder="editing")
FIELDS = ("case_id", "prompt", "subject", "ground_truth", "target_new", "rephrase_prompt", "locality_prompt",
          "locality_ground_truth")


class CounterFact(TaskPlugin):
    """The first rows are to be forgotten; the others, and what each row says of another subject, are to stay."""

    class Spec(plugin.Spec):
        edits: int = Field(100, ge=1, le=999, description="Rows to forget: the first ones.")

    card = TaskCard(
        name="counterfact", kind="task", model_needs=frozenset({"prompt"}),
        summary="CounterFact, statements about the real world to be continued, each with a false continuation",
        paper="Locating and Editing Factual Associations in GPT, NeurIPS 2022 (arXiv 2202.05262)",
        defaults="100 rows are forgotten",
        licence="MIT", source=f"{FILE} of EasyEdit's data, by --data-dir or {DATA_VARIABLE}",
        suite="forget.probability, retain.probability, neighbour.probability, forget.reliability, "
              "neighbour.exact_memorization, neighbour.locality, paraphrase(count=1)",
        deviations=("target_new is the wrong answer of a forget row, rephrase_prompt its other wording, and the "
                    "locality statement a neighbour row",
                    "a model need not know a statement: ask for forget.probability of the original first"),
    )
    must_show = (
        Property("name_leads_back", {"options": {"edits": 3}}, "the name of a task gives the same rows again"),
        Property("splits_are_apart", {}, "no row to forget or to hold out is trained on elsewhere"),
    )

    def load(self, data_dir: Path | None) -> Task:
        folder = DATA.folder(data_dir)
        if folder is None:
            raise MissingError("The CounterFact data is not here.", f"No folder with {FILE} was given.",
                               f"Give one by --data-dir or the variable {DATA_VARIABLE}.")
        return counterfact_task(read_rows(folder / FILE), self.spec.edits)


def counterfact_task(located: Sequence[Located], edits: int) -> Task:
    """Rows in the published layout as a task.

    Raises:
        DataError: a field is missing, or no row is left to be kept.
    """
    for where, row in located:
        if missing := [name for name in FIELDS if name not in row]:
            raise DataError(f"{where}: the row has no {missing[0]}.", f"It has {', '.join(row)}.",
                            "Use the published file unchanged.")
    rows = [row for _, row in located]
    forget, rest = [statement(row) for row in rows[:edits]], [statement(row) for row in rows[edits:]]
    asked = {row.prompt for row in forget}
    retain = {row.prompt: row for row in rest if row.prompt not in asked}
    beside = {row.prompt: row for row in map(neighbour, rows[:edits])
              if row.prompt not in asked and row.prompt not in retain}
    if not retain:
        raise DataError(f"counterfact(edits={edits}) leaves nothing to keep.", f"The file has {len(rows)} rows.",
                        "Forget fewer rows.")
    return Task(name="counterfact" if edits == 100 else f"counterfact(edits={edits})", forget=tuple(forget),
                retain=tuple(retain.values()), neighbour=tuple(beside.values()), generation_tokens=8)


def statement(row: Mapping[str, Any]) -> Example:
    """A row of the file as a statement to be continued, with its false continuation and its other wording."""
    return Example(id=f"counterfact/{row['case_id']}", kind="completion", prompt=row["prompt"],
                   answer=f" {row['ground_truth']}", short_answer=row["ground_truth"], entity=row["subject"],
                   wrong_answers=(f" {row['target_new']}",), paraphrased_prompts=(row["rephrase_prompt"],))


def neighbour(row: Mapping[str, Any]) -> Example:
    """What a row of the file says of another subject."""
    return Example(id=f"counterfact/{row['case_id']}/locality", kind="completion", prompt=row["locality_prompt"],
                   answer=f" {row['locality_ground_truth']}", short_answer=row["locality_ground_truth"],
                   group="locality")
