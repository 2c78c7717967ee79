"""Steering towards the entity of a question: the difference that its name makes is added again.

Legend: B rows, T columns, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.attacks._lib.hooks import Watch, prompt_states, rewritten, watched
from expunge.attacks.base import AND_RETAIN, Ask, Attack, AttackCard, AttackContext, View
from expunge.errors import UsageError
from expunge.models.language import CausalLM
from expunge.models.sites import Change
from expunge.plugin import Property
from expunge.records.task import Example

Vectors = Mapping[tuple[int, ...], Tensor]
"""Tokens of a prompt -> the vector added at its last token, shape D."""
NAMES = ("John Smith", "Mary Johnson", "David Brown", "Anna Miller", "Peter Wilson", "Laura Davis")
KNOWN = {"names": ["Calida Umarov", "Ivor Rutherglen", "Viggo Jarvela", "Ambrin Oxenham"]}
"""Option with generic names from the built-in world, which its tokenizer knows."""


def named(row: Example) -> bool:
    """Whether the question names its entity."""
    text_of_row = " ".join((row.prompt, *(text for _, text in row.messages)))
    return row.kind != "text" and bool(row.entity) and row.entity in text_of_row


def anonymised(row: Example, name: str) -> Example:
    """The question about another entity."""
    turns = tuple((role, text.replace(row.entity, name)) for role, text in row.messages)
    return row.model_copy(update={"prompt": row.prompt.replace(row.entity, name), "messages": turns})


def differences(subject: CausalLM, rows: Sequence[Example], names: Sequence[str], layer: int) -> Tensor:
    """S_l(Q) = mean over names of A_l(Q) - A_l(Q about that name) at the last prompt position, shape B D."""

    def last(examples: Sequence[Example]) -> Tensor:
        return torch.stack([h_TD[-1] for h_TD in prompt_states(subject, examples, layer)])

    plain_BD = last(rows)
    return torch.stack([plain_BD - last([anonymised(row, name) for row in rows]) for name in names]).mean(0)


class Steering:
    """Adds to each known question its own vector at the last token, and nothing to generated tokens.

    A row is identified by its first tokens. `applied` counts additions, `passes` the passes that begin a sequence.
    """

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors
        self.applied = self.passes = 0
        self._lengths = sorted({len(ids) for ids in vectors}, reverse=True)

    def change(self, watch: Watch) -> Change:
        """The change that a hook applies."""

        def add(given: Any, h_BTD: Tensor) -> Tensor:
            if not watch.now.first:
                return h_BTD  # not the pass over the prompt
            h_BTD, self.passes = h_BTD.clone(), self.passes + 1
            for b, (ids_T, real_T) in enumerate(zip(watch.now.ids_BT, watch.now.real_BT, strict=True)):
                ids, columns = tuple(ids_T[real_T].tolist()), real_T.nonzero()[:, 0].tolist()
                length = next((n for n in self._lengths if n <= len(ids) and ids[:n] in self.vectors), 0)
                if length:
                    state_D = h_BTD[b, columns[length - 1]]
                    state_D += self.vectors[ids[:length]].to(state_D)
                    self.applied += 1
            return h_BTD

        return add


class Steer(Attack):
    """Add the difference that a name makes at the last prompt position, which predicts the first answer token."""

    class Spec(plugin.Spec):
        coef: float = Field(2.0, description="Factor of the added difference; 0 changes nothing.")
        layer: int = Field(-2, description="The block whose output is steered; negative counts from the end.")
        mode: Literal["own", "shared"] = Field("own", description=(
            "own: each question gets its own difference; shared: the mean difference over questions of half the "
            "entities, tested on the other half"))
        names: list[str] = Field(list(NAMES), min_length=1, description="Names that replace the entity's.")

    card = AttackCard(
        name="steer", kind="attack", target="entity", access="weights", asks=AND_RETAIN,
        family="steering", model_needs=frozenset({"hidden", "prompt", "weights"}),
        summary="steer the first answer token by the difference that the name makes",
        paper="Seyitoglu et al. 2024 (arXiv 2411.02631), anonymised activation steering",
        formula="h <- h + coef * S_l(Q), S_l(Q) = A_l(Q) - mean_n A_l(Q*_n), at the last prompt position only",
        defaults="coef 2 before the final block; six generic names (the number used is not published)",
        deviations=("questions are anonymised by replacing the row's entity with a generic name, not by a model",
                    "scored like every other attack, not by ranking words over 2000 samples at temperature 2",
                    "questions that do not name their entity, and rows of other splits, are not steered",
                    "in the tests, on models trained on generic answers for 10, 20, 40 steps, the first token gains "
                    "0.6, 0.3, 0.3 nats but the whole answer 0.01 to 0.02: most of its excess existed before"),
        caution="Published gains are on broad topics; on single facts (TOFU) the authors found none, and neither did "
                "we on refusal or npo. Prompt attacks that rewrite the question must come before it.",
    )
    must_show = (
        Property("keeps_the_contract", {}, "only hooks"),
        Property("leaves_no_trace", {"options": {"coef": 0}}, "nothing is added"),
        Property("same_question_same_place", {}, "Q* = Q gives S = 0: nothing changes"),
        Property("steers_once", {"coef": 3.0}, "one addition per generated sequence, for any padding"),
        Property("still_shows", {"from_": "answers generically", "options": KNOWN}, "what generic answers left"),
        Property("lifts_first_token", {"from_": "answers generically", "options": KNOWN, "nats": 0.3},
                 "the steered token gains"),
        Property("finds_nothing", {}, "a name that was never learned has no effect"),
    )

    @property
    def splits_entities(self) -> bool:
        return bool(self.spec.mode == "shared")

    def problem(self, context: AttackContext) -> str | None:
        rows = context.learned if self.splits_entities else context.task.probe_rows(context.split)
        return None if any(map(named, rows)) else "no question names its entity, so none can be anonymised"

    def cost(self, context: AttackContext) -> str:
        return f"{1 + len(self.spec.names)} passes over the questions for the differences"

    def run(self, subject: CausalLM, context: AttackContext, ask: Ask) -> None:
        rows = context.tested if self.splits_entities else context.rows
        if not self.spec.coef:
            return ask(View(self.text(), subject, rows))
        steering = Steering(self._vectors(subject, context, rows(context.split)))
        with watched(subject) as watch, rewritten(subject, {self.spec.layer: steering.change(watch)}):
            ask(View(self.text(), subject, rows))
        if steering.passes and not steering.applied:
            raise UsageError("No question was steered.", "A later attack rewrote them all.",
                             "Name attacks that rewrite the question before steer.")

    def _vectors(self, subject: CausalLM, context: AttackContext, questions: Sequence[Example]) -> Vectors:
        source = [row for row in (context.learned if self.splits_entities else questions) if named(row)]
        steered = source if not self.splits_entities else [row for row in questions if row.kind != "text"]
        if not source or not steered:
            raise UsageError("No question names its entity, so none can be anonymised.")
        shift_BD = self.spec.coef * differences(subject, source, self.spec.names, self.spec.layer)
        if self.splits_entities:
            shift_BD = shift_BD.mean(0).expand(len(steered), -1)
        return {subject.encoder.prompt(row): s_D for row, s_D in zip(steered, shift_BD, strict=True)}
