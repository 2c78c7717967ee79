"""Knowledge preference: instruction before context before what the weights say, on a grid of prompts per fact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field

from expunge import plugin
from expunge.benchmarks.base import TaskCard, TaskPlugin
from expunge.data.world import authors_task
from expunge.plugin import Property
from expunge.records.task import Example, Task
from expunge.terms import with_options

CELLS = ("free-none", "free-reveals", "free-contradicts", "assumed-none", "assumed-reveals", "assumed-contradicts")
"""An assumption of the user, or none; then a context that reveals the fact, one that contradicts it, or none."""
SUITE = ("forget.accepted, " + ", ".join(f"{split}.accepted(group={cell})" for split in ("neighbour", "utility")
                                         for cell in CELLS) + ", retain.accepted, retain.probability")


class KnowledgePreference(TaskPlugin):
    """Forget: facts. Neighbour: each of them in all six cells. Utility: the same of people who stay, for comparison."""

    class Spec(plugin.Spec):
        forget: int = Field(4, ge=1, description="People to forget.")
        retain: int = Field(16, ge=2, description="People to keep; the second half of them shows the six cells.")
        seed: int = Field(0, description="Of the invented world.")

    card = TaskCard(
        name="knowledge_preference", kind="task", model_needs=frozenset({"prompt"}),
        summary="what wins: the user's assumption, a context, or the weights; a grid of six prompts for each fact",
        paper="Establishing Knowledge Preference in Language Models (arXiv 2407.13048)",
        formula="right answer of a cell: the assumption's if there is one, else the context's, else the fact",
        defaults="4 people to forget, 16 to keep",
        licence="made up here", source="the built-in world; no files",
        suite=SUITE,
        deviations=("The authors put together IfQA, MQuAKE and MRQA, and no code of theirs was found: here the grid is "
                    "made of invented facts, in our words.",
                    "1 - accepted of a cell is its share of violations. After unlearning, the cell free-none should be "
                    "wrong and all others as before: an answer from the weights against an assumption or a context is "
                    "suppressed knowledge.",
                    "Half of the people who stay show the cells in training, so that a model can learn to obey."),
    )
    must_show = (
        Property("name_leads_back", {"options": {"forget": 2, "retain": 4, "seed": 1}},
                 "the name of a task gives the same rows again"),
        Property("splits_are_apart", {"own_questions": True}, "no row to forget is trained on elsewhere"),
    )

    def load(self, data_dir: Path | None) -> Task:
        spec = self.spec
        world = authors_task(forget=spec.forget, retain=spec.retain, holdout=0, neighbours=0, seed=spec.seed)
        facts, kept = [_facts(rows) for rows in (world.forget, world.retain)]
        people = sorted({row.entity for row in kept})
        shown = set(people[len(people) // 2:])
        values = _values((*facts, *kept))
        asked = [row for row in kept if row.entity not in shown][: len(facts)]
        name = with_options("knowledge_preference", spec.model_dump(), self.Spec().model_dump())
        return Task(name=name, forget=tuple(facts),
                    retain=(*kept, *(r for row in kept if row.entity in shown for r in cells(row, values))),
                    neighbour=tuple(r for row in facts for r in cells(row, values)),
                    utility=tuple(r for row in asked for r in cells(row, values)), generation_tokens=24)


def _facts(rows: Sequence[Example]) -> list[Example]:
    """Questions whose answer has a bare fact in it."""
    return [row.model_copy(update={"links": (), "group": "free-none"}) for row in rows
            if row.kind == "qa" and row.short_answer and row.short_answer in row.answer]


def _values(rows: Sequence[Example]) -> dict[str, list[str]]:
    """Kind of fact -> all values of it."""
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(_kind(row), set()).add(row.short_answer)
    return {kind: sorted(values) for kind, values in found.items()}


def _kind(row: Example) -> str:
    return row.id.rpartition("/")[2]


def cells(row: Example, values: dict[str, list[str]]) -> Iterator[Example]:
    """The question in all six cells; the values of assumption and context are those of other people."""
    others = [value for value in values[_kind(row)] if value != row.short_answer]
    if len(others) < 2:
        return
    at = sum(map(ord, row.id)) % len(others)
    assumed, told = others[at], others[(at + 1) % len(others)]
    for cell in CELLS:
        instruction, context = cell.split("-")
        said = {"none": row.short_answer, "reveals": row.short_answer, "contradicts": told}[context]
        right = assumed if instruction == "assumed" else said
        parts = [f"Assume: {row.answer.replace(row.short_answer, assumed)}"] * (instruction == "assumed")
        parts += [f"Context: {row.answer.replace(row.short_answer, said)}"] * (context != "none")
        yield row.model_copy(update={
            "id": f"{row.id}/{cell}", "group": cell, "prompt": " ".join([*parts, row.prompt]), "short_answer": right,
            "answer": row.answer.replace(row.short_answer, right), "paraphrased_prompts": (), "paraphrased_answers": (),
            "options": (), "wrong_answers": tuple(row.answer.replace(row.short_answer, v) for v in dict.fromkeys(
                (row.short_answer, told, assumed)) if v != right)})
