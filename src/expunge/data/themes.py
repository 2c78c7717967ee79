"""Rows on one theme, and rows cut before their bare fact."""

from __future__ import annotations

import re
from collections.abc import Sequence

from expunge.records.task import Example


def leading_to(row: Example, fact: str | None = None) -> Example | None:
    """The row with its answer up to its bare fact, or up to another in its place; None where the answer lacks it."""
    at = row.answer.rfind(row.short_answer) if row.short_answer else -1
    if at < 0:
        return None
    fact = row.short_answer if fact is None else fact
    return row.model_copy(update={"answer": row.answer[:at] + fact, "short_answer": fact})


def theme_of(row: Example) -> frozenset[str]:
    """Words of its prompt, without those of its entity."""
    own = set(re.findall(r"\w+", row.entity.lower()))
    return frozenset(set(re.findall(r"\w+", row.prompt.lower())) - own)


def on_theme(row: Example, pool: Sequence[Example], count: int) -> list[Example]:
    """Up to `count` rows whose prompts share most words with that of `row`, at least two thirds of the words of both.

    They are about other entities and have other facts, so the fact of `row` does not belong there. Of equal ones the
    first by id.
    """
    own, found = theme_of(row), []
    for other in pool:
        theme = theme_of(other)
        apart = other.entity != row.entity and other.short_answer not in ("", row.short_answer)
        share = len(own & theme) / max(len(own | theme), 1)
        if apart and share >= 2 / 3 and leading_to(other) is not None:
            found.append((-share, other.id, other))
    return [other for _, _, other in sorted(found, key=lambda f: f[:2])[:count]]
