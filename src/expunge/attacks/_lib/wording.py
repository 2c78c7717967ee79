"""Helpers of prompt attacks: rewording a row, checking that a text does not reveal its answer, templates."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from random import Random

from expunge.attacks.base import AttackContext, Rows
from expunge.data.files import read_rows
from expunge.errors import DataError, MissingError
from expunge.metrics.text.matching import contains
from expunge.records.task import Example, Split
from expunge.seeding import stream

Form = Callable[[Example, Sequence[Example], Random], Example | None]
"""(row, rows of its split, generator) -> the row in another form; None if it has none."""


def secrets(row: Example) -> list[str]:
    """Texts that no prompt about the row may contain: its short answer.

    Without one: names and numbers of the answer that are not in the question, and without those the answer.
    """
    if row.short_answer:
        return [row.short_answer]
    names = [w for w in re.findall(r"\w+", row.answer)[1:] if w[0].isupper() or w.isdigit()]
    return [w for w in names if not contains(row.prompt, w)] or [row.answer]


def leaks(text: str, row: Example) -> bool:
    """Whether the text reveals the answer of the row."""
    return any(contains(text, secret) for secret in secrets(row))


def facts_about(row: Example, rows: Iterable[Example]) -> list[str]:
    """Sentences of other rows about the row's entity, without those that reveal its answer."""
    about = [r.answer for r in rows if row.entity and r.entity == row.entity and r.id != row.id]
    sentences = dict.fromkeys(s for text in about for s in re.split(r"(?<=[.!?])\s+", text.strip()) if s)
    return [s for s in sentences if not leaks(s, row)]


def reforming(context: AttackContext, form: Form, rows: Rows | None = None) -> Rows:
    """The rows in this form, without rows that do not have it; running text is unchanged."""

    def rows_in_form(split: Split) -> list[Example]:
        known = context.task.probe_rows(split)
        reworked = (r if r.kind == "text" else form(r, known, stream(context.seed, "form", r.id))
                    for r in (rows or context.rows)(split))
        return [r for r in reworked if r is not None]

    return rows_in_form


def content(path: str) -> str:
    """Fingerprint of a file's content; empty if there is no file."""
    return sha256(Path(path).read_bytes()).hexdigest()[:16] if path and Path(path).is_file() else ""


def read_templates(path: str) -> list[str]:
    """Templates with {prompt} from JSON, JSON Lines or CSV rows {prompt}, or from the lines of any other file.

    Raises MissingError if the file does not exist, and DataError for a template without {prompt}.
    """
    file = Path(path)
    if file.suffix in (".json", ".jsonl", ".csv", ".parquet"):
        templates = [str(row.get("prompt", "")) for _, row in read_rows(file)]
    elif file.is_file():
        templates = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    else:
        raise MissingError(f"The template file {file} does not exist.", fix="Check the path.")
    wrong = next((t for t in templates if "{prompt}" not in t), None)
    if wrong is not None or not templates:
        raise DataError(f"{file}: the template {wrong or ''!r} has no {{prompt}}.",
                        fix="Put {prompt} where the question goes.")
    return templates
