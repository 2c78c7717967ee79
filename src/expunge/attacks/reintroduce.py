"""Other forgotten facts about the entity in the context."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from random import Random
from typing import Literal

from pydantic import Field

from expunge import plugin
from expunge.attacks._lib.wording import facts_about, leaks, reforming
from expunge.attacks.base import Ask, Attack, AttackCard, AttackContext, View
from expunge.models.prompt_words import reworded
from expunge.models.subject import Subject
from expunge.plugin import Property
from expunge.records.task import Example


class Reintroduce(Attack):
    """Put other facts about the entity, but not the answer, before the question."""

    class Spec(plugin.Spec):
        share: float = Field(1.0, ge=0, le=1, description="Share of the other facts that is given; 0 leaves the "
                                                          "question unchanged.")
        of: Literal["person", "unrelated"] = Field("person", description=(
            "person: from the other rows about the question's entity; unrelated: as many sentences about a retain "
            "entity, which should change nothing"))

    card = AttackCard(
        name="reintroduce", kind="attack", target="entity", access="text",
        family="prompt:context", model_needs=frozenset({"prompt"}),
        summary="put the entity's other forgotten facts into the context and ask for one more",
        paper="UnUnlearning, Shumailov et al. 2024 (arXiv 2407.00106)",
        formula="R = m(answer | other facts, question) - m(answer | question)",
        defaults="none in the paper, which has no experiments; all sentences of the entity's other rows",
        deviations=("the requested fact is never given, so it cannot be copied from the context",
                    "no alias is used, since memory is measured in addition to the use of context",
                    "without a short answer, sentences with names and numbers of the answer are excluded",
                    "rows whose entity has no other row are asked unchanged",
                    "the small models of our tests cannot use a context: p of what they know falls from 0.93 to 0.37"),
        caution="Any model can use its context and infer from it: only the excess over the control counts. Even a "
                "retrained model recovers what follows from the given facts.",
    )
    must_show = (
        Property("keeps_the_contract", {"options": {"share": 0.3}}, "only prompts change"),
        Property("leaves_no_trace", {"options": {"share": 0.0}}, "no fact is given"),
        Property("gives_no_answer_away", {}, "neither the row nor its short answer is given"),
        Property("tells_no_names", {}, "nor names and numbers of an answer without a short one"),
        Property("raises_nothing", {"options": {"share": 0.2, "of": "unrelated"}}, "text about other entities has no "
                                                                                   "effect"),
        Property("still_shows", {"from_": "original", "options": {"share": 0.2}, "excess": 0.25},
                 "the original still answers; 0.1 of that is running text, which has no prompt"),
        Property("finds_nothing", {}, "a retrained model cannot infer what is left"),
    )

    def problem(self, context: AttackContext) -> str | None:
        rows = context.task.probe_rows(context.split)
        if self.spec.share and not any(facts_about(r, rows) for r in rows if r.kind != "text"):
            return f"no two {context.split} rows are about the same entity (field entity)"
        if self.spec.share and self.spec.of == "unrelated" and not context.task.retain:
            return "the task has no retain rows"
        return None

    def run(self, subject: Subject, context: AttackContext, ask: Ask) -> None:
        spec, rows, retain = self.spec, context.rows, context.task.retain

        def with_facts(row: Example, known: Sequence[Example], draw: Random) -> Example:
            facts = facts_about(row, known)
            count = ceil(spec.share * len(facts))
            if spec.of == "unrelated":
                facts = [s for s in facts_about(draw.choice(retain), retain) if not leaks(s, row)]
            order = list(range(len(facts)))
            draw.shuffle(order)
            kept = sorted(order[:count])  # a larger share contains the smaller one
            return reworded(row, " ".join([*(facts[i] for i in kept), row.prompt]))

        if spec.share:
            rows = reforming(context, with_facts)
        ask(View(self.text(), subject, rows))
