"""What all guards with a detector share: which models they fit, and how a guarded subject is made."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

from expunge.errors import ExpungeError, UsageError
from expunge.guards.frame import TEMPLATE_WORDS, frame_of
from expunge.guards.guarded import GuardConfig, GuardedForCausalLM
from expunge.guards.store import Held, Store
from expunge.methods.base import Guard
from expunge.methods.run_context import RunContext
from expunge.models.load import made_by
from expunge.models.subject import AnySubject, Subject
from expunge.records.task import Example, Task


class PromptGuard(Guard):
    """A guard that decides on each prompt. A subclass names its classes and makes the data of its store."""

    config: ClassVar[type[GuardConfig]]
    model: ClassVar[type[GuardedForCausalLM]]
    as_asked: ClassVar[str] = ""
    """A guard whose second pass is the same, so that every probe and attack need run on that one only."""

    @staticmethod
    def inside(model: Any) -> Any:
        return model.target

    def problems(self, task: Task, config: Any) -> list[ExpungeError]:
        if not made_by(config):
            return []
        return [UsageError(f"{self.card.name} guards a plain model, and this one is a guarded model or an ensemble.",
                           fix="Name the model it was made from, with all rows to be forgotten.")]

    def data(self, subject: AnySubject, task: Task, run: RunContext) -> tuple[dict[str, Any], dict[str, Any]]:
        """The data of the store, and figures for the record."""
        raise NotImplementedError

    def held(self, data: dict[str, Any]) -> tuple[Held, ...]:
        """What of the forget rows the data hold."""
        raise NotImplementedError

    def settings(self, subject: AnySubject, data: dict[str, Any]) -> dict[str, Any]:
        """Options of the guarded model, for its config."""
        return {}

    def reserve(self, subject: AnySubject, data: dict[str, Any]) -> int:
        """The most tokens that it puts before a question."""
        return 0

    def build(self, subject: AnySubject, task: Task, run: RunContext) -> tuple[Subject, dict[str, Any]]:
        for problem in self.problems(task, subject.model.config):
            raise problem
        data, figures = self.data(subject, task, run)
        data = {"seed": run.seed} | data
        guarded = self.around(subject, data)
        return guarded, {"guard": self.card.name, "held": [str(held) for held in self.held(data)]} | figures

    def around(self, subject: AnySubject, data: dict[str, Any]) -> AnySubject:
        """The subject behind a guard with this store. Raises UsageError where its context would not fit."""
        frame, reserve = frame_of(subject.encoder), self.reserve(subject, data)
        if subject.context is not None and reserve > subject.context // 2:
            raise UsageError(f"{self.card.name} would put up to {reserve} tokens before a question.",
                             f"That is more than half of the model's context of {subject.context}.",
                             "Choose fewer examples, or a model with a longer context.")
        config = self.config(text_config=copy.deepcopy(subject.model.config), before=frame.before, after=frame.after,
                             place=frame.place, reserve=reserve, options=self.settings(subject, data))
        store = Store(self.card.name, data, self.held(data))
        return subject.around(self.model.around(subject.model, config, store, subject.encoder.processor))


def example_text(question: str, answer: str) -> str:
    """A question with its answer, as they stand in a context."""
    return TEMPLATE_WORDS.format(question=question, answer=answer)


def tokens_of(subject: AnySubject, text: str) -> int:
    """How many tokens a text has."""
    return len(subject.encoder.processor(text, add_special_tokens=False)["input_ids"])


def asking(rows: Sequence[Example]) -> list[Example]:
    """The rows that ask something."""
    return [row for row in rows if row.prompt]
