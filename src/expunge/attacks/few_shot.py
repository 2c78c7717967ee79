"""Few-shot demonstrations before the question."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Literal

from pydantic import Field

from expunge import plugin
from expunge.attacks._lib.wording import leaks, reforming
from expunge.attacks.base import Ask, Attack, AttackCard, AttackContext, View
from expunge.data.text_encoder import TextEncoder
from expunge.models.language import CausalLM
from expunge.plugin import Property
from expunge.records.task import Example


class FewShot(Attack):
    """Put question and answer pairs in the row's own format before the question."""

    class Spec(plugin.Spec):
        shots: int = Field(4, ge=0, description="Question and answer pairs before the question; 0 leaves the question "
                                                "unchanged.")
        on: Literal["retain", "half"] = Field("retain", description=(
            "Rows shown: retain rows, or forget rows of half the entities, tested on the other half."))

    card = AttackCard(
        name="few_shot", kind="attack", access="text",
        family="prompt:context", model_needs=frozenset({"prompt"}),
        summary="answered questions first, from retain rows or other forgotten entities",
        paper="In-context learning type of RWKU (arXiv 2406.10890); five demonstrations in RESTOR (arXiv 2411.00204)",
        formula="p(. | q_1, a_1, ..., q_k, a_k, question)",
        defaults="four pairs; RESTOR shows five of the same property about other entities",
        deviations=("pairs are drawn for each row, independent of the property they ask for",
                    "a pair about the same entity or one that contains the row's answer is never shown"),
        caution="Demonstrations show any model the form of an answer: only the excess over the control counts.",
    )
    must_show = (
        Property("keeps_the_contract", {"options": {"shots": 2}}, "only prompts change"),
        Property("leaves_no_trace", {"options": {"shots": 0}}, "nothing is shown"),
        Property("gives_no_answer_away", {"options": {"on": "half"}}, "no prompt contains the answer"),
        Property("shows_nobody_tested", {}, "demonstrations are about other entities than the question"),
        Property("still_shows", {"from_": "original", "options": {"shots": 1}, "excess": 0.3},
                 "the original still answers; 0.1 of that is running text, which has no prompt"),
        Property("finds_nothing", {}, "a retrained model does not know the answers"),
    )

    @property
    def splits_entities(self) -> bool:
        return bool(self.spec.shots and self.spec.on == "half")

    def problem(self, context: AttackContext) -> str | None:
        if self.spec.shots and not self._shown(context):
            return f"the task has no questions to show for few_shot(on={self.spec.on})"
        return None

    def _shown(self, context: AttackContext) -> list[Example]:
        rows = context.learned if self.spec.on == "half" else context.task.retain or context.task.neighbour
        return [r for r in rows if r.prompt]

    def run(self, subject: CausalLM, context: AttackContext, ask: Ask) -> None:
        rows, shown = context.tested if self.splits_entities else context.rows, self._shown(context)

        def show(row: Example, known: Sequence[Example], draw: Random) -> Example:
            allowed = [s for s in shown if s.kind == row.kind and s.id != row.id
                       and not (row.entity and s.entity == row.entity) and not leaks(f"{s.prompt} {s.answer}", row)]
            return demonstrated(row, draw.sample(allowed, min(self.spec.shots, len(allowed))), subject.encoder)

        if self.spec.shots:
            rows = reforming(context, show, rows)
        ask(View(self.text(), subject, rows))


def demonstrated(row: Example, shots: Sequence[Example], tokens: TextEncoder) -> Example:
    """The row after `shots`: as earlier turns of a conversation, or in the plain format of its kind."""
    if row.kind == "messages" or (row.kind == "qa" and tokens.chat):
        turns = row.messages or (("user", row.prompt),)
        start = next((i for i, (role, _) in enumerate(turns) if role != "system"), len(turns))
        demonstrations = tuple(turn for s in shots for turn in (("user", s.prompt), ("assistant", s.answer)))
        return row.model_copy(update={"kind": "messages", "messages": turns[:start] + demonstrations + turns[start:]})
    before, after = tokens.template.split("{prompt}", 1) if row.kind == "qa" else ("", "")
    join = " " if row.kind == "qa" else ""
    demonstration_text = "".join(f"{s.prompt}{after}{join}{s.answer}\n\n{before}" for s in shots)
    return row.model_copy(update={"prompt": demonstration_text + row.prompt})
