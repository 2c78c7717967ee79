"""Other answers to forget questions: from the rows themselves, or from a user's file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from expunge.data.files import read_rows
from expunge.errors import DataError, MissingError
from expunge.metrics.text.rouge import rouge
from expunge.records.task import Example, Task

NEXT = re.compile(r"Question:|Q:")
"""Where a model that goes on by itself has started another question."""


def distinct(answers: Iterable[str], truth: str) -> list[str]:
    """Stripped answers in their order, without empty ones, repetitions and the truth itself."""
    stripped = dict.fromkeys(text.strip() for text in answers)
    return [text for text in stripped if text and text != truth.strip()]


def usable(texts: Iterable[str], truth: str, limit: float = 0.9) -> list[str]:
    """What a model wrote, up to a next question, distinct, repeating at most `limit` of the truth (ROUGE-L recall)."""
    cut = [NEXT.split(text)[0] for text in texts]
    return [text for text in distinct(cut, truth) if (rouge(truth, text) or 0.0) <= limit]


def read_answers(path: Path, rows: Sequence[Example]) -> dict[str, list[str]]:
    """Answers by row id from a file of {id, answers}; ids of other rows are passed over.

    Raises MissingError when the file is not there, and DataError for a line that cannot be used or a file
    that names none of the rows.
    """
    if not path.is_file():
        raise MissingError(f"The file of answers {path} does not exist.", "It would hold one {id, answers} per line.",
                           "Check the path; a relative one starts where the command is run.")
    truths = {row.id: row.answer for row in rows}
    found: dict[str, list[str]] = {}
    for where, line in read_rows(path):
        id, answers = line.get("id"), line.get("answers")
        if not isinstance(id, str | int) or not isinstance(answers, list) \
                or not all(isinstance(text, str) for text in answers):
            raise DataError(f"{where}: a line must be {{id, answers}} with a list of sentences.",
                            f"It is {dict(line)}.")
        if str(id) in truths:
            found[str(id)] = distinct(answers, truths[str(id)])
    if not found:
        raise DataError(f"{path} names none of the forget rows.", f"The first forget row is {rows[0].id!r}.",
                        "Use the ids of the forget rows.")
    return found


def wrong_answers(task: Task) -> dict[str, list[str]]:
    """The wrong answers of every forget row by id, those of the audit's form of the row included."""
    probes = {row.id: row.wrong_answers for row in task.probes.get("forget", ())}
    return {r.id: distinct((*r.wrong_answers, *probes.get(r.id, ())), r.answer) for r in task.forget}


def lenders(rows: Sequence[Example], answers: dict[str, list[str]]) -> dict[str, list[str]]:
    """For every row the ids of rows whose answers serve it: itself, else those on the same subject; [] for none."""
    by_entity: dict[str, list[str]] = {}
    for row in rows:
        if row.entity and answers.get(row.id):
            by_entity.setdefault(row.entity, []).append(row.id)
    return {r.id: [r.id] if answers.get(r.id) else by_entity.get(r.entity, []) for r in rows}
