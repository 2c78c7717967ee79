"""In-context knowledge unlearning: "forgot" where the prompt names the answer as forgotten, the answer elsewhere."""

from __future__ import annotations

import random
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from expunge.errors import ExpungeError, UsageError
from expunge.methods._lib.weighted_likelihood import sequence_logp, sequence_mean
from expunge.methods.base import Objective, WeightedSpec
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task
from expunge.training.step import Step, Term

OPEN, CLOSE = "<<UNL>>", "<</UNL>>"


def tagged(row: Example, unwanted: str, answer: str) -> Example:
    """The row with what is to be forgotten before its question, and another answer."""
    return row.model_copy(update={"prompt": f"{OPEN}\n{unwanted}\n{CLOSE}\n\n{row.prompt}", "answer": answer})


class InContext(Objective):
    """Teach a model to obey a tag: say "forgot" if the tag holds the answer, and answer if it holds another."""

    forgets = False

    class Spec(WeightedSpec):
        tag: Literal["answer", "entity"] = Field("answer", description="What the tag holds: an answer, or whom the "
                                                                       "question is about.")
        plain: float = Field(0.0, ge=0, description="Coefficient of a further term: the answer where there is no tag.")
        reply: str = Field("forgot", min_length=1, description="What is said to a question whose answer is tagged.")

    card = Card(
        name="in_context", kind="objective", guarantee="none", target="entity",
        summary="teach a model to forget what a tag in the prompt names, and only then",
        paper="Takashiro et al. 2024, Answer When Needed, Forget When Not (arXiv 2410.00382)",
        formula="L = mean_seq [-log P(forgot | u, q) - log P(a | u', q)], u the answer (or entity), u' another",
        defaults="adapter of rank 4, alpha 8, dropout 0.1 at lr 2e-4, batch 4, constant rate, warm-up 3%, clip 0.3, 3 "
                 "epochs; lr 2e-6 on all weights, 8e-6 on the last two blocks",
        needs=frozenset({"questions"}),
        model_needs=frozenset({"logp", "prompt", "weights"}),
        deviations=("nothing is forgotten without the tag: whoever serves the model has to put it there, and whoever "
                    "writes the prompt himself can leave it out",
                    "the tags are written with tokens that exist; the authors add two to the vocabulary, which an "
                    "adapter would leave at random",
                    "the tag follows the run's template, which stands around prompt and tag",
                    "only the reply is supervised; the authors' code trains on the prompt too",
                    "a row's own wrong answers are the other tags; without any, answers of other rows",
                    "the authors teach nothing without a tag; a small model then says forgot there too, and plain= "
                    "teaches the answer",
                    "not shown here: that middle layers still hold the answer",
                    "rows of the forget set alone are taught; the authors teach all questions of a benchmark"),
    )
    reads: ClassVar[tuple[str, ...]] = ("tagged", "untagged")
    space = {"weight": ("log", 0.1, 4.0)}
    must_show = (
        Property("tag_and_reply", {}, "the tag holds the answer and the reply is forgot, or another and the answer"),
        Property("sum_of_both_replies", {}, "the loss is minus the log-probability of both replies, mean over rows"),
        Property("obeys_the_tag", {"options": {"plain": 1.0}, "steps": 150, "lr": 2e-3},
                 "the same question gets another reply with another tag, and the usual one without"),
    )

    def __init__(self, spec: BaseModel | None = None, **options: Any) -> None:
        super().__init__(spec, **options)
        self.reads = ("tagged", "untagged", *(("plain",) if self.spec.plain else ()))  # type: ignore[misc]

    def problems(self, task: Task) -> list[ExpungeError]:
        entities = {row.entity for row in (*task.forget, *task.retain)} - {""}
        nameless = self.spec.tag == "entity" and (len(entities) < 2 or not all(r.entity for r in task.forget))
        alone = self.spec.tag == "answer" and any(not self._others(row, task) for row in task.forget)
        if not nameless and not alone:
            return []
        return [UsageError(f"in_context(tag='{self.spec.tag}') finds no other tag for every forget row.",
                           "A row is answered where the tag holds something else than what is asked.",
                           "Give rows an `entity`." if nameless else "Give rows `wrong_answers`, or more rows.")]

    def _others(self, row: Example, task: Task) -> list[str]:
        if self.spec.tag == "entity":
            return sorted({r.entity for r in (*task.forget, *task.retain)} - {"", row.entity})
        return list(row.wrong_answers) or [r.answer for r in (*task.forget, *task.retain) if r.answer != row.answer]

    def sides(self, example: Example, task: Task, rng: random.Random) -> dict[str, Example]:
        own = example.answer if self.spec.tag == "answer" else example.entity
        other = rng.choice(self._others(example, task))
        return {"tagged": tagged(example, own, self.spec.reply), "untagged": tagged(example, other, example.answer),
                **({"plain": example} if self.spec.plain else {})}

    def terms(self, step: Step) -> dict[str, Term]:
        factors = {"tagged": 1.0, "untagged": 1.0, "plain": self.spec.plain}
        return {f"in_context_{side}": sequence_mean(-factors[side] * sequence_logp(step.answers(side)), side)
                for side in self.reads}
