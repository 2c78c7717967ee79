"""ORT: facts about well-known people in four forms of question, of which unlearning sees one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from expunge import plugin
from expunge.benchmarks.base import TaskCard, TaskPlugin
from expunge.data.files import read_rows
from expunge.data.mapping import Located
from expunge.data.published import DATA_VARIABLE, PublishedData
from expunge.data.question_forms import LETTERS, SPELL, choice, spelled
from expunge.errors import DataError, MissingError, UsageError
from expunge.plugin import Property
from expunge.records.task import Example, Task
from expunge.terms import with_options

Form = Literal["fb", "qa", "mcp", "sub"]
FORMS: tuple[Form, ...] = ("fb", "qa", "mcp", "sub")
FIELDS = ("query", "answer", "subject")
KNOWN_BY = "forget_level1.targets001-100.jsonl"
DATA = PublishedData("ORT", hub="jinzhuoran/RWKU", known_by=KNOWN_BY, subfolder="rwku")


class Ort(TaskPlugin):
    """The first people of the file; the trained form is to be forgotten, the others are asked beside it."""

    class Spec(plugin.Spec):
        target: str = Field("", description="The person to forget; the first `targets` people if left out.")
        targets: int = Field(1, ge=1, description="People to forget, the first ones of the file.")
        form: Form = Field("qa", description="The form that unlearning sees: fb (fill in the blank), qa, mcp (choose a "
                                             "letter) or sub (spell the answer).")

        @model_validator(mode="after")
        def check_people(self) -> Ort.Spec:
            if self.target and self.targets > 1:
                raise ValueError("target names one person and targets counts the first of the file: give one of them")
            return self

    card = TaskCard(
        name="ort", kind="task", target="entity", model_needs=frozenset({"prompt"}),
        summary="ORT, facts about well-known people in four forms of question; unlearning sees one of them",
        paper="LLM Unlearning Should Be Form-Independent, IEEE S&P 2026 (arXiv 2506.07795)",
        formula="ask p = exp(mean log p) of every form before and after: form_spread",
        defaults="one person a run, and trained on questions and answers, as published",
        licence="CC BY 4.0 (the questions are RWKU's); the authors' code MIT",
        source=f"RWKU's level 1 and 2 files, such as {KNOWN_BY}, by --data-dir or {DATA_VARIABLE}",
        suite="form_spread, form_spread(of=retain), forget.probability, neighbour.probability, retain.probability, "
              "forget.rouge_l, paraphrase(count=1)",
        deviations=("fb and qa are RWKU's levels 1 and 2, whose counts are those of ORT; the authors' mcp and sub rows "
                    "were not found, so both are made here: wrong options are other answers about the same people, and "
                    "the spelling prompt is ours",
                    "neighbour rows ask about the person to forget in the other forms; rows about RWKU's neighbours "
                    "are the retain rows (trained form) and the utility rows (other forms)",
                    "headline numbers were not found in a form we could check, so none is given"),
    )
    must_show = (
        Property("name_leads_back", {"options": {"targets": 2}}, "the name of a task gives the same rows again"),
        Property("splits_are_apart", {}, "no row to forget or to hold out is trained on elsewhere"),
    )

    def load(self, data_dir: Path | None) -> Task:
        folder = ort_folder(data_dir)
        files = {(side, level): located(folder, f"{side}_level{level}") for side in ("forget", "neighbor")
                 for level in (1, 2)}
        return ort_task(files, **self.spec.model_dump())


def ort_folder(data_dir: Path | None) -> Path:
    """The folder with RWKU's files. Raises MissingError where there is none."""
    for named in (data_dir, data_dir and data_dir / DATA.subfolder):
        if named and any(named.glob("*/forget_level1.json")):
            return named
    folder = DATA.folder(data_dir)
    if folder is None:
        raise MissingError("The ORT data is not here.", f"No folder with RWKU's files ({KNOWN_BY}) was given.",
                           f"Give one by --data-dir or the variable {DATA_VARIABLE}.")
    return folder


def located(folder: Path, name: str) -> list[Located]:
    """The rows of one level: of one file of all people, or of a folder for each.

    Raises:
        MissingError: neither is there.
    """
    files = sorted(folder.glob(f"{name}.*")) or sorted(folder.glob(f"*/{name}.json"))
    if not files:
        raise MissingError(f"{folder} has no {name} file.", "ORT asks levels 1 and 2 of forget and neighbor rows.",
                           "Give the folder with RWKU's files unchanged.")
    return [row for file in files for row in read_rows(file)]


def ort_task(files: Mapping[tuple[str, int], Sequence[Located]], *, target: str = "", targets: int = 1,
             form: Form = "qa") -> Task:
    """Rows of RWKU's layout as a task: (forget or neighbor, level) -> rows.

    Raises:
        DataError: a field is missing.
        UsageError: there is no such person, or there are not as many.
    """
    for rows in files.values():
        for where, row in rows:
            if missing := [name for name in FIELDS if name not in row]:
                raise DataError(f"{where}: the row has no {missing[0]}.", f"It has {', '.join(row)}.",
                                "Use the published files unchanged.")
    people = list(dict.fromkeys(row["subject"] for _, row in files["forget", 1]))
    if target and target not in people:
        raise UsageError(f"ort(target={target}): the files have nobody of that name.", f"There are {len(people)}, "
                         f"such as {', '.join(people[:3])}.", "Name one as the files write it.")
    if not target and targets > len(people):
        raise UsageError(f"ort(targets={targets}): the files have {len(people)} people.", fix="Ask for fewer.")
    chosen = [target] if target else people[:targets]
    asked = {row.prompt: row for row in _rows(files, "forget", chosen)}
    kept = {row.prompt: row for row in _rows(files, "neighbor", chosen) if row.prompt not in asked}
    options = {"target": target, "targets": targets, "form": form}
    return Task(
        name=with_options("ort", options, Ort.Spec().model_dump()), generation_tokens=32,
        forget=tuple(row for row in asked.values() if row.group == form),
        neighbour=tuple(row for row in asked.values() if row.group != form),
        retain=tuple(row for row in kept.values() if row.group == form),
        utility=tuple(row for row in kept.values() if row.group != form))


def _rows(files: Mapping[tuple[str, int], Sequence[Located]], side: str, people: Sequence[str]) -> Iterator[Example]:
    """Every fact about these people (of their neighbours) in all forms."""
    for level, plain, other in ((1, "fb", "mcp"), (2, "qa", "sub")):
        rows = [row for _, row in files[side, level] if row["subject"] in people]
        answers = list(dict.fromkeys(str(row["answer"]) for row in rows))
        for i, row in enumerate(rows):
            query, answer = str(row["query"]).strip(), str(row["answer"]).strip()
            about = {"id": f"ort/{side}/{level}/{row['subject']}/{i}",
                     "entity": str(row.get("neighbor") or row["subject"])}
            yield Example(prompt=query, answer=answer, short_answer=answer, group=plain, **about)
            about["id"] += f"/{other}"
            if other == "sub":
                yield Example(prompt=SPELL.format(query=query), answer=spelled(answer), group=other, **about)
            elif (made := choice(query, answer, answers, about["id"])) is not None:
                yield Example(prompt=made[0], answer=made[1], group=other, options=tuple(LETTERS),
                              short_answer=made[1], **about)
