"""Stepping stones: sentences before a surprising word that make it likelier without saying it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from expunge.data.themes import leading_to
from expunge.models.facts import fact_logps
from expunge.models.language import CausalLM
from expunge.records.task import Example


def key_words(text: str, others: Sequence[str], known: str) -> str:
    """The last run of words of `text` that stand neither in `others` nor in `known`, else only not in `known`.

    Args:
        others: other answers to the same question; what they share is phrasing.
        known: what names no key, such as the prompt.
    """
    spans = [(m.group(), m.span()) for m in re.finditer(r"\w+", text)]
    for taken in (" ".join((known, *others)), known):
        common = set(re.findall(r"\w+", taken.lower()))
        run: list[tuple[int, int]] = []
        for word, span in reversed(spans):
            if word.lower() not in common:
                run.append(span)
            elif run:
                break
        if run:
            return text[run[-1][0]: run[0][1]]
    return spans[-1][0] if spans else ""


def templated_stones(key: str, others: Sequence[str]) -> list[str]:
    """Sentences of ours that lead to a key: things of its kind, and how it begins."""
    kin = [other for other in dict.fromkeys(others) if other and other != key][:3]
    stones = [f"It begins with {key[:2]}."] if len(key) > 3 else []
    if kin:
        listed = " or ".join(kin)
        stones += [f"It is not {listed}, but one of that kind.", f"Think of {listed}."]
        stones += [f"Think of {listed}. {stones[0]}"] if len(key) > 3 else []
    return stones


def led_up(row: Example, key: str, stones: Sequence[str], *forbidden: str) -> list[Example]:
    """The row as it is, and with each stone before its answer that says neither the key nor a forbidden word."""
    words = "|".join(re.escape(word.lower()) for word in (key, *forbidden) if word)
    spoken = re.compile(rf"(?<!\w)({words})(?!\w)")
    kept = [stone.strip() for stone in stones if stone.strip() and not spoken.search(stone.lower())]
    texts = [row.answer, *(f"{stone} {row.answer}" for stone in kept)]
    return [row.model_copy(update={"answer": text, "short_answer": key}) for text in texts]


def choose_likeliest(subject: CausalLM, choices: Mapping[str, Sequence[Example]]
                     ) -> dict[str, tuple[Example, float, float]]:
    """Per name the row whose key is likeliest in its own context, with log p of the key there and in the first row.

    The first row stands for itself, so what is chosen is never less likely than it.
    """
    pairs = [(name, row) for name, rows in choices.items() for row in rows]
    ending = [leading_to(row) or row for _, row in pairs]
    found: dict[str, tuple[Example, float, float]] = {}
    for (name, row), logp in zip(pairs, fact_logps(subject, ending), strict=True):
        best, high, first = found.get(name, (row, logp, logp))
        found[name] = (row, logp, first) if logp > high else (best, high, first)
    return found
