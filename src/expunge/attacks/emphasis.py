"""Emphasis on the words of a question that carry its answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Literal

from pydantic import Field

from expunge import plugin
from expunge.attacks._lib.wording import reforming, reworded
from expunge.attacks.base import AND_RETAIN, Ask, Attack, AttackCard, AttackContext, View
from expunge.models.subject import Subject
from expunge.needs import Need
from expunge.plugin import Property
from expunge.records.score import Access
from expunge.records.task import Example

AT_ONCE = 16
"""Prompts per forward pass."""


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


def words_of(row: Example) -> list[str]:
    """The words of a question; the name of its entity counts as one word."""
    name = rf"\S*{re.escape(row.entity)}\S*|" if row.entity else ""
    return re.findall(rf"{name}\S+", row.prompt)


def key_words(words: Sequence[str], values: Sequence[float], alpha: float, beta: int) -> list[tuple[str, float]]:
    """(word, C) of the key words, strongest first.

    All words with C > 0 if there are fewer than beta of them, else those with C / max C > alpha.
    """
    positive = sorted(((w, c) for w, c in zip(words, values, strict=True) if c > 0), key=lambda wc: -wc[1])
    return positive if len(positive) < beta else [(w, c) for w, c in positive if c / positive[0][1] > alpha]


class Emphasis(Attack):
    """Find the words of a question that carry its answer, and prompt the model to focus on them."""

    class Spec(plugin.Spec):
        count: int = Field(5, ge=0, description="Maximum number of key words; 0 leaves the question unchanged.")
        on: Literal["original", "subject"] = Field("original", description="Model that selects the key words.")
        alpha: float = Field(0.1, ge=0, lt=1, description="Share of the largest contribution a key word must exceed.")
        beta: int = Field(5, ge=1, description="Below this many contributing words, all of them are key words.")
        blank: str = Field("", description="Replaces a removed word; empty shortens the prompt.")
        wording: str = Field("Focus on: {words}.", pattern=r"\{words\}", description="Text before the question.")

    card = AttackCard(
        name="emphasis", kind="attack", access="logits", asks=AND_RETAIN,
        family="decoding", model_needs=frozenset({"generate", "logp", "prompt"}),
        summary="emphasise the words of the question that carry the answer in the original model",
        paper="UNPACT, Understanding the Dilemma of Unlearning, 2025 (arXiv 2509.24675)",
        formula="C_i = LP(x, y) - LP(x without i, y), N_i = C_i / max_j C_j; focus on {i : N_i > alpha}",
        defaults="alpha, beta, the normalisation by the maximum and the wording are our choice; we could not confirm "
                 "theirs",
        deviations=("words and whole names are removed, not tokens, so that they can be named in the prompt",
                    "contributions use the true answer, which the auditor knows and an attacker would not; the prompt "
                    "never contains it",
                    "keyword match and likelihood replace a judge model",
                    "added words do not help our small test models: p of a refusing one falls from 0.28 to 0.13"),
        caution="The key words are chosen with knowledge of the answer: only the excess over the control counts.",
    )
    must_show = (
        Property("keeps_the_contract", {"options": {"count": 2}}, "only prompts change"),
        Property("leaves_no_trace", {"options": {"count": 0}}, "nothing is emphasised"),
        Property("gives_no_answer_away", {}, "only words of the question are emphasised"),
        Property("ranks_the_entity_first", {}, "the name carries the answer, until it is forgotten"),
        Property("still_shows", {"from_": "original", "excess": 0.4},
                 "the original still answers; 0.1 of that is running text, which has no prompt"),
        Property("finds_nothing", {}, "a retrained model does not know the answers"),
    )

    @property
    def access(self) -> Access:
        """Only text of the subject if the original selects the key words."""
        return "text" if self.spec.on == "original" else self.card.access

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"original"} if self.spec.count and self.spec.on == "original" else ())

    def cost(self, context: AttackContext) -> str:
        words = sum(len(r.prompt.split()) + 1 for r in context.rows(context.split) if r.kind != "text")
        return f"{words} prompts to find the key words" if self.spec.count else ""

    def run(self, subject: Subject, context: AttackContext, ask: Ask) -> None:
        if not self.spec.count:
            return ask(View(self.text(), subject, context.rows))
        model = context.require_original() if self.spec.on == "original" else subject
        tick, known = context.announce("key words", len(context.rows(context.split))), dict[tuple[str, str], str]()

        def emphasise(row: Example, rows: Sequence[Example], draw: Random) -> Example:
            if (row.id, row.prompt) not in known:
                words = words_of(row)
                values = contributions(words, partial(likelihoods, model, row), self.spec.blank)
                keys = key_words(words, values, self.spec.alpha, self.spec.beta)[: self.spec.count]
                listed = ", ".join(dict.fromkeys(w.strip(".,;:?!\"'()") for w, _ in keys))
                known[row.id, row.prompt] = self.spec.wording.replace("{words}", listed) if listed else ""
                tick(1)
            return reworded(row, f"{known[row.id, row.prompt]} {row.prompt}".strip())

        ask(View(self.text(), subject, reforming(context, emphasise)))


def likelihoods(subject: Subject, row: Example, prompts: Sequence[str]) -> list[float]:
    """Mean log p per token of the row's answer after each prompt, in nats."""
    rows = [subject.encoder.encode(reworded(row, prompt)) for prompt in prompts]
    values: list[float] = []
    with subject.evaluating():
        for start in range(0, len(rows), AT_ONCE):
            answers = subject.answers(subject.collate(rows[start: start + AT_ONCE]))
            values += answers.row_means(answers.logp_N).tolist()
    return values
