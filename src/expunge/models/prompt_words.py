"""What each word of a prompt contributes to the answer, and a prompt in other words."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import Field

from expunge import plugin
from expunge.models.subject import Subject
from expunge.records.task import Example

AT_ONCE = 16
"""Prompts per forward pass."""


class EmphasisOptions(plugin.Spec):
    """Which words of a prompt are key words, how their contributions are measured, and how they are stressed."""

    alpha: float = Field(0.1, ge=0, lt=1, description="Share of the largest contribution a key word must exceed.")
    beta: int = Field(5, ge=1, description="Below this many contributing words, all of them are key words.")
    blank: str = Field("", description="Replaces a removed word; empty shortens the prompt.")
    wording: str = Field("Focus on: {words}.", pattern=r"\{words\}", description="Text before the question.")


def reworded(row: Example, prompt: str, **changes: Any) -> Example:
    """The row with another question; in a conversation the last user turn changes too."""
    turns = list(row.messages)
    last = max((i for i, (role, _) in enumerate(turns) if role == "user"), default=None)
    if last is not None:
        turns[last] = ("user", prompt)
    return row.model_copy(update={"prompt": prompt, "messages": tuple(turns), **changes})


def words_of(row: Example) -> list[str]:
    """The words of a question; the name of its entity counts as one word."""
    name = rf"\S*{re.escape(row.entity)}\S*|" if row.entity else ""
    return re.findall(rf"{name}\S+", row.prompt)


def contributions(words: Sequence[str], score: Callable[[Sequence[str]], Sequence[float]],
                  blank: str = "") -> list[float]:
    """C_i = LP(x, y) - LP(x without word i, y) in nats per answer token, one per word.

    Args:
        words: of the prompt x.
        score: prompts -> LP(prompt, y), the mean log p of the answer's tokens.
        blank: replacement of a removed word; empty shortens the prompt.
    """
    kept = [blank] if blank else []
    without = [" ".join([*words[:i], *kept, *words[i + 1:]]) for i in range(len(words))]
    whole, *rest = score([" ".join(words), *without])
    return [whole - value for value in rest]


def likelihoods(subject: Subject, row: Example, prompts: Sequence[str]) -> list[float]:
    """Mean log p per token of the row's answer after each prompt, in nats."""
    rows = [subject.encoder.encode(reworded(row, prompt)) for prompt in prompts]
    values: list[float] = []
    with subject.evaluating():
        for start in range(0, len(rows), AT_ONCE):
            answers = subject.answers(subject.collate(rows[start: start + AT_ONCE]))
            values += answers.row_means(answers.logp_N).tolist()
    return values
