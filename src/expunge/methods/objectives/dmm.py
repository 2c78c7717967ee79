"""DMM: match the outputs that a datamodel predicts for a model trained without the forget rows."""

from __future__ import annotations

import random
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from expunge.errors import ExpungeError
from expunge.methods._lib.datamodels import (
    groups_of,
    inclusions,
    influence,
    margins_of,
    resampled,
    token_margins,
)
from expunge.methods._lib.weighted_likelihood import token_mean
from expunge.methods.base import Objective, WeightedSpec
from expunge.methods.run_context import RunContext
from expunge.models.load import load_subject, read_config
from expunge.models.subject import Subject
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task
from expunge.seeding import stream
from expunge.training.step import Step, Term


def without(outputs_N: Tensor, effects_GN: Tensor) -> Tensor:
    """f(x; theta_0) - sum of beta_z(x) over all z that are deleted; shape N."""
    return outputs_N - effects_GN.sum(0)


class DMM(Objective):
    """Predict by resampling what retraining would say, and distil it into the model."""

    builds = True

    class Spec(WeightedSpec):
        models: int = Field(16, ge=2, description="Trainings on random parts of the forget entities.")
        share: float = Field(0.5, gt=0, lt=1, description="Share of these trainings that include a group of entities.")
        epochs: float = Field(30.0, gt=0, description="Passes of each training over its rows.")
        lr: float = Field(3e-3, gt=0, description="Learning rate of these trainings.")
        base: str | None = Field(None, description="Model that each starts from and that never met the forget rows; "
                                                   "new weights if left out, as the small built-in models have.")
        ridge: float = Field(0.1, ge=0, description="Ridge of the regression, in trainings.")
        kept: int = Field(256, ge=1, description="Retain rows whose outputs are matched too, drawn with the seed.")
        oracle: str | None = Field(None, description="A retrained model whose outputs are matched in place of "
                                                     "predicted ones: oracle matching, the upper bound.")

    card = Card(
        name="dmm", kind="objective",
        summary="match the outputs predicted for a model retrained without the forget rows",
        paper="Georgiev et al. 2024, Attribute-to-Delete: Machine Unlearning via Datamodel Matching (arXiv 2410.23232, "
              "ICLR 2025)",
        formula="L = mean_t (m_t - m^_t)^2 on forget and retain rows, m = log p - log(1 - p), "
                "m^ = m_0 - sum_z beta_z, beta by regression of m on the inclusion of each group z",
        defaults="ours: 16 trainings that include half of the groups. The paper's number of models, rates and retain "
                 "sample are not known to us",
        needs=frozenset({"retain"}),
        model_needs=frozenset({"logp", "weights"}),
        memory="a second model before the first step",
        deviations=("influence by resampling only, so for models that can be trained many times; TRAK and other "
                    "approximations of it are not built",
                    "entities are deleted in groups, one per two trainings at most: only the sum of effects is needed, "
                    "and with more groups than trainings least squares would lose part of it",
                    "only forget entities are resampled: all other rows are in every training",
                    "margins of answer tokens are matched, which a constant on all logits does not change; the paper "
                    "matches logits",
                    "rows of one entity stay in one group",
                    "retain rows are drawn once; whether the paper draws them again is not known to us",
                    "the authors' code of the method is not public, so nothing was compared: theirs is the measure, "
                    "which `expunge shadows` reports"),
    )
    reads: ClassVar[tuple[str, ...]] = ("forget", "kept")
    space = {"weight": ("log", 0.01, 1.0), "share": ("choice", 0.5, 0.8)}
    must_show = (
        Property("effects_are_exact_on_ridge", {}, "on ridge regression the predicted outputs are those of retraining "
                                                   "without k rows within 1e-2"),
        Property("inclusion_is_balanced", {}, "every entity is in the same number of trainings, and out of others"),
        Property("margin_is_logit_contrast", {}, "the token's logit less the log-sum-exp of the others, whatever is "
                                                 "added to all"),
        Property("oracle_matching_reaches_floor", {}, "matching retrained models brings KLoM to that of these among "
                                                      "themselves"),
        Property("matches_oracle", {"steps": 60, "lr": 3e-4}, "a retrained model's outputs are neared"),
        Property("predicts_retraining", {"models": 6, "epochs": 8.0}, "what is predicted is nearer to a retrained "
                                                                      "model than the original is"),
    )

    def problems(self, task: Task) -> list[ExpungeError]:
        found: list[ExpungeError] = []
        for path in filter(None, (self.spec.base, self.spec.oracle)):
            try:
                read_config(path)
            except ExpungeError as error:
                found.append(error)
        return found

    def prepare(self, subject: Subject, task: Task, run: RunContext) -> dict[str, Any]:
        spec, retain = self.spec, list(task.retain)
        kept = retain if len(retain) <= spec.kept else stream(run.seed, "dmm").sample(retain, spec.kept)
        rows = [*task.forget, *kept]
        targets = self.oracle(subject, rows) if spec.oracle else self.predicted(subject, task, rows, run)
        return {"kept": [row.id for row in kept],
                "targets": {row.id: target.tolist() for row, target in zip(rows, targets, strict=True)}}

    def oracle(self, subject: Subject, rows: list[Example]) -> list[Tensor]:
        return margins_of(load_subject(self.spec.oracle, encoder=subject.encoder, device=subject.device), rows)

    def predicted(self, subject: Subject, task: Task, rows: list[Example], run: RunContext) -> list[Tensor]:
        """Margins that a model retrained without the forget rows would have, per row."""
        spec, now = self.spec, margins_of(subject, rows)
        groups = groups_of(task.forget, spec.models // 2, run.seed)
        included_MG = inclusions(len(groups), spec.models, spec.share, run.seed)
        trained = resampled(subject, task, groups, included_MG, run, base=spec.base, epochs=spec.epochs, lr=spec.lr)
        outputs_MN = torch.stack([torch.cat(margins_of(model, rows)) for model in trained])
        found_N = without(torch.cat(now), influence(included_MG, outputs_MN, spec.ridge))
        return list(found_N.split([len(row) for row in now]))

    def sides(self, example: Example, task: Task, rng: random.Random) -> dict[str, Example]:
        wanted = rng.choice(self.made["kept"])
        return {"forget": example, "kept": next(row for row in task.retain if row.id == wanted)}

    def terms(self, step: Step) -> dict[str, Term]:
        found = {}
        for name, side in (("dmm", "forget"), ("dmm_kept", "kept")):
            answers = step.answers(side)
            aims = [aim for row in answers.batch.rows for aim in self.made["targets"][row.id]]
            off_N = token_margins(answers.logp_N) - torch.tensor(aims).to(answers.logp_N)
            found[name] = token_mean(off_N.square(), answers, side)
        return found
