"""Paraphrased questions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from random import Random

from pydantic import Field

from expunge import plugin
from expunge.attacks._lib.wording import reforming, reworded
from expunge.attacks.base import Ask, Attack, AttackCard, AttackContext, View
from expunge.models.subject import Subject
from expunge.plugin import Property
from expunge.records.task import Example


class Paraphrase(Attack):
    """Ask the row's paraphrased questions, one attempt each."""

    class Spec(plugin.Spec):
        count: int = Field(3, ge=0, description="Maximum number of paraphrases; 0 leaves the question unchanged.")

    card = AttackCard(
        name="paraphrase", kind="attack", access="text",
        family="prompt:paraphrase", model_needs=frozenset({"prompt"}),
        summary="ask with the paraphrased questions of each row, the best attempt counts",
        paper="Paraphrased probability and ROUGE of OpenUnlearning (arXiv 2506.12618); synonym manipulation of RWKU "
              "(arXiv 2406.10890)",
        formula="max_i m(answer | paraphrase_i)",
        defaults="up to three; RWKU and OpenUnlearning ask one",
        deviations=("the paraphrases are those of the data set; none is generated",
                    "rows without an i-th paraphrase are left out of attempt i"),
        caution="The best of several attempts is higher for any model: only the excess over the control counts.",
    )
    must_show = (
        Property("keeps_the_contract", {}, "only prompts change"),
        Property("leaves_no_trace", {"options": {"count": 0}}, "no paraphrase, the plain question"),
        Property("counts_attempts", {"options": {}, "attempts": 2}, "one attempt for each form of the row"),
        Property("gives_no_answer_away", {}, "no prompt contains the answer"),
        Property("still_shows", {"from_": "original", "excess": 0.6}, "the original also answers paraphrases"),
        Property("still_shows", {"from_": "refusing", "excess": 0.15}, "a refusal only hides; 0.1 is running text"),
        Property("finds_nothing", {}, "a retrained model does not know the answers"),
    )

    def problem(self, context: AttackContext) -> str | None:
        if self.spec.count and not any(r.paraphrased_prompts for r in context.task.probe_rows(context.split)):
            return f"no {context.split} row has paraphrased_prompts"
        return None

    def run(self, subject: Subject, context: AttackContext, ask: Ask) -> None:
        if not self.spec.count:
            return ask(View(self.text(), subject, context.rows))
        forms = max((len(r.paraphrased_prompts) for r in context.rows(context.split)), default=0)
        for i in range(max(min(forms, self.spec.count), 1)):
            ask(View(self.text(), subject, reforming(context, partial(_form, i)), attempt=i))


def _form(i: int, row: Example, rows: Sequence[Example], draw: Random) -> Example | None:
    return reworded(row, row.paraphrased_prompts[i]) if i < len(row.paraphrased_prompts) else None
