"""TRU: learn to say why a question is not answered, with ascent on the answer beside it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from expunge.errors import ExpungeError, UsageError
from expunge.methods._lib.inverted import read_answers
from expunge.methods._lib.reasons import reveals, templated, write_reasons
from expunge.methods._lib.refused import RefusalSpec, refuse
from expunge.methods._lib.weighted_likelihood import token_mean
from expunge.methods.base import Objective
from expunge.methods.run_context import RunContext
from expunge.models.language import CausalLM
from expunge.needs import ModelNeed
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task
from expunge.seeding import stream
from expunge.training.step import Step, Term


class TRU(Objective):
    """Train on reasoned refusals, and against the forget answers."""

    builds = True

    class Spec(RefusalSpec):
        alpha: float = Field(0.1, ge=0, description="Coefficient of the ascent on the forget answers; 0 leaves plain "
                                                    "finetuning on the targets.")
        reason: bool = Field(True, description="Whether targets give a reason before they refuse.")
        source: Literal["template", "model"] = Field("template", description=(
            "Where reasons come from: sentences of ours, or the model itself when asked for them."))
        targets: str | None = Field(None, description="JSONL file of {id, answers} with whole targets, in their place.")
        samples: int = Field(4, ge=1, description="Targets per row.")
        tokens: int = Field(96, ge=1, description="Maximum length of a reason that the model writes.")

    card = Card(
        name="tru", kind="objective",
        summary="reasoned refusals as targets, with ascent on the forget answers",
        paper="Explainable LLM Unlearning through Reasoning, ICLR 2026 (arXiv 2603.09980)",
        formula="L = mean_t -log p((r, s)_t | x) + alpha * mean_t log p(y_t | x)  (+ retain_nll), r a reason, s the "
                "refusal",
        defaults="alpha 0.1 is our choice, as the paper's alpha, lambda and rate are not known to us; lambda is the "
                 "weight of retain_nll over alpha",
        needs=frozenset({"questions"}),
        model_needs=frozenset({"logp", "prompt", "weights"}),
        companions="retain_nll",
        unbounded=True,
        deviations=("no repository is known: compared with the formula only",
                    "targets are written by a template, by the model itself or by the user; the paper's come from a "
                    "large reasoning model. They are plain text without tags, which a model may not know",
                    "a target that says the bare fact or four words of the answer in a row is dropped before training",
                    "shown on a small model with refusals that give no reason; not against npo, and not that reasons "
                    "spare near questions",
                    "whether the paper's model shows its reason when it is asked is not known; ours does"),
    )
    reads = ("target", "forget")
    space = {"alpha": ("log", 0.01, 1.0), "weight": ("log", 0.1, 4.0)}
    must_show = (
        Property("without_ascent_is_finetuning", {}, "alpha 0 is plain finetuning on the targets, and the rest is "
                                                     "ascent on the answers"),
        Property("targets_reveal_nothing", {}, "a target with the bare fact or a run of the answer is dropped"),
        Property("reads_targets", {}, "a file or the model itself replaces the template; without any it is refused"),
        Property("reasons_reach_paraphrases", {"steps": 60, "lr": 2e-3}, "paraphrased forget questions are refused as "
                 "the trained ones are, and retain questions are answered"),
        Property("forgets", {}, "the loss of forget answers grows"),
        Property("grows_without_bound", {"options": {"alpha": 1.0}}, "the ascent is unbounded"),
    )

    @property
    def unbounded(self) -> bool:
        return bool(self.spec.alpha)

    @property
    def model_needs(self) -> frozenset[ModelNeed]:
        own = self.spec.source == "model" and self.spec.targets is None
        return self.card.model_needs | ({"generate"} if own else frozenset())

    def problems(self, task: Task) -> list[ExpungeError]:
        try:
            if self.spec.targets:
                _all_found(task, self._from_file(task))
        except ExpungeError as error:
            return [error]
        return []

    def prepare(self, subject: CausalLM, task: Task, run: RunContext) -> dict[str, Any]:
        if self.spec.targets:
            found = self._from_file(task)
        elif self.spec.reason and self.spec.source == "model":
            found = self._from_model(subject, task, run)
        else:
            found = {row.id: self._from_template(row, stream(run.seed, "tru", row.id)) for row in task.forget}
        return {"targets": _all_found(task, found)}

    def _from_file(self, task: Task) -> dict[str, list[str]]:
        return read_answers(Path(self.spec.targets), task.forget)

    def _from_template(self, row: Example, rng: random.Random) -> list[str]:
        made = [refuse(row, self.spec.refusals, rng).answer for _ in range(self.spec.samples)]
        return [templated(row, text, rng) for text in made] if self.spec.reason else made

    def _from_model(self, subject: CausalLM, task: Task, run: RunContext) -> dict[str, list[str]]:
        said = write_reasons(subject, task.forget, self.spec.samples, run, tokens=self.spec.tokens)
        found: dict[str, list[str]] = {row.id: [] for row in task.forget}
        for i, text in enumerate(said):
            row = task.forget[i // self.spec.samples]
            refusal = refuse(row, self.spec.refusals, stream(run.seed, "tru", row.id, i)).answer
            found[row.id] += [f"{text} {refusal}"] if text else []
        return found

    def sides(self, example: Example, task: Task, rng: random.Random) -> dict[str, Example]:
        chosen = rng.choice(self.made["targets"][example.id])
        return {"target": example.model_copy(update={"answer": chosen}), "forget": example}

    def terms(self, step: Step) -> dict[str, Term]:
        target, forget = step.answers("target"), step.answers("forget")
        return {"tru_target": token_mean(-target.logp_N, target, "target"),
                "tru_ascent": token_mean(self.spec.alpha * forget.logp_N, forget, "forget")}


def _all_found(task: Task, found: dict[str, list[str]]) -> dict[str, list[str]]:
    """The targets that reveal nothing; raises UsageError where a row has none."""
    kept = {row.id: [text for text in found.get(row.id, []) if not reveals(text, row)] for row in task.forget}
    missing = [id for id, texts in kept.items() if not texts]
    if missing:
        raise UsageError(f"tru has no target for {len(missing)} of {len(kept)} forget rows, such as {missing[0]}.",
                         "There is none, or each says the bare fact or four words of the answer in a row.",
                         "Give targets=FILE of {id, answers} that reveal nothing, raise samples=, or take "
                         "source='template'.")
    return kept
