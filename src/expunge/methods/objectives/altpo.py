"""AltPO: preference optimisation towards other answers that the model itself makes up."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from expunge.errors import ExpungeError, UsageError
from expunge.methods._lib.inverted import read_answers, usable
from expunge.methods._lib.weighted_likelihood import log_ratio, sequence_mean
from expunge.methods.base import Objective, WeightedSpec
from expunge.methods.objectives.dpo import preference
from expunge.methods.work import Work
from expunge.models.language import CausalLM
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task
from expunge.seeding import derive
from expunge.training.step import Step, Term

ASK = ("Question: {question}\nAnswer: {answer}\n\nThis answer is known. Make up another one of the same form that "
       "fits the question just as well but states different facts. Reply with the new answer only.")
ASK_TEXT = ("{answer}\n\nMake up another text of the same form in which every fact is a different one. "
            "Reply with the new text only.")


def _whole(found: dict[str, list[str]], advice: str) -> dict[str, list[str]]:
    """The same, when every row has an alternate."""
    missing = [id for id, texts in found.items() if not texts]
    if missing:
        raise UsageError(f"altpo has no alternate for {len(missing)} of {len(found)} forget rows, such as "
                         f"{missing[0]}.",
                         "What there is repeats the truth, is empty, or found no room in the context; models without "
                         "instruction tuning often write such answers.", advice)
    return found


class AltPO(Objective):
    """Prefer a made-up answer to the memorised one, relative to the original model."""

    class Spec(WeightedSpec):
        beta: float = Field(0.1, gt=0, description="Inverse temperature on the difference of the two log ratios.")
        samples: int = Field(5, ge=1, description="Alternates the model is asked for per row.")
        temperature: float = Field(1.0, gt=0, description="Of the sampling.")
        max_new_tokens: int = Field(200, ge=1, description="Longest alternate.")
        prompt: str = Field(ASK, description="How the model is asked; {question} and {answer} stand for the row's.")
        alternates: str | None = Field(None, description="JSONL file of {id, answers} to take in place of asking "
                                                         "the model.")

    card = Card(
        name="altpo", kind="objective",
        summary="preference optimisation: answers the model makes up are preferred to the true one",
        paper="Mekala et al. 2024, Alternate Preference Optimization (arXiv 2409.13474)",
        formula="L = -(2/beta) * mean log sigmoid(beta * (log(P_alt/P0_alt) - log(P_true/P0_true)))  (+ retain_nll)",
        defaults="beta 0.1 of {0.05, 0.1, 0.5}, 5 samples at temperature 1 of at most 200 tokens; lr 1e-5 to 5e-5, "
                 "retain weight 1 to 5, 2 epochs over all five alternates",
        needs=frozenset({"reference.logp"}),
        model_needs=frozenset({"generate", "logp", "prompt", "weights"}),
        companions="retain_nll",
        deviations=("an epoch draws one alternate per row at random; 5 epochs are one published epoch",
                    "the request is in our own words and goes through the run's template; it presumes a model tuned on "
                    "instructions. A small base model strings together what it has seen: fluent at best, often off the "
                    "question. prompt= changes the request, alternates= brings answers from elsewhere",
                    "alternates that repeat more than 0.9 of the truth (ROUGE-L recall), repeat each other or are "
                    "empty are dropped; a row left with none stops the run before the first step",
                    "alternates are cut at Question: or Q: after they are written, not while",
                    "running text is asked for as a text"),
    )
    reads = ("forget", "alternate")
    builds = True
    space = {"beta": ("choice", 0.05, 0.1, 0.5), "weight": ("log", 0.05, 2.0)}
    must_show = (
        Property("loss_at_start", {"per_beta": 2.0}, "(2/beta) log 2 when the model is its reference"),
        Property("with_refusals_is_dpo", {}, "with refusals for alternates it is IDK-DPO"),
        Property("stays_on_topic", {"unlike": "npo + retain_nll"}, "answers differ from the truth and stay likely "
                                                                  "under the original, which npo's do not"),
        Property("writes_alternates", {}, "alternates are the model's own, seeded, and no copies of the truth"),
        Property("says_when_nothing_survives", {}, "a row without an alternate stops the run with advice"),
        Property("reads_answers", {"option": "alternates"}, "a file takes the place of asking the model"),
        Property("leaves_no_mark", {}, "building changes neither weights nor the global random state"),
        Property("forgets", {}, "the loss of forget answers grows"),
        Property("never_negative", {}, "bounded below by zero"),
    )

    def _ask(self, subject: CausalLM, row: Example) -> tuple[int, ...]:
        words = self.spec.prompt if row.prompt else ASK_TEXT
        asked = words.replace("{question}", row.prompt).replace("{answer}", row.answer)
        return subject.encoder.prompt(Example(id=row.id, prompt=asked, answer=""))

    def _from_file(self, rows: Sequence[Example]) -> dict[str, list[str]]:
        found = read_answers(Path(self.spec.alternates), rows)
        return _whole({row.id: usable(found.get(row.id, []), row.answer) for row in rows},
                      "Every forget row needs an answer in the file that does not repeat the truth.")

    def problems(self, task: Task) -> list[ExpungeError]:
        try:
            if self.spec.alternates:
                self._from_file(task.forget)
        except ExpungeError as error:
            return [error]
        return []

    def prepare(self, subject: CausalLM, task: Task, work: Work) -> dict[str, Any]:
        spec = self.spec
        if spec.alternates:
            return {"alternates": self._from_file(task.forget)}
        asked = {row.id: self._ask(subject, row) for row in task.forget}
        # A request without room behind it gets no answer, rather than one word.
        fits = [row for row in task.forget if subject.context is None or len(asked[row.id]) < subject.context]
        prompts = [asked[row.id] for row in fits for _ in range(spec.samples)]
        said = [text for text, _ in subject.generate(
            prompts, spec.max_new_tokens, temperature=spec.temperature, seed=derive(work.seed, "altpo"),
            progress=work.announce("alternates", len(prompts)))]
        found = {row.id: list[str]() for row in task.forget}
        for i, row in enumerate(fits):
            found[row.id] = usable(said[i * spec.samples: (i + 1) * spec.samples], row.answer)
        return {"alternates": _whole(found, "Raise samples= or temperature=, ask in other words with prompt=, give "
                                            "alternates=FILE of {id, answers}, or use dpo or meow.")}

    def sides(self, example: Example, task: Task, rng: random.Random) -> dict[str, Example]:
        chosen = rng.choice(self.made["alternates"][example.id])
        return {"forget": example, "alternate": example.model_copy(update={"answer": chosen})}

    def terms(self, step: Step) -> dict[str, Term]:
        loss_B = preference(log_ratio(step, "alternate"), log_ratio(step, "forget"), self.spec.beta)
        return {"altpo": sequence_mean(loss_B, "forget")}
