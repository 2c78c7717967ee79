"""Multiple choice by letters, as MMLU asks it; and its published files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.data.files import read_rows
from expunge.data.mapping import Located
from expunge.data.published import beside
from expunge.errors import DataError
from expunge.records.task import Example

LETTERS = "ABCDEFGHIJ"
SUBFOLDER = "utility"
"""Where the files of general knowledge stand, beside those of a benchmark."""


def heading(topic: str) -> str:
    """The line that stands above the questions."""
    return f"The following are multiple choice questions (with answers) about {topic.replace('_', ' ')}.\n\n"


def block(question: str, choices: Sequence[str], right: int | None = None) -> str:
    """A question with its lettered options, and the letter of the right one where it is a demonstration."""
    lines = "".join(f"\n{LETTERS[i]}. {choice}" for i, choice in enumerate(choices))
    return f"{question.strip()}{lines}\nAnswer:" + ("" if right is None else f" {LETTERS[right]}\n\n")


def letter_row(row: Mapping[str, Any], where: str, *, id: str, before: str = "", group: str = "") -> Example:
    """A row with `question`, `choices` and `answer` (a place from 0) that is answered by a letter.

    Raises:
        DataError: a field is missing, or no option stands at the place.
    """
    question, choices, right = (row.get(name) for name in ("question", "choices", "answer"))
    if not isinstance(question, str) or not isinstance(choices, list) or not isinstance(right, int):
        raise DataError(f"{where}: the row has not the fields of a multiple-choice question.",
                        f"It has {', '.join(row)}; it needs question, choices (a list) and answer (a place from 0).",
                        "Use the published file unchanged.")
    if not 0 <= right < len(choices) <= len(LETTERS):
        raise DataError(f"{where}: there is no option at place {right} of {len(choices)}.",
                        fix="Use the published file unchanged.")
    letters = tuple(LETTERS[: len(choices)])
    return Example(id=id, kind="completion", prompt=before + block(question, [str(c) for c in choices]),
                   answer=f" {letters[right]}", short_answer=letters[right], options=letters, group=group)


def mmlu_rows(folder: Path | None, per_subject: int, shots: int = 0, group: str = "mmlu") -> tuple[Example, ...]:
    """The first questions of each of the 57 subjects, with demonstrations of the same subject; none where the file
    mmlu_test.jsonl is not here."""
    tested, shown = (beside(folder, f"mmlu_{part}.jsonl", SUBFOLDER) for part in ("test", "dev"))
    if tested is None:
        return ()
    before: dict[str, str] = defaultdict(str)
    if shots and shown is not None:
        for subject, rows in _by_subject(read_rows(shown)).items():
            before[subject] = "".join(block(r["question"], r["choices"], r["answer"]) for _, r in rows[:shots])
    return tuple(
        letter_row(row, where, id=f"mmlu/{subject}/{i}", before=heading(subject) + before[subject], group=group)
        for subject, rows in _by_subject(read_rows(tested)).items()
        for i, (where, row) in enumerate(rows[:per_subject]))


def _by_subject(located: Sequence[Located]) -> dict[str, list[Located]]:
    found: dict[str, list[Located]] = defaultdict(list)
    for where, row in located:
        found[str(row.get("task") or row.get("subject"))].append((where, row))
    return found
