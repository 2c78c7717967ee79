"""Alternative answers to forget questions: from the rows or from a user's file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from expunge.data.files import read_rows
from expunge.errors import DataError, ExpungeError, MissingError, UsageError
from expunge.metrics.text.rouge import rouge
from expunge.records.task import Example, Task

NEXT = re.compile(r"Question:|Q:")
"""Where a model that continues after its answer starts another question."""


def distinct(answers: Iterable[str], truth: str) -> list[str]:
    """Stripped answers in order, without empty ones, duplicates and the true answer."""
    stripped = dict.fromkeys(text.strip() for text in answers)
    return [text for text in stripped if text and text != truth.strip()]


def usable(texts: Iterable[str], truth: str, limit: float = 0.9) -> list[str]:
    """Distinct answers, cut before a next question, with ROUGE-L recall of the truth of at most `limit`."""
    cut = [NEXT.split(text)[0] for text in texts]
    return [text for text in distinct(cut, truth) if (rouge(truth, text) or 0.0) <= limit]


def read_answers(path: Path, rows: Sequence[Example]) -> dict[str, list[str]]:
    """Answers by row id from a file of {id, answers}; ids of other rows are ignored.

    Raises MissingError if the file does not exist, and DataError for a malformed line or a file that names
    none of the rows.
    """
    if not path.is_file():
        raise MissingError(f"The file of answers {path} does not exist.", "It should hold one {id, answers} per line.",
                           "Check the path; a relative path starts at the working directory.")
    truths = {row.id: row.answer for row in rows}
    answers_of: dict[str, list[str]] = {}
    for where, line in read_rows(path):
        id, answers = line.get("id"), line.get("answers")
        if not isinstance(id, str | int) or not isinstance(answers, list) \
                or not all(isinstance(text, str) for text in answers):
            raise DataError(f"{where}: a line must be {{id, answers}} with a list of sentences.",
                            f"It is {dict(line)}.")
        if str(id) in truths:
            answers_of[str(id)] = distinct(answers, truths[str(id)])
    if not answers_of:
        raise DataError(f"{path} names none of the forget rows.", f"The first forget row is {rows[0].id!r}.",
                        "Use the ids of the forget rows.")
    return answers_of


def wrong_answers(task: Task) -> dict[str, list[str]]:
    """Wrong answers of every forget row by id, including those of the row's audit form."""
    probes = {row.id: row.wrong_answers for row in task.probes.get("forget", ())}
    return {r.id: distinct((*r.wrong_answers, *probes.get(r.id, ())), r.answer) for r in task.forget}


def answer_sources(rows: Sequence[Example], answers: dict[str, list[str]]) -> dict[str, list[str]]:
    """For every row the ids of the rows whose answers it uses: itself, else those about the same entity; [] if none."""
    by_entity: dict[str, list[str]] = {}
    for row in rows:
        if row.entity and answers.get(row.id):
            by_entity.setdefault(row.entity, []).append(row.id)
    return {r.id: [r.id] if answers.get(r.id) else by_entity.get(r.entity, []) for r in rows}


def given_answers(task: Task, path: str | None) -> dict[str, list[str]]:
    """Wrong answers by row id: those of a file, or of the rows themselves."""
    return read_answers(Path(path), task.forget) if path else wrong_answers(task)


def answer_problems(name: str, task: Task, path: str | None) -> list[ExpungeError]:
    """Why the objective of this name cannot be given a wrong answer for every forget row."""
    try:
        missing = [id for id, sources in answer_sources(task.forget, given_answers(task, path)).items() if not sources]
    except ExpungeError as error:
        return [error]
    return [UsageError(f"{name} has no inverted answers for {len(missing)} of {len(task.forget)} forget rows, "
                       f"such as {missing[0]}.", "Neither the row nor another about its entity has wrong_answers.",
                       "Add a `wrong_answers` field, or give inverted=FILE of {id, answers}.")] if missing else []
