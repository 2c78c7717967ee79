"""ICUL: put the forgotten question with a wrong answer, and others with right ones, before the question asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.errors import ExpungeError, UsageError
from expunge.guards.base import PromptGuard, asking, example_text, tokens_of
from expunge.guards.detector import READS, ROOM, WORDINGS, Finding, Nearest, asked, questions
from expunge.guards.frame import Prompt
from expunge.guards.guarded import GuardConfig, GuardedForCausalLM, register
from expunge.guards.store import Held
from expunge.methods.run_context import RunContext
from expunge.models.load import OWN
from expunge.models.subject import AnySubject
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task
from expunge.seeding import stream


class IculConfig(GuardConfig):
    """Without options of its own: examples are in the store."""

    model_type = OWN + "icul"
    __init__ = GuardConfig.__init__  # transformers would give a subclass one of its own


class IculForCausalLM(GuardedForCausalLM):
    """Puts the examples of the nearest stored question before the question."""

    config_class = IculConfig

    def opened(self, data: dict[str, Any]) -> None:
        self._nearest, self._examples = Nearest.from_json(data["nearest"]), data["examples"]

    def decide(self, prompt: Prompt, state_D: Tensor | None) -> Finding:
        return self._nearest(prompt.text)

    def context(self, prompt: Prompt, finding: Finding) -> str:
        return context_of(self._examples[finding.item])


def context_of(examples: Sequence[Sequence[str]]) -> str:
    """Questions and answers, one after the other."""
    return "".join(example_text(question, answer) for question, answer in examples)


class Icul(PromptGuard):
    """In-context unlearning for questions: a few examples, of which that of the forgotten row is wrong."""

    config, model = IculConfig, IculForCausalLM

    class Spec(plugin.Spec):
        examples: int = Field(2, ge=0, description="Retain rows with their right answers after the forgotten one.")
        label: Literal["flipped", "correct"] = Field("flipped", description="flipped: the forgotten row with a wrong "
                                                                            "answer; correct: plain few-shot prompts.")
        point: Literal["own", "other", "repeated"] = Field("own", description="own: the forgotten row; other: a retain "
                                                                              "row in its place; repeated: it alone, "
                                                                              "as often as there are examples.")
        threshold: float | None = Field(None, ge=0, le=1, description="Least cosine at which it fires; by "
                                                                      "false_positives if left out.")
        false_positives: float = Field(0.01, ge=0, lt=1, description="Share of other questions that may fire.")

    card = Card(
        name="icul", kind="guard",
        summary="put the forgotten question with a wrong answer before the question (in-context unlearning)",
        paper="Pawelczyk et al. 2024, In-Context Unlearning: Language Models as Few-Shot Unlearners (arXiv 2310.07579)",
        formula="prompt = (x_f, wrong y) (x_1, y_1) ... (x_s, y_s) x",
        defaults="2 examples (the paper has 2, 4 and 6)",
        needs=frozenset({"retain", "questions"}),
        model_needs=frozenset({"generate", "logp", "prompt", "weights"}),
        deviations=(
            "wrong answers in place of flipped labels: the task is questions, not classes; a row without wrong answers "
            "gets the true answer of another forget row, which is then in the store in clear",
            "a detector chooses the forgotten row for each question, by the cosine of hashed words; the paper knows "
            "for which point it builds a prompt",
            "examples of right answers are retain rows of the task, which are training rows",
            READS, ROOM, WORDINGS,
            "gains on labels do not carry over to free answers: 5 to 13 % on concepts in arXiv 2410.15267",
        ),
        memory="forget questions with wrong answers and some retain rows, in clear; fired rows cost a longer second "
               "pass",
    )
    blocks_in = ()
    space = {"examples": ("choice", 2, 4, 6)}
    must_show = (
        Property("silent_guard_keeps_bits", {}, "no prompt fires: logits and words are the model's, bit for bit"),
        Property("context_is_plain_few_shot", {}, "what fires is answered as the model answers the whole prompt"),
        Property("flipped_label_lowers_membership", {"by": 0.07}, "a right answer in the context scores "
                                                                        "higher than a wrong one"),
        Property("guard_lowers_answers", {"drop": 0.3}, "forget answers lose probability, retain answers keep it"),
        Property("says_what_it_holds", {}, "the store is counted, and what is in clear is said to be"),
    )

    def problems(self, task: Task, config: Any) -> list[ExpungeError]:
        found = super().problems(task, config)
        if self.spec.examples > len(task.retain):
            found.append(UsageError(f"icul(examples={self.spec.examples}) needs as many retain rows.",
                                    f"The task has {len(task.retain)}.", "Name fewer, or give more rows."))
        return found

    def data(self, subject: AnySubject, task: Task, run: RunContext) -> tuple[dict[str, Any], dict[str, Any]]:
        rows, kept = asking(task.forget), asking(task.retain)
        other = asked(task, run.seed)[1]
        nearest = Nearest.fit([questions([row]) for row in rows], other, self.spec.threshold, self.spec.false_positives)
        found = [self._examples(row, rows, kept, run.seed) for row in rows]
        fired = sum(nearest(text).fired for text in questions(rows))
        return ({"nearest": nearest.to_json(), "examples": found},
                {"threshold": nearest.threshold, "items": len(rows), "skipped": len(task.forget) - len(rows),
                 "missed": len(questions(rows)) - fired})

    def _examples(self, row: Example, rows: Sequence[Example], kept: Sequence[Example],
                  seed: int) -> list[tuple[str, str]]:
        """Questions with the answers that stand before `row` when it is asked."""
        draw = stream(seed, "icul", row.id)
        others = [(r.prompt, r.answer) for r in draw.sample(list(kept), min(self.spec.examples + 1, len(kept)))]
        answer = row.answer if self.spec.label == "correct" else draw.choice(wrong_answers(row, rows))
        own = (row.prompt, answer)
        if self.spec.point == "repeated":
            return [own] * (1 + self.spec.examples)
        first = others.pop() if self.spec.point == "other" and len(others) > self.spec.examples else own
        return [first, *others[: self.spec.examples]]

    def reserve(self, subject: AnySubject, data: dict[str, Any]) -> int:
        return max((tokens_of(subject, context_of(examples)) for examples in data["examples"]), default=0)

    def held(self, data: dict[str, Any]) -> tuple[Held, ...]:
        own = 0 if self.spec.point == "other" else len(data["examples"])
        what = "forget questions with their answers" if self.spec.label == "correct" else (
            "forget questions with wrong answers")
        return (Held(what, own, "in clear"), Held("wordings of forget questions", len(data["nearest"]["item"]),
                                                  "vectors"))


def wrong_answers(row: Example, rows: Sequence[Example]) -> list[str]:
    """Its own, or else the other answers of the forget rows, or else a refusal to know."""
    others = [other.answer for other in rows if other.answer != row.answer]
    return list(row.wrong_answers) or others or ["I do not know."]


register(IculConfig, IculForCausalLM)
