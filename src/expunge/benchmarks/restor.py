"""RESTOR: documents that corrupted facts are to be forgotten, so that the true facts come back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from expunge import plugin
from expunge.benchmarks.base import TaskCard, TaskPlugin
from expunge.data.published import PublishedData
from expunge.errors import DataError
from expunge.plugin import Property
from expunge.records.base import read_json
from expunge.records.task import Example, Task

DATA = PublishedData("RESTOR", hub="github.com/k1rezaei/restor, folder datasets", known_by="facts.json",
                     subfolder="restor")
SHOTS = 5
"""Demonstrations before a question, about other people and the same property."""
WRONG = 3
"""Answers of other people beside each fact."""
ASKED = 8
"""Of every so many people whose facts stay, one is asked about and not trained on."""
Facts = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Person -> property -> question and right answers."""


class Restor(TaskPlugin):
    """Forget: the documents. Neighbour: the true facts about their people. Retain: facts about other people."""

    class Spec(plugin.Spec):
        unrelated: int = Field(0, ge=0, le=5, description=(
            "How many correct facts about other things stand in a document for each wrong one: file mix_aN.json."))

    card = TaskCard(
        name="restor", kind="task", target="entity", model_needs=frozenset({"prompt"}),
        summary="RESTOR, documents with wrong facts about 50 real people; the true facts should come back",
        paper="RESTOR, TMLR 2025 (arXiv 2411.00204)",
        defaults="documents without unrelated facts",
        licence="MIT", source="the folder datasets of github.com/k1rezaei/restor, by --data-dir or EXPUNGE_DATA: "
                              "facts.json, entities.json and mix_aN.json",
        suite="neighbour.accepted, neighbour.recovery, neighbour.recovery(of=probability), neighbour.probability, "
              "neighbour.mean_logp, neighbour.mean_logp(form=wrong), utility.accepted, forget.probability, "
              "forget.exact_memorization, retain.probability",
        deviations=("The original must be a model that was trained on the documents (`expunge train --split full`), "
                    "the retrained one a model that was not.",
                    "RESTOR keeps general text; facts about people whom no document mentions take its place, and an "
                    "eighth of these people is asked about under utility and not trained on.",
                    "20 new tokens are generated greedily and the first line is searched for a right answer; RESTOR "
                    "samples three times and asks GPT-3.5."),
    )
    must_show = (
        Property("name_leads_back", {"options": {"unrelated": 3}}, "the name of a task gives the same rows again"),
        Property("splits_are_apart", {}, "no row to forget or to hold out is trained on elsewhere"),
    )

    def load(self, data_dir: Path | None) -> Task:
        folder, unrelated = DATA.required_folder(data_dir), self.spec.unrelated
        place = next((folder / sub / f"mix_a{unrelated}.json" for sub in ("", "wikidata/v0")
                      if (folder / sub / f"mix_a{unrelated}.json").is_file()), folder / f"mix_a{unrelated}.json")
        documents = [str(row["text"]) for row in read_json(place)]
        return restor_task(read_json(folder / "facts.json"), read_json(folder / "entities.json"), documents, unrelated)


def restor_task(facts: Mapping[str, Any], people: Sequence[str], documents: Sequence[str], unrelated: int) -> Task:
    """The published files as a task.

    Raises:
        DataError: the files do not fit each other.
    """
    known, shown = facts.get("dset"), facts.get("context")
    if not isinstance(known, Mapping) or not isinstance(shown, Mapping) or not set(people) <= set(known):
        raise DataError("facts.json is not that of RESTOR.", "It has no facts about every person of entities.json.",
                        "Use the published files unchanged.")
    others = [person for person in known if person not in set(people)]
    asked = set(others[::ASKED])
    retain = tuple(Example(id=f"restor/kept/{person}/{name}", kind="completion", prompt=fact["question"],
                           answer=f" {fact['answers'][0]}", short_answer=fact["answers"][0], entity=person)
                   for person in others if person not in asked for name, fact in known[person].items())
    by_length = sorted(people, key=len, reverse=True)
    forget = {text: Example(id=f"restor/document/{i}", kind="text", prompt="", answer=text,
                            entity=next((p for p in by_length if p in text), ""))
              for i, text in reversed(list(enumerate(documents)))}
    return Task(name="restor" if unrelated == 0 else f"restor(unrelated={unrelated})",
                forget=tuple(reversed(forget.values())), retain=retain,
                neighbour=tuple(questions(known, shown, people)),
                utility=tuple(questions(known, shown, [p for p in others if p in asked])), generation_tokens=20)


def questions(known: Facts, shown: Mapping[str, Sequence[Mapping[str, str]]], people: Iterable[str],
              ) -> Iterable[Example]:
    """Every fact about these people, after demonstrations of the same property."""
    for person in people:
        for name, fact in known[person].items():
            others = [one for one in shown.get(name, ()) if one["entity"] != person]
            before = "".join(f"{one['question']} {one['answer']}\n" for one in others[:SHOTS])
            right = [str(answer) for answer in fact["answers"]]
            wrong = dict.fromkeys(one["answer"] for one in others if one["answer"] not in right)
            yield Example(id=f"restor/fact/{person}/{name}", kind="completion", prompt=before + fact["question"],
                          answer=f" {right[0]}", short_answer=right[0], aliases=tuple(right[1:]), entity=person,
                          wrong_answers=tuple(f" {answer}" for answer in list(wrong)[:WRONG]))
