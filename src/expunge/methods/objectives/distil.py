"""Distillation: teach damaged weights what another model says, on rows that are not to be forgotten."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Literal, cast

from pydantic import Field, model_validator
from torch import Tensor

from expunge.errors import ExpungeError, UsageError
from expunge.methods._lib.divergence import kl, only_likeliest, tempered
from expunge.methods._lib.weighted_likelihood import token_mean
from expunge.methods._lib.written_rows import forbidden_words, generic_row, generic_texts, own_answers
from expunge.methods.base import Objective, Teacher, WeightedSpec
from expunge.methods.run_context import RunContext
from expunge.models.answers import Answers
from expunge.models.subject import AnySubject
from expunge.needs import ModelNeed
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task
from expunge.training.step import Step, Term

Source = Literal["retain", "background", "generic", "self"]


class Distil(Objective):
    """Teach the student the teacher's distributions. What the student never saw cannot be relearned quickly."""

    forgets = False

    class Spec(WeightedSpec):
        teacher: Teacher = Field("previous", description=(
            "previous: the result of the stages before, without the shrink_perturb that damaged it; guard: the same, "
            "which must be a guarded model; original: the model that the run starts from."))
        data: list[Source] = Field(["retain", "background"], min_length=1, description=(
            "Rows to learn from: retain; background (other rows that the task was trained on); generic (text that the "
            "teacher writes from nothing); self (answers that the teacher samples to the forget questions)."))
        kl: Literal["forward", "reverse"] = Field("forward", description="forward: KL(teacher || student); reverse: "
                                                                         "KL(student || teacher).")
        temperature: float = Field(1.0, gt=0, le=100, description="Of both distributions; the loss is multiplied by "
                                                                  "its square.")
        likeliest: int | None = Field(None, ge=1, description="Only the teacher's likeliest tokens, scaled to 1; "
                                                              "all if left out. The small ones name the forgotten.")
        epochs: float | None = Field(None, gt=0, description="Passes over these rows; --epochs (or --steps) if left "
                                                             "out.")
        texts: int = Field(64, ge=1, description="Number of generic texts.")
        samples: int = Field(2, ge=1, description="Answers per forget question, for data self.")
        tokens: int = Field(48, ge=1, description="Most new tokens of a text or an answer.")

        @model_validator(mode="after")
        def check_direction(self) -> Distil.Spec:
            if self.likeliest is not None and self.kl == "reverse":
                raise ValueError("likeliest goes with kl='forward': the reverse would be infinite")
            return self

    card = Card(
        name="distil", kind="objective",
        summary="teach another stage's model to damaged weights (UNDO), or a guarded model to plain ones",
        paper="Lee et al. 2025, Distillation Robustifies Unlearning (arXiv 2506.06278); Hinton et al. 2015, Distilling "
              "the Knowledge in a Neural Network (arXiv 1503.02531)",
        formula="L = T^2 mean_t KL(softmax(z_teacher / T) || softmax(z / T)), or the reverse",
        defaults="forward at temperature 1 (the authors' code); with adamw(lr=7e-4) and alpha 0.6 for 0.3B parameters, "
                 "lr 2e-5 and alpha 0.25 for 2B",
        needs=frozenset({"reference.logits"}),
        model_needs=frozenset({"distribution", "weights"}),
        memory="the teacher's last states of every row, or the teacher itself where they are larger",
        deviations=("no forget row by default: the authors distil on text that holds the forgotten domain, labelled by "
                    "the teacher; data=[\"self\"] does so with the teacher's own answers, and brings the right option "
                    "back with them",
                    "only supervised tokens count: answers of questions, and all tokens of running text",
                    "a fixed number of passes; the authors stop once the retain loss is within 5% of the teacher's",
                    "likeliest= is ours: small probabilities teach the names of the forgotten, which an audit finds",
                    "background rows are rows that an audit may ask as neighbour or utility: with them its utility is "
                    "no longer that of rows which unlearning never saw"),
    )
    reads = ("distil",)
    space = {"temperature": ("choice", 1.0, 2.0), "kl": ("choice", "forward", "reverse"), "weight": ("log", 0.5, 2.0)}
    must_show = (
        Property("teaches_nothing_to_itself", {}, "value and gradient are 0 while the student is the teacher"),
        Property("divergence_of_both", {}, "its definition token by token, in both directions and at any temperature"),
        Property("teaches_only_the_likeliest", {}, "likeliest=K takes the teacher's K likeliest tokens, scaled to 1"),
        Property("reads_no_forget_row", {}, "retain and background rows alone, each once an epoch"),
        Property("writes_its_rows", {}, "generic text and own answers are sampled with the seed and name nobody who "
                                        "is to be forgotten"),
        Property("refills_damaged_weights", {"damage": "shrink_perturb(alpha=0.8)", "steps": 60},
                 "retain answers come back, and forget answers no nearer than answers never seen"),
        Property("relearns_slower", {"damage": "shrink_perturb(alpha=0.8)", "steps": 60, "again": 20},
                 "what was never taught comes back more slowly, and to a lower level"),
    )

    @property
    def teacher(self) -> Teacher:
        return cast(Teacher, self.spec.teacher)

    @property
    def epochs(self) -> float | None:
        return cast("float | None", self.spec.epochs)

    @property
    def builds(self) -> bool:
        return bool({"generic", "self"} & set(self.spec.data))

    @property
    def model_needs(self) -> frozenset[ModelNeed]:
        return self.card.model_needs | ({"generate", "prompt"} if self.builds else frozenset())

    def problems(self, task: Task) -> list[ExpungeError]:
        if self.rows(task):
            return []
        return [UsageError(f"distil has no rows to teach on: the task has no {' and no '.join(self.spec.data)} rows.",
                           fix="Give --retain FILE, or distil(data=[\"generic\"]).")]

    def prepare(self, subject: AnySubject, task: Task, run: RunContext) -> dict[str, Any]:
        spec, made = self.spec, list[Example]()
        if "generic" in spec.data:
            texts = generic_texts(subject, spec.texts, run, tokens=spec.tokens, temperature=1.0,
                                  forbidden=forbidden_words(task.forget))
            made += [generic_row(i, text) for i, text in enumerate(texts)]
        if "self" in spec.data:
            made += own_answers(subject, task.forget, spec.samples, run, tokens=spec.tokens, temperature=1.0)
        return {"rows": [row.to_json() for row in made]}

    def rows(self, task: Task) -> Sequence[Example]:
        """Each row once; before `prepare` those to be written are counted by stand-ins."""
        given = [row for side in ("retain", "background") if side in self.spec.data for row in getattr(task, side)]
        made = getattr(self, "made", None)
        written = [Example(**row) for row in made["rows"]] if made else self._stand_ins(task)
        return list(dict.fromkeys((*given, *written)))

    def _stand_ins(self, task: Task) -> list[Example]:
        asked = [row for row in task.forget if row.asks] if "self" in self.spec.data else []
        count = self.spec.texts if "generic" in self.spec.data else 0
        return [generic_row(i, "-") for i in range(count + len(asked) * self.spec.samples)]

    def sides(self, example: Example, task: Task, rng: random.Random) -> dict[str, Example]:
        return {"distil": example}

    def terms(self, step: Step) -> dict[str, Term]:
        answers = step.answers("distil")
        return {"distil": token_mean(self.divergence(step.reference.answers(answers.batch), answers), answers,
                                     "distil")}

    def divergence(self, teacher: Answers, student: Answers) -> Tensor:
        """Of every supervised token, in nats; shape N."""
        if self.spec.kl == "forward" and self.spec.temperature == 1 and self.spec.likeliest is None:
            return kl(teacher.source, student.source)
        return tempered(only_likeliest(teacher.logits_NV, self.spec.likeliest), student.logits_NV,
                        self.spec.temperature, reverse=self.spec.kl == "reverse")
