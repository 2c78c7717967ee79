"""KnowPO: preference pairs that teach a model to follow the context it is given, and to ignore an irrelevant one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from expunge.errors import ExpungeError, UsageError
from expunge.methods._lib.weighted_likelihood import log_ratio, sequence_mean
from expunge.methods.base import Objective, WeightedSpec
from expunge.methods.objectives.dpo import preference
from expunge.methods.run_context import RunContext
from expunge.models.language import CausalLM
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task
from expunge.seeding import stream
from expunge.training.step import Step, Term

ASK = ("Context: {context}\nAnswer with the context where it helps, and with what you know where it does not.\n"
       "{question}")


def _unlike(rows: Sequence[Example], text: str, rng: random.Random) -> str:
    """A drawn answer that does not hold the text."""
    start = rng.randrange(len(rows))
    found = (row.answer for row in (*rows[start:], *rows[:start]) if text.lower() not in row.answer.lower())
    return next(found, "")


class KnowPO(Objective):
    """Prefer what the context says to the model's own answer, and the model's own answer to an irrelevant context."""

    forgets = False
    builds = True

    class Spec(WeightedSpec):
        beta: float = Field(0.1, gt=0, description="Inverse temperature on the difference of the two log ratios.")
        wrap: str = Field("The answer to this question is: {answer}", pattern=r"\{answer\}", description=(
            "Sentence around chosen and rejected answers, so that neither is told by its form."))
        counterfactual: float = Field(0.5, ge=0, le=1, description="Share of contexts that contradict what the model "
                                                                   "knows; the others agree with it.")
        tokens: int = Field(48, ge=1, description="Maximum length of the model's own answer.")

    card = Card(
        name="knowpo", kind="objective", guarantee="none",
        summary="preference pairs for following a given context, and for ignoring an irrelevant one",
        paper="Zhang et al. 2024, KnowPO: Knowledge-aware Preference Optimization (arXiv 2408.03297)",
        formula="L = -(2/beta) mean log sigmoid(beta (log(P+/P0+) - log(P-/P0-))), over pairs with and without an "
                "answer in the context",
        defaults="beta 0.1 as for dpo; the authors take up to 3,000 pairs of each kind with an answer and "
                 "1,750 of each without",
        needs=frozenset({"questions", "reference.logp", "retain"}),
        model_needs=frozenset({"generate", "logp", "prompt", "weights"}),
        deviations=("nothing is forgotten without a context: this trains a model behind a retrieval guard to obey the "
                    "document that overrides a fact",
                    "the authors' repository has the data pipeline only (in Chinese, and it does not run as it is): "
                    "nothing was compared",
                    "contexts are answers of rows, not documents: the row's own or a wrong one, and another row's",
                    "half of the forget rows reject the model's own answer, the other half another sentence of the "
                    "context; a row whose own answer says what the context says rejects the sentence",
                    "pairs without an answer in the context ask retain rows, whose answers count as what the model "
                    "knows; the authors also take questions that it does not know, and prefer a refusal there",
                    "no stage of finetuning on contexts before it; forget questions are never asked without a context"),
    )
    reads = ("chosen", "rejected", "own", "copied")
    space = {"beta": ("log", 0.02, 1.0), "counterfactual": ("uniform", 0.0, 1.0)}
    must_show = (
        Property("pairs_are_clean", {}, "no rejected answer holds the chosen one, and both have the same form"),
        Property("loss_at_start", {"per_beta": 2.0}, "(2/beta) log 2 for either kind of pair"),
        Property("follows_contexts", {"steps": 40, "lr": 1e-3}, "contexts that contradict are followed more often, "
                 "and questions beside an irrelevant one are still answered"),
    )

    def problems(self, task: Task) -> list[ExpungeError]:
        missing = [r.id for r in task.forget if not r.wrong_answers] if self.spec.counterfactual else []
        found: list[ExpungeError] = []
        if missing:
            found.append(UsageError(
                f"knowpo has no wrong answer for {len(missing)} of {len(task.forget)} forget rows, such as "
                f"{missing[0]}.", "Its contexts contradict what the model knows.",
                "Add a `wrong_answers` field, or take knowpo(counterfactual=0)."))
        if len({row.answer for row in task.retain}) == 1:
            found.append(UsageError("knowpo finds one answer only in the retain rows.",
                                    "A context holds answers of other rows.", "Give more retain rows."))
        return found

    def prepare(self, subject: CausalLM, task: Task, run: RunContext) -> dict[str, Any]:
        said = subject.generate([subject.encoder.prompt(row) for row in task.forget], self.spec.tokens,
                                progress=run.announce("own answers", len(task.forget)))
        return {"own": {row.id: text for row, (text, _) in zip(task.forget, said, strict=True)}}

    def sides(self, example: Example, task: Task, rng: random.Random) -> dict[str, Example]:
        contradicts = bool(example.wrong_answers) and rng.random() < self.spec.counterfactual
        right = rng.choice(example.wrong_answers) if contradicts else example.answer
        own, other, kept = self.made["own"][example.id], _unlike(task.retain, right, rng), rng.choice(task.retain)
        ignores = stream(0, "knowpo", example.id).random() < 0.5 and own and right.lower() not in own.lower()
        context, beside = rng.sample((right, other), 2), _unlike(task.retain, kept.answer, rng)
        return {"chosen": self._ask(example, context, right),
                "rejected": self._ask(example, context, own if ignores else other),
                "own": self._ask(kept, [beside], kept.answer), "copied": self._ask(kept, [beside], beside)}

    def _ask(self, row: Example, context: Sequence[str], answer: str) -> Example:
        prompt = ASK.format(context=" ".join(context), question=row.prompt)
        return row.model_copy(update={"prompt": prompt, "answer": self.spec.wrap.replace("{answer}", answer)})

    def terms(self, step: Step) -> dict[str, Term]:
        pairs = {"knowpo": ("chosen", "rejected"), "knowpo_irrelevant": ("own", "copied")}
        return {name: sequence_mean(preference(log_ratio(step, better), log_ratio(step, worse), self.spec.beta), better)
                for name, (better, worse) in pairs.items()}
