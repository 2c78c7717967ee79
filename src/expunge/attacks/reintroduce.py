"""What was forgotten, put back in the context."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from random import Random
from typing import Literal

from pydantic import Field

from expunge import plugin
from expunge.attacks._lib.wording import leaks, reforming, reworded, told_of
from expunge.attacks.base import Ask, Attack, AttackCard, AttackContext, View
from expunge.models.subject import Subject
from expunge.plugin import Property
from expunge.records.task import Example


class Reintroduce(Attack):
    """Tell the model other things about the person, never the answer, and ask."""

    class Spec(plugin.Spec):
        share: float = Field(1.0, ge=0, le=1, description="Share of what else is known that is told; 0 asks plainly.")
        of: Literal["person", "unrelated"] = Field("person", description=(
            "person: the other rows about whom the question is about; unrelated: as many sentences about a retain "
            "person, which should change nothing"))

    card = AttackCard(
        name="reintroduce", kind="attack", access="text",
        family="prompt:context", model_needs=frozenset({"prompt"}),
        summary="put the other forgotten facts of the person back in context and ask for one more",
        paper="UnUnlearning, Shumailov et al. 2024 (arXiv 2407.00106)",
        formula="R = m(answer | other facts, question) - m(answer | question)",
        defaults="none in the paper, which has no experiments; all sentences of the person's other rows",
        deviations=("the asked fact itself is never told, so copying it from the context cannot succeed",
                    "no alias is used, since memory is what is measured beside the use of context",
                    "without a short answer, sentences with the names and numbers of the answer are left out",
                    "rows whose person has no other row are asked plainly",
                    "the small models of our tests cannot use a context: p of what they know falls from 0.93 to 0.37"),
        caution="Any model that can read profits from its context, and may infer: only the lead over the control "
                "counts. Even a retrained model recovers what follows from what it is told.",
    )
    must_show = (
        Property("keeps_the_contract", {"options": {"share": 0.3}}, "only prompts change"),
        Property("leaves_no_trace", {"options": {"share": 0.0}}, "nothing is told"),
        Property("gives_no_answer_away", {}, "neither the row nor its short answer is told"),
        Property("tells_no_names", {}, "nor the names and numbers of an answer without a short one"),
        Property("raises_nothing", {"options": {"share": 0.2, "of": "unrelated"}}, "text about others does nothing"),
        Property("still_shows", {"from_": "original", "options": {"share": 0.2}, "excess": 0.25},
                 "what the original knows is read through it; 0.1 of that is running text, which has no prompt"),
        Property("finds_nothing", {}, "a retrained model cannot infer what is left"),
    )

    def problem(self, context: AttackContext) -> str | None:
        rows = context.task.probe_rows(context.split)
        if self.spec.share and not any(told_of(r, rows) for r in rows if r.kind != "text"):
            return f"no two {context.split} rows are about the same person (field subject)"
        if self.spec.share and self.spec.of == "unrelated" and not context.task.retain:
            return "the task has no retain rows"
        return None

    def run(self, subject: Subject, context: AttackContext, ask: Ask) -> None:
        spec, rows, retain = self.spec, context.rows, context.task.retain

        def tell(row: Example, known: Sequence[Example], draw: Random) -> Example:
            told = told_of(row, known)
            count = ceil(spec.share * len(told))
            if spec.of == "unrelated":
                told = [s for s in told_of(draw.choice(retain), retain) if not leaks(s, row)]
            order = list(range(len(told)))
            draw.shuffle(order)
            kept = sorted(order[:count])  # a larger share holds the smaller one
            return reworded(row, " ".join([*(told[i] for i in kept), row.prompt]))

        if spec.share:
            rows = reforming(context, tell)
        ask(View(self.text(), subject, rows))
