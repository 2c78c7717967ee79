"""Worst case: which rows are hardest to forget? A set is chosen by two nested optimisations, then forgotten.

Source: Challenging Forgets: Unveiling the Worst-Case Forget Sets in Machine Unlearning (arXiv 2403.07362).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from expunge import api
from expunge.errors import UsageError
from expunge.methods.optimizers.sign_sgd import SignDescent
from expunge.models.load import config_from, load_subject
from expunge.models.scope import Scope
from expunge.models.subject import AnySubject
from expunge.models.tiny import build_for
from expunge.records.study import Found, StudyChart
from expunge.records.task import Example, Task
from expunge.seeding import derive, stream
from expunge.studies.design import Design, Measured
from expunge.training.plain import Plain, train_plainly
from expunge.training.step import Role, Step, Term, WeightedTerm

Array = NDArray[np.float64]
LEVELS = ("rows", "entities")
HARDEST, EASIEST = "hardest", "easiest"
ORIGINAL, RETRAINED = "original", "retrained"
SELECTIONS, RATE, PENALTY = 6, 0.1, 1e-4
"""Rounds of selection, learning rate of the weights and gamma. The authors' rate is 0.01, with sets binarised every
few rounds; at 0.1 weights reach 0 and 1 by themselves."""
TOGETHER = 24
"""Rows of a step of the inner level."""


def projected(values_n: Array, total: float) -> Array:
    """The nearest weights with 0 <= w <= 1 that add up to `total`: clamp(a - mu, 0, 1), mu by bisection."""
    if not 0 <= total <= len(values_n):
        raise ValueError(f"{len(values_n)} weights of at most 1 cannot add up to {total}")
    low, high = float(values_n.min()) - 1, float(values_n.max())
    for _ in range(200):
        middle = (low + high) / 2
        above = np.clip(values_n - middle, 0, 1).sum() > total
        low, high = (middle, high) if above else (low, middle)
    return np.clip(values_n - high, 0, 1)


class PartlyKept(Plain):
    """Mean loss of the rows, each times 1 - w; every weight moves by the sign of its gradient.

    The sign takes the dependence of the update on w away, so that the outer level needs no second derivative.
    """

    def __init__(self, lr: float, kept: Mapping[str, float]) -> None:
        super().__init__(lr, weight_decay=0.0)
        self._kept = kept
        self.clip = None

    def terms(self, step: Step, only: Role | None = None) -> list[WeightedTerm]:
        answers = step.answers("rows")
        kept_B = torch.tensor([self._kept[row.id] for row in answers.batch.rows], device=answers.logp_N.device)
        return [WeightedTerm("nll", "retain", 1.0, Term(-answers.per_row(answers.logp_N) * kept_B, "tokens", "rows"))]

    def optimizer(self, scope: Scope) -> torch.optim.Optimizer:
        return SignDescent(list(scope.parameters.values()), lr=self.lr)


def chosen_by(units: Mapping[str, Sequence[Example]], start: Callable[[int], AnySubject], size: int, *, steps: int,
              lr: float, sign: int = 1, seed: int = 0) -> tuple[list[str], list[float]]:
    """The units whose rows are said without having been learned; with sign -1 those that are missed most.

    Inner level: some steps on all rows, each row weighed by 1 - w, from what `start` gives. Outer level: w falls with
    the loss that a unit then has.

    Args:
        start: round -> the model that the inner level begins with. New weights are the authors' option "retrain". Some
            steps from the original, their other option, hardly change a small model that knows all rows by heart.

    Returns:
        names of the units, and their mean loss after each round of the inner level.
    """
    names, rows = list(units), [row for each in units.values() for row in each]
    w_n, curve = np.full(len(names), size / len(names)), list[float]()
    for number in range(SELECTIONS):
        subject = start(number)
        kept = {row.id: 1 - float(w) for name, w in zip(names, w_n, strict=True) for row in units[name]}
        train_plainly(subject, Scope(subject, tuple(name for name, _ in subject.model.named_parameters())), rows,
                      PartlyKept(lr, kept), steps=steps, batch_size=TOGETHER, seed=derive(seed, "worst case", number))
        read = dict(zip((row.id for row in rows), readings(subject, rows), strict=True))
        loss_n = np.asarray([fmean(read[row.id][0] for row in units[name]) for name in names])
        w_n = projected(w_n - sign * RATE * (loss_n + 2 * PENALTY * w_n), size)
        top = np.argsort(-w_n, kind="stable")[:size]
        curve.append(float(loss_n[top].mean()))
    return [names[i] for i in sorted(top)], curve


def readings(subject: AnySubject, rows: Sequence[Example]) -> list[tuple[float, float]]:
    """Loss per supervised unit in nats, and the share of units that the model says first, of each row."""
    encoded, found = [subject.encoder.encode(row) for row in rows], [(0.0, 0.0)] * len(rows)
    with subject.evaluating():
        for chosen in subject.encoder.batches(encoded, list(range(len(rows)))):
            answers = subject.answers(subject.collate([encoded[i] for i in chosen]))
            right_N = (answers.logits_NV.argmax(-1) == answers.batch.target_N).float()
            for i, logp, right in zip(chosen, answers.row_means(answers.logp_N).tolist(),
                                      answers.row_means(right_N).tolist(), strict=True):
                found[i] = (-logp, right)
    return found


class WorstCase(Design):
    """Each part is one level: single rows, or all rows of an entity. Every set is forgotten and trained without."""

    name: ClassVar[str] = "worst_case"
    world: ClassVar[str] = "authors(forget=3, retain=9, holdout=0, neighbours=0)"
    defaults: ClassVar[dict[str, Any]] = {
        "count": 3, "steps": 20, "lr": 1e-3, "epochs": 4.0, "batch_size": 8,
        "method": "l1_sparse(gamma=1e-4) + adamw(lr=1e-3); npo + retain_nll(weight=3) + adamw(lr=3e-4)"}

    @cached_property
    def units(self) -> dict[str, dict[str, list[Example]]]:
        """Level -> unit -> its rows."""
        found: dict[str, dict[str, list[Example]]] = {level: {} for level in LEVELS}
        for row in self.task.forget + self.task.retain:
            found["rows"][row.id] = [row]
            found["entities"].setdefault(row.entity or row.id, []).append(row)
        return {level: each for level, each in found.items() if level == "rows" or len(each) < len(found["rows"])}

    def many(self, level: str) -> int:
        """How many units are forgotten: as many as the task's."""
        return len({row.id if level == "rows" else row.entity or row.id for row in self.task.forget})

    def planned(self) -> list[str]:
        for level, units in self.units.items():
            if len(units) < 2 * self.many(level):
                raise UsageError("The task has too few rows for a choice.", f"Of {len(units)} {level}, "
                                 f"{self.many(level)} are to be forgotten.", "Give at least as many rows to keep as "
                                 "to forget, or leave --task out for the built-in world.")
        for recipe in self.recipes:
            api.plan_untrained(self._size, task=self.task, **self.unlearning(recipe))
        return list(self.units)

    @property
    def _size(self) -> str:
        return "cnn" if self.size == "tiny" and any(row.image is not None for row in self.task.forget) else self.size

    def measure(self, part: str) -> dict[str, Any]:
        units, size, spec = self.units[part], self.many(part), self.settings
        whole = self._task("all", list(units)[:size], units)
        original = self.trained(whole, "full", self.work / "original", size=self._size)
        sets, curves = dict[str, list[str]](), dict[str, list[float]]()
        for name, sign in ((HARDEST, 1), (EASIEST, -1)):
            sets[name], curves[name] = chosen_by(units, self._new, size, steps=spec.steps or 1, lr=spec.lr or 0.0,
                                                 sign=sign, seed=spec.seed)
        for number in range(spec.count or 1):
            names = list(units)
            stream(spec.seed, "worst case", part, number).shuffle(names)
            sets[f"random {number}"] = names[:size]
        return {"sets": sets, "curves": curves, "read": {
            name: self._read(self._task(name, chosen, units), original, self.work / part / name.replace(" ", "-"))
            for name, chosen in sets.items()}}

    def _task(self, name: str, chosen: Sequence[str], units: Mapping[str, Sequence[Example]]) -> Task:
        """These units are forgotten, and the others kept."""
        out = set(chosen)
        return self.task.model_copy(update={
            "name": f"{self.task.name}, {name}", "probes": {}, "holdout": (), "neighbour": (), "utility": (),
            "forget": tuple(row for unit, rows in units.items() if unit in out for row in rows),
            "retain": tuple(row for unit, rows in units.items() if unit not in out for row in rows)})

    def _read(self, task: Task, original: Path, place: Path) -> dict[str, Any]:
        """Loss on the set and share of it that is still said, of the original and of models without it."""
        retrained = self.trained(task, "retain", place / RETRAINED, size=self._size)
        places = {ORIGINAL: original, RETRAINED: retrained}
        for i, recipe in enumerate(self.recipes):
            places[recipe] = self.unlearned(original, task, recipe, place / f"recipe-{i}")
        found: dict[str, Any] = {}
        for name, model in places.items():
            subject = self._load(model)
            read, kept = readings(subject, task.forget), readings(subject, task.retain)
            found[name] = {"loss": fmean(loss for loss, _ in read), "said": fmean(right for _, right in read),
                           "kept": fmean(right for _, right in kept)}
        return found

    def _new(self, number: int) -> AnySubject:
        """New weights for a round of the inner level."""
        return build_for(config_from(self._size), self.task, seed=derive(self.settings.seed, "inner level", number))

    def _load(self, place: Path) -> AnySubject:
        return load_subject(place, template=self.task.template)

    def found(self, parts: Measured) -> Found:
        said, figures, charts = list[str](), dict[str, Any](), list[StudyChart]()
        for level, part in parts.items():
            read = part["read"]
            drawn = [name for name in read if name not in (HARDEST, EASIEST)]
            figures[level] = {model: {key: {HARDEST: read[HARDEST][model][key],
                                            "random": [read[name][model][key] for name in drawn],
                                            EASIEST: read[EASIEST][model][key]} for key in ("loss", "said", "kept")}
                              for model in (ORIGINAL, RETRAINED, *self.recipes)}
            for model in (RETRAINED, *self.recipes):
                verb = "trained without it" if model == RETRAINED else f"unlearned by {model}"
                line = f"{level}, {verb}: {in_words(figures[level][model])}"
                if model != RETRAINED:  # the low loss of retraining is no failure of a method: its distance may be
                    figures[level][model]["gap"] = gap = apart(figures[level][model], figures[level][RETRAINED])
                    line += f" Distance of its loss from retraining: {spread_of(gap)}."
                said.append(line)
            charts.append(StudyChart(
                title=f"Choosing {level}", x="round of the inner level", y="loss of the chosen after it, nats",
                series={name: list(enumerate(curve, 1)) for name, curve in part["curves"].items()}))
        return Found(findings=tuple(said), figures=figures, charts=tuple(charts))


def apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """|loss - loss of the other model|, set by set."""
    mine, theirs = one["loss"], other["loss"]
    return {HARDEST: abs(mine[HARDEST] - theirs[HARDEST]), EASIEST: abs(mine[EASIEST] - theirs[EASIEST]),
            "random": [abs(a - b) for a, b in zip(mine["random"], theirs["random"], strict=True)]}


def spread_of(one: Mapping[str, Any]) -> str:
    """A figure on the hardest set, the random ones and the easiest."""
    return (f"{one[HARDEST]:.2g} on the hardest set, {min(one['random']):.2g} to {max(one['random']):.2g} on random "
            f"ones, {one[EASIEST]:.2g} on the easiest")


def in_words(figures: Mapping[str, Any]) -> str:
    """The loss of the sets, whether their order is the published one, and the share that is still said."""
    loss = figures["loss"]
    below, sets = sum(loss[HARDEST] < other for other in loss["random"]), len(loss["random"])
    claim = ("as published, the hardest set is forgotten less than every random one" if below == sets else
             f"not as published: the hardest set is forgotten less than {below} of {sets} random ones")
    return f"loss {spread_of(loss)}; {claim}. Share of it still said: {spread_of(figures['said'])}."
