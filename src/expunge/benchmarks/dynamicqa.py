"""DYNAMICQA: static, changing and disputed facts, each with a context that confirms it and one that contradicts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from expunge import plugin
from expunge.benchmarks.base import TaskCard, TaskPlugin
from expunge.data.few_shot import field
from expunge.data.files import read_rows
from expunge.data.mapping import Located
from expunge.data.published import PublishedData
from expunge.errors import DataError
from expunge.plugin import Property
from expunge.records.task import Example, Task
from expunge.terms import with_options

Part = Literal["static", "temporal", "disputable"]
DATA = PublishedData("DYNAMICQA", hub="github.com/copenlu/dynamicqa, folder Data", subfolder="dynamicqa",
                     known_by=("Static_final.csv", "Temporal_final.csv", "Disputable_final.csv"))
SLOT = "[ENTITY]"


class DynamicQA(TaskPlugin):
    """Forget: some questions. Neighbour: the same alone, after a context that confirms and one that contradicts."""

    class Spec(plugin.Spec):
        part: Part = Field("static", description="Kind of fact; also written dynamicqa:temporal.")
        every: int = Field(10, ge=2, description="One question of so many is to be forgotten.")

    card = TaskCard(
        name="dynamicqa", kind="task", model_needs=frozenset({"prompt"}),
        summary="DYNAMICQA, facts under contexts that contradict them: dynamicqa:static, :temporal, :disputable",
        paper="DYNAMICQA, Findings of EMNLP 2024 (arXiv 2407.17023)",
        defaults="static facts, every tenth of them to be forgotten: our choice",
        licence="none named; data of Wikidata and Wikipedia",
        source="the folder Data of github.com/copenlu/dynamicqa, by --data-dir or EXPUNGE_DATA: Static_final.csv, "
               "Temporal_final.csv and Disputable_final.csv",
        suite="forget.accepted, forget.probability, neighbour.persuasion(group=contradicts), "
              "neighbour.persuasion(group=confirms), neighbour.persuasion(read=stubborn), "
              "utility.persuasion(group=contradicts), utility.persuasion(read=stubborn), retain.accepted, "
              "retain.probability",
        deviations=("The benchmark asks models as they are; here a part of its questions is to be forgotten. A model "
                    "that then still holds to the old answer against a context has only suppressed it.",
                    "The coherent persuasion score is not here: it needs ten sampled answers and an entailment model.",
                    "Contexts come before the question in our words; the authors' instruction asks for one word.",
                    "Rows without another object are left out."),
    )
    part = "part"
    must_show = (
        Property("name_leads_back", {"options": {"part": "temporal", "every": 3}},
                 "the name of a task gives the same rows again"),
        Property("splits_are_apart", {"own_questions": True}, "no row to forget is trained on elsewhere"),
    )

    def load(self, data_dir: Path | None) -> Task:
        part, every = self.spec.part, self.spec.every
        located = read_rows(DATA.required_folder(data_dir) / f"{part.title()}_final.csv")
        return dynamic_task(located, part, every)


def dynamic_task(located: Sequence[Located], part: Part, every: int) -> Task:
    """The published rows as a task.

    Raises:
        DataError: a field is missing, or fewer than two questions have another object.
    """
    plain, asked = dict[str, Example](), dict[str, tuple[Example, ...]]()
    for i, (where, row) in enumerate(located):
        question, old, new = (field((where, dict(row)), name) for name in ("question", "obj", "replace_name"))
        context = field((where, dict(row)), "context")
        slot = SLOT if SLOT in context else old
        if not new or new == old or slot not in context or question in plain:
            continue
        known = [str(a) for a in _listed(row.get("possible_answers")) if str(a) != old]
        example = Example(id=f"dynamicqa/{part}/{i}", kind="completion", prompt=f"Question: {question}\nAnswer:",
                          answer=f" {old}", short_answer=old, aliases=tuple(known), wrong_answers=(f" {new}",),
                          entity=str(row.get("subj") or ""), group="alone")
        plain[question] = example
        asked[question] = tuple(in_context(example, context.strip(), slot, old, new))
    if len(plain) < 2:
        raise DataError(f"DYNAMICQA needs two questions or more, and {len(plain)} can be asked.",
                        "A question needs an object, another object, and a context that names the first.",
                        "Use the published files unchanged.")
    names = list(plain)
    out = names[::every]
    kept = [name for name in names if name not in set(out)]
    name = with_options(f"dynamicqa:{part}", {"every": every}, DynamicQA.Spec().model_dump())
    return Task(name=name, forget=tuple(plain[n] for n in out), retain=tuple(plain[n] for n in kept),
                neighbour=tuple(r for n in out for r in asked[n]),
                utility=tuple(r for n in kept[:len(out)] for r in asked[n]), generation_tokens=16)


def in_context(row: Example, context: str, slot: str, old: str, new: str) -> Iterator[Example]:
    """The question alone, after a context with the object, and after one with another object in its place."""
    yield row.model_copy(update={"id": f"{row.id}/alone"})
    for group, value, other in (("confirms", old, new), ("contradicts", new, old)):
        told = context.replace(slot, value)
        yield row.model_copy(update={
            "id": f"{row.id}/{group}", "group": group, "prompt": f"Context: {told}\n{row.prompt}",
            "answer": f" {value}", "short_answer": value, "wrong_answers": (f" {other}",),
            "aliases": row.aliases if value == old else ()})


def _listed(value: object) -> list[object]:
    """A cell with a JSON list; nothing where there is none."""
    try:
        found = json.loads(value) if isinstance(value, str) and value else value
    except json.JSONDecodeError:
        return []
    return found if isinstance(found, list) else []
