"""Where a prompt ends in a row of tokens, and what of it is the question.

A guarded model is given tokens alone. It finds the prompt by what the template puts behind every question, so that it
decides on the same words whether a row is scored, decoded, or read anew for every token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from expunge.data.text_encoder import TextEncoder
from expunge.records.task import Example

SAMPLES = ("Who wrote it?", "Name one of them.", "the year 1933", 'She said "no"', "Où est-ce")
"""Questions that begin and end in different ways: what their prompts share is the template."""
TEMPLATE_WORDS = "Question: {question}\nAnswer: {answer}\n\n"
"""How an example stands in a context that a guard puts before a question."""


@dataclass(frozen=True)
class Prompt:
    """The prompt of one row.

    Args:
        ids: all tokens of the row.
        start, end: where its question begins, and where the prompt ends, template included.
        text: the question, without the template and special tokens.
    """

    ids: tuple[int, ...]
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class QuestionFrame:
    """What a template puts around a question.

    Args:
        before, after: its tokens.
        place: how many tokens stay in front of a context that is put before the question.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    place: int

    def prompt(self, ids: Sequence[int], tokenizer: Any) -> Prompt:
        """The prompt of a row: up to the last place where the template ends one, or else the whole row."""
        row, size = tuple(ids), len(self.after)
        found = next((at for at in range(len(row) - size, -1, -1) if row[at: at + size] == self.after), None)
        end = len(row) if not size or found is None else found + size
        stop = end if not size or found is None else found
        start = len(self.before) if row[: len(self.before)] == self.before else 0
        known = [i for i in row[min(start, stop): stop] if i < len(tokenizer)]
        return Prompt(row, min(start, stop), end, tokenizer.decode(known, skip_special_tokens=True).strip())


def frame_of(encoder: TextEncoder) -> QuestionFrame:
    """The template of an encoder, read off prompts that share nothing else."""
    rows = [encoder.prompt(Example(id=f"frame/{i}", prompt=text, answer="A")) for i, text in enumerate(SAMPLES)]
    before = _shared(rows)
    after = _shared([row[len(before):][::-1] for row in rows])[::-1]
    special = next((i for i, token in enumerate(before) if token not in encoder.special), len(before))
    return QuestionFrame(before, after, len(before) if encoder.chat else special)


def _shared(rows: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The tokens that all rows begin with."""
    columns = list(zip(*rows, strict=False))
    count = next((i for i, column in enumerate(columns) if len(set(column)) > 1), len(columns))
    return tuple(rows[0][:count])
