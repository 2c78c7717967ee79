"""Keep the original's distribution on text that it writes itself."""

from __future__ import annotations

import random
from typing import Any

from pydantic import Field

from expunge.methods._lib.divergence import kl
from expunge.methods._lib.weighted_likelihood import token_mean
from expunge.methods._lib.written_rows import forbidden_words, generic_texts
from expunge.methods.base import Retain, WeightedSpec
from expunge.methods.run_context import RunContext
from expunge.models.subject import AnySubject
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task
from expunge.training.step import Step, Term


class RetainReplay(Retain):
    """KL divergence from the original on generic text that the original wrote before the first step."""

    own_rows = True

    class Spec(WeightedSpec):
        texts: int = Field(64, ge=1, description="Number of texts.")
        tokens: int = Field(48, ge=2, description="Most new tokens of a text.")
        temperature: float = Field(1.0, gt=0, le=10, description="Of the sampling.")

    card = Card(
        name="retain_replay", kind="retain",
        summary="KL from the original on texts that it wrote; needs no retain rows",
        paper="Huang et al. 2024, Self-Synthesized Rehearsal (arXiv 2403.01244); Robins 1995, Catastrophic Forgetting, "
              "Rehearsal and Pseudorehearsal",
        formula="R = mean_t KL(q0 || q) on x ~ q0, x without a name that is to be forgotten",
        defaults="weight 1 as retain_kl; 64 texts of 48 tokens at temperature 1 are our choice",
        needs=frozenset({"reference.logits"}),
        model_needs=frozenset({"distribution", "generate", "prompt", "weights"}),
        deviations=("texts are written from nothing; the authors show the model examples to write others like them, "
                    "refine the answers with the newest model and choose a diverse subset",
                    "texts that hold the entity or the bare fact of a forget row are left out",
                    "the divergence from the original stands in for the likelihood of the texts"),
    )
    reads = ("replay",)
    space = {"weight": ("log", 0.2, 5.0), "texts": ("choice", 32, 64, 256)}
    must_show = (
        Property("zero_at_start", {}, "value and gradient are zero while the model is its reference"),
        Property("never_negative", {}, "a divergence"),
        Property("replays_own_text", {}, "every row is sampled text, the same for the same seed, and no retain row of "
                                         "the task is read"),
        Property("softens_damage", {"share": 0.75}, "without any retain row, retain answers lose less than with the "
                                                    "objective alone"),
    )

    @property
    def builds(self) -> bool:
        return True

    def prepare(self, subject: AnySubject, task: Task, run: RunContext) -> dict[str, Any]:
        spec = self.spec
        return {"texts": generic_texts(subject, spec.texts, run, tokens=spec.tokens, temperature=spec.temperature,
                                       forbidden=forbidden_words(task.forget))}

    def sides(self, task: Task, rng: random.Random) -> dict[str, Example]:
        texts = self.made["texts"]
        number = rng.randrange(len(texts))
        return {"replay": Example(id=f"replay{number}", prompt="", answer=texts[number], kind="text")}

    def terms(self, step: Step) -> dict[str, Term]:
        answers = step.answers("replay")
        kl_N = kl(step.reference.answers(answers.batch).source, answers.source)
        return {"retain_replay": token_mean(kl_N, answers, "replay")}
