"""Emphasis on the words of a question that carry its answer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Literal

from pydantic import Field

from expunge.attacks._lib.wording import reforming
from expunge.attacks.base import AND_RETAIN, Ask, Attack, AttackCard, AttackContext, View
from expunge.metrics.text.key_words import emphasis, key_words
from expunge.models.prompt_words import EmphasisOptions, contributions, likelihoods, reworded, words_of
from expunge.models.subject import Subject
from expunge.needs import Need
from expunge.plugin import Property
from expunge.records.score import Access
from expunge.records.task import Example


class Emphasis(Attack):
    """Find the words of a question that carry its answer, and prompt the model to focus on them."""

    class Spec(EmphasisOptions):
        count: int = Field(5, ge=0, description="Maximum number of key words; 0 leaves the question unchanged.")
        on: Literal["original", "subject"] = Field("original", description="Model that selects the key words.")

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
                known[row.id, row.prompt] = emphasis([w for w, _ in keys], self.spec.wording)
                tick(1)
            return reworded(row, f"{known[row.id, row.prompt]} {row.prompt}".strip())

        ask(View(self.text(), subject, reforming(context, emphasise)))
