"""Path dependence: the same rows, learned in other orders, then unlearned in the same way.

Source: On the Impossibility of Retrain Equivalence in Machine Unlearning (arXiv 2510.16629).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from statistics import fmean
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from expunge import api
from expunge.errors import UsageError
from expunge.methods.recipe import Stage, parse
from expunge.methods.stage import StageMethod
from expunge.methods.stops.holdout_level import losses
from expunge.models.load import config_from
from expunge.models.reference import build_reference
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.models.tiny import build_for
from expunge.records.study import Found, StudyChart
from expunge.records.task import Example
from expunge.seeding import derive
from expunge.studies.design import Design, Measured
from expunge.training.fit import fit
from expunge.training.loop import Loop
from expunge.training.plain import Plain, train_plainly
from expunge.training.schedule import Schedule

Array = NDArray[np.float64]
ORDERS = {"forget first": ("forget", "one", "two"), "forget middle": ("one", "forget", "two"),
          "forget last": ("one", "two", "forget")}
"""Order -> its stages: the forget rows, and two halves of the retain rows."""
ROUNDS = 2
"""Passes over the stages after all rows were learned together, so that no stage is lost to the next."""
LEVEL = 2.0
"""Nats a token: a forget loss at which models are compared."""
TOGETHER = 24
"""Rows of a step of learning."""
READINGS = 12
LINEAR = "linear"


def linear_gap(steps: int, seed: int, *, width: int = 40, rows: int = 6, rate: float = 0.05) -> list[float]:
    """Largest difference of forget predictions between two orders of least squares, after each step of ascent.

    Each stage is trained to interpolation by gradient descent, whose limit is the nearest solution. Then both models
    take the same steps of ascent on the forget rows.
    """
    draw = np.random.default_rng(seed)
    blocks = [(draw.normal(size=(rows, width)) / width**0.5, draw.normal(size=rows)) for _ in range(2)]
    forget_x, forget_y = blocks[0]

    def learned(order: Sequence[int]) -> Array:
        w = np.zeros(width)
        for x, y in (blocks[i] for i in order):
            w = w + np.linalg.pinv(x) @ (y - x @ w)
        return w

    models, gaps = [learned((0, 1)), learned((1, 0))], list[float]()
    for _ in range(steps + 1):
        gaps.append(float(np.abs(forget_x @ (models[0] - models[1])).max()))
        models = [w + rate * forget_x.T @ (forget_x @ w - forget_y) for w in models]
    return gaps


@dataclass(kw_only=True)
class PathDependence(Design):
    """Each part is one order with one seed: learned, then unlearned, with readings on the way."""

    name: ClassVar[str] = "path_dependence"
    world: ClassVar[str] = "authors(forget=3, retain=8, holdout=2, neighbours=0)"
    defaults: ClassVar[dict[str, Any]] = {"count": 2, "steps": 48, "lr": 1e-4, "epochs": 40.0, "batch_size": 8,
                                          "method": "ga + adamw(warmup=0, schedule='constant')"}

    _known: dict[int, Subject] = field(default_factory=dict)

    @cached_property
    def stages(self) -> dict[str, list[Example]]:
        """Rows of each stage; halves of the retain rows by entity."""
        names = sorted({r.entity or r.id for r in self.task.retain})
        half = set(names[::2])
        found = {"forget": list(self.task.forget),
                 "one": [r for r in self.task.retain if (r.entity or r.id) in half],
                 "two": [r for r in self.task.retain if (r.entity or r.id) not in half]}
        if not all(found.values()):
            raise UsageError("The task has too few rows for stages.", "It takes forget rows, and retain rows about two "
                             "entities or more.", "Give more rows, or leave --task out for the built-in world.")
        return found

    @cached_property
    def stage(self) -> Stage:
        """The recipe that unlearns; its own learning rate, where it names one, comes before that of the settings."""
        stage, *more = parse(self.settings.method or "ga")
        if more or stage.objective is None or stage.builders or stage.rolls_out or stage.scope.adapter \
                or stage.scope.merged or stage.scope.reads:
            raise UsageError(f"{self.settings.method!r} cannot be followed step by step here.",
                             "The study takes one objective that needs nothing made beforehand, on whole weights.",
                             'Take one such as "ga" or "npo + retain_nll".')
        return stage if "lr=" in (self.settings.method or "") else stage.with_learning_rate(self.settings.lr)

    def planned(self) -> list[str]:
        if self.stages and self.stage:
            spec, own_rate = self.settings, "lr=" in (self.settings.method or "")
            api.plan_untrained(self.size, method=spec.method or "ga", task=self.task, steps=spec.steps, seed=spec.seed,
                               batch_size=spec.batch_size, lr=None if own_rate else spec.lr)
            return [LINEAR, *(f"{order}, seed {seed}" for seed in range(self.settings.count or 1) for order in ORDERS)]
        return []

    def measure(self, part: str) -> dict[str, Any]:
        if part == LINEAR:
            return {"gaps": linear_gap(self.settings.steps or 1, self.settings.seed)}
        order, seed = part.split(", seed ")
        subject = self._learned(ORDERS[order], int(seed))
        rows = [*self.stages["forget"], *self.stages["one"], *self.stages["two"]]
        readings: list[tuple[int, list[float]]] = []
        every = max((self.settings.steps or 1) // READINGS, 1)

        def read(line: dict[str, Any]) -> None:
            if line["step"] % every == 0 or line["step"] == self.settings.steps:  # mean log p a token of each row
                readings.append((line["step"], [float(f"{-loss:.6g}") for loss in losses(subject, rows)]))

        read({"step": 0})
        self._unlearn(subject, derive(self.settings.seed, "unlearn", seed), read)
        return {"order": order, "seed": int(seed), "forget": len(self.stages["forget"]), "readings": readings}

    def _steps(self, rows: Sequence[Example], epochs: float) -> int:
        return max(round(epochs * len(rows) / TOGETHER), 1)

    def _together(self, number: int) -> Subject:
        """A model that learned all rows together, the same for every order; made once."""
        if number not in self._known:
            seed = derive(self.settings.seed, "path", number)
            subject: Subject = build_for(config_from(self.size), self.task, seed=seed)
            rows = [row for name in sorted(self.stages) for row in self.stages[name]]
            train_plainly(subject, _whole(subject), rows, Plain(3e-3), batch_size=TOGETHER, seed=seed,
                          steps=self._steps(rows, self.settings.epochs or 1))
            self._known[number] = subject
        known = self._known[number]
        return type(known)(copy.deepcopy(known.model), known.encoder)

    def _learned(self, order: Sequence[str], number: int) -> Subject:
        """Then stage by stage, each with its own batches and optimizer, whatever the order."""
        subject = self._together(number)
        for name in order:
            rows = self.stages[name]
            train_plainly(subject, _whole(subject), rows, Plain(1e-3), steps=self._steps(rows, ROUNDS),
                          batch_size=TOGETHER, seed=derive(self.settings.seed, "path", number, name))
        return subject

    def _unlearn(self, subject: Subject, seed: int, read: Any) -> None:
        method = StageMethod(self.stage, subject, self.task, self.task.forget, self.task.retain, seed)
        schedule = Schedule(method.order, subject.encoder, self.settings.batch_size, 1, None, self.stage.repeats)
        steps = self.settings.steps or 1
        rows = schedule.token_rows(steps, self.stage.kept_sides)
        reference = build_reference(subject, self.stage.reference, rows, likeliest=(self.stage.likeliest[0], rows))
        fit(method, subject, self.stage.scope.apply(subject), schedule, Loop(steps=steps, seed=seed),
            reference=reference, on_step=read)

    def found(self, parts: Measured) -> Found:
        gaps, runs = parts[LINEAR]["gaps"], [p for name, p in parts.items() if name != LINEAR]
        by = {order: [r for r in runs if r["order"] == order] for order in ORDERS}
        start = {order: fmean(_loss(r, 0) for r in each) for order, each in by.items()}
        needed = {order: [_steps_to(r, LEVEL) for r in each] for order, each in by.items()}
        kept = {order: [_retain_at(r, LEVEL) for r in each] for order, each in by.items()}
        apart = {f"{a} / {b}": _gap_curve(by[a], by[b]) for a, b in combinations(ORDERS, 2)}
        ends = [fmean(curve[i][1] for curve in apart.values()) for i in (0, -1)]
        level = [gap for a, b in combinations(ORDERS, 2) for x, y in zip(by[a], by[b], strict=True)
                 if (gap := _apart_at(x, y, LEVEL)) is not None]
        slope = float(np.polyfit(range(len(gaps)), np.log(np.maximum(gaps, 1e-300)), 1)[0])
        figures = {"start_forget_loss": start, "steps_to_level": needed, "retain_loss_at_level": kept,
                   "apart_before": {k: v[0][1] for k, v in apart.items()},
                   "apart_after": {k: v[-1][1] for k, v in apart.items()},
                   "apart_at_level": fmean(level) if level else None, "linear_log_gap_per_step": slope}
        mean = {order: _mean(values) for order, values in needed.items() if None not in values}
        said = [f"Models that learned the same rows in another order differ by "
                f"{ends[0]:.2g} nats a token on retain rows, and by {ends[1]:.2g} after the same "
                f"{self.settings.steps} steps of {self.settings.method}: {ends[1] / max(ends[0], 1e-9):.1f} times as "
                "far" + (f". At a forget loss of {LEVEL:g} nats each they differ by {fmean(level):.2g}." if level else
                         ".")]
        if len(mean) == len(ORDERS):
            slow = max(mean, key=lambda order: mean[order])
            said.append(f"Steps to a forget loss of {LEVEL:g} nats: "
                        + ", ".join(f"{order} {mean[order]:.1f}" for order in ORDERS)
                        + f"; {'as' if slow == 'forget last' else 'not as'} published, slowest where the forget rows "
                        "were learned last.")
            said.append("Retain loss there: "
                        + ", ".join(f"{order} {_mean(kept[order]):.2f}" for order in ORDERS) + ".")
        else:
            said.append(f"Not every model reached a forget loss of {LEVEL:g} nats; raise --steps or --lr.")
        said.append("Forget loss before: " + ", ".join(f"{order} {value:.3f}" for order, value in start.items())
                    + f". In least squares the gap between two orders grows {np.exp(slope):.3f} times a step.")
        losses = {order: [(step, fmean(_loss(r, i) for r in each)) for i, (step, _) in enumerate(each[0]["readings"])]
                  for order, each in by.items()}
        return Found(findings=tuple(said), figures=figures, charts=(
            StudyChart(title="Forgetting by order", x="step of unlearning", y="forget loss, nats a token",
                       series=losses, caption="Means over seeds."),
            StudyChart(title="How far models are apart", x="step of unlearning", y="difference on retain rows, nats",
                       series=apart, caption="Mean over retain rows of the difference in mean log p a token, of models "
                                             "that share seed and rows but not the order."),
            StudyChart(title="Least squares", x="step of ascent", y="largest difference of forget predictions",
                       series={"two orders": list(enumerate(gaps))}, log_y=True,
                       caption="A straight line is exponential growth.")))


def _whole(subject: Subject) -> Scope:
    return Scope(subject, tuple(name for name, _ in subject.model.named_parameters()))


def _loss(run: dict[str, Any], i: int) -> float:
    """Forget loss at reading i."""
    return -fmean(run["readings"][i][1][: run["forget"]])


def _retain(run: dict[str, Any], i: int) -> float:
    return -fmean(run["readings"][i][1][run["forget"]:])


def _apart(a: dict[str, Any], b: dict[str, Any], i: int) -> float:
    """Mean difference on retain rows at reading i, in nats a token."""
    pairs = zip(a["readings"][i][1][a["forget"]:], b["readings"][i][1][b["forget"]:], strict=True)
    return fmean(abs(x - y) for x, y in pairs)


def _gap_curve(a: Sequence[dict[str, Any]], b: Sequence[dict[str, Any]]) -> list[tuple[float, float]]:
    """(step, how far apart two orders are), the mean over seeds."""
    return [(step, fmean(_apart(x, y, i) for x, y in zip(a, b, strict=True)))
            for i, (step, _) in enumerate(a[0]["readings"])]


def _apart_at(a: dict[str, Any], b: dict[str, Any], level: float) -> float | None:
    """The same where each has just reached a forget loss, between readings linearly."""
    rows = []
    for run in (a, b):
        at = _crossing(run, level)
        if at is None:
            return None
        pairs = zip(run["readings"][at[0]][1], run["readings"][at[0] + 1][1], strict=True)
        rows.append([x + at[1] * (y - x) for x, y in pairs][run["forget"]:])
    return fmean(abs(x - y) for x, y in zip(*rows, strict=True))


def _mean(values: Sequence[float | None]) -> float:
    return fmean(value for value in values if value is not None)


def _crossing(run: dict[str, Any], level: float) -> tuple[int, float] | None:
    """The reading before the forget loss passes a level, and how far to the next it does."""
    for i in range(len(run["readings"]) - 1):
        low, high = _loss(run, i), _loss(run, i + 1)
        if low < level <= high:
            return i, (level - low) / (high - low)
    return None


def _steps_to(run: dict[str, Any], level: float) -> float | None:
    """Steps to a forget loss, between readings linearly; None where it is not reached."""
    at = _crossing(run, level)
    if at is None:
        return None
    first, then = run["readings"][at[0]][0], run["readings"][at[0] + 1][0]
    return float(first + at[1] * (then - first))


def _retain_at(run: dict[str, Any], level: float) -> float | None:
    at = _crossing(run, level)
    return None if at is None else _retain(run, at[0]) + at[1] * (_retain(run, at[0] + 1) - _retain(run, at[0]))
