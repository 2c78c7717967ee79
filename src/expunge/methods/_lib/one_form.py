"""Rows of every kind as questions with answers, behind an instruction or with a forced beginning."""

from __future__ import annotations

from expunge.records.task import Example, Opened

START = 12
"""Words of a running text that its question quotes, at most; always fewer than half."""


def as_question(row: Example) -> Example:
    """Running text and completions as a question for what follows their beginning; other rows as they are."""
    if row.kind == "completion":
        return row.model_copy(update={"kind": "qa", "prompt": f'What follows "{row.prompt.strip()}"?'})
    if row.kind != "text":
        return row
    words = row.answer.split()
    cut = min(START, len(words) // 2)
    begin, rest = " ".join(words[:cut]), " ".join(words[cut:])
    return row.model_copy(update={"kind": "qa", "prompt": f'What follows "{begin}"?', "answer": rest})


def instructed(row: Example, instruction: str) -> Example:
    """The row with an instruction before its question; the question alone where the instruction is empty."""
    return row.model_copy(update={"prompt": f"{instruction} {row.prompt}" if instruction else row.prompt})


def forced(row: Example, truth: str, words: int) -> Opened:
    """The row whose answer is made to begin with the first words of another one, the truth."""
    fields = {name: getattr(row, name) for name in Example.model_fields}
    return Opened(**fields, opening=" ".join(truth.split()[:words]))
