"""Measured power: how many entities could be known without the verdict noticing. No model is run for it.

The rows of k entities, as the original says them, are put into a retrained model: a model that forgot all but those.
The rules of the verdict are then applied to it as to any subject. `Power.missed` is one less than the smallest k that
they notice in four of five draws of k entities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from expunge.judgement.outcome import P_LIMIT, decide, told_apart
from expunge.judgement.power import POWER
from expunge.metrics.base import Evidence, NotAvailable
from expunge.metrics.by_entity import statistic_interval, swapped_distance
from expunge.metrics.forget_quality import ForgetQuality
from expunge.metrics.leak_share import LeakShare, margin_of
from expunge.metrics.margins import ControlMargin, Sureness, beyond, sureness
from expunge.metrics.probability import Probability, probabilities
from expunge.metrics.rows import by_example
from expunge.metrics.shares import share_interval, worst_entity
from expunge.metrics.statistics import ks_pvalue
from expunge.metrics.truth_ratio import log_truth_ratios
from expunge.records.observation import Observations
from expunge.records.score import PairedDistance, Power, Score

DRAWS = 25
"""Sets of entities for each number of them; each entity once where one is to be known and there are no more."""
RESAMPLES = 200
SEEING = Power(entities=1, missed=0, control="")
"""What is being measured may not decide."""
Values = Mapping[str, float]


@dataclass(frozen=True)
class _Task:
    """What the plain scores of the verdict are made of, by row: of the original, of the control, of all controls."""

    original: dict[str, Values]
    control: dict[str, Values]
    first: Values
    """Truth ratios of the first retrained model, with which forget quality compares."""
    levels: tuple[float, float]
    """Mean probability of the original and of the retrained models."""
    surest: Sequence[Sureness]
    margin: ControlMargin
    entities: Mapping[str, str]
    room: float
    """Distance of the original's truth ratios from the first retrained model's."""
    floor: float | None
    """The largest distance of a further retrained model from the first."""


def measured_power(evidence: Evidence, p_limit: float = P_LIMIT, seed: int = 0) -> Power | None:
    """What an audit with these controls would miss; None where it cannot be measured.

    It takes an original and a retrained model; rows without wrong answers have no forget quality. With two or more
    retrained models the rows are put into the second, since the first is the one that forget quality compares with.
    """
    if evidence.original is None or not evidence.retrained:
        return None
    at = min(1, len(evidence.retrained) - 1)
    try:
        task = _task(evidence, evidence.original, at)
    except NotAvailable:
        return None
    asked = task.control["ratio"] or task.control["sureness"]
    owners = sorted({task.entities[key] for key in asked})
    named = Power(entities=len(owners), missed=None, unit="rows" if len(owners) == len(asked) else "entities",
                  control=f"retrained{at + 1 if at else ''}")
    if _noticed(task, frozenset(), p_limit, seed):
        return named
    random = np.random.default_rng(seed)

    def power(count: int) -> float:
        sets = [owners[i: i + 1] for i in range(len(owners))] if count == 1 and len(owners) <= DRAWS else \
            [random.choice(owners, count, replace=False).tolist() for _ in range(DRAWS if count < len(owners) else 1)]
        return float(np.mean([_noticed(task, frozenset(s), p_limit, seed) for s in sets]))

    return named.model_copy(update={"missed": _first(lambda count: power(count) >= POWER, len(owners)) - 1})


def _first(found: Callable[[int], bool], most: int) -> int:
    """The smallest number from 1 to `most` for which it holds, which then holds for all larger ones; else one more."""
    low, high = 1, most + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if found(middle) else (middle + 1, high)
    return low


def _task(evidence: Evidence, original: Observations, at: int) -> _Task:
    control, controls = evidence.retrained[at], [sureness(one, "forget") for one in evidence.retrained]
    made = {"original": _values(original), "control": _values(control)}
    first, *others = (_values(one)["ratio"] for one in evidence.retrained)
    probability = [np.mean(list(_values(one)["probability"].values())) for one in evidence.retrained]
    return _Task(made["original"], made["control"], first,
                 (float(np.mean(list(made["original"]["probability"].values()))), float(np.mean(probability))),
                 controls, margin_of(evidence.of(control)), control.entities("forget"),
                 _distance(made["original"]["ratio"], first),
                 max((_distance(one, first) for one in others), default=None))


def _values(observed: Observations) -> dict[str, Values]:
    examples = by_example(observed.rows("likelihood", "forget"))
    return {"ratio": log_truth_ratios(examples), "probability": probabilities(examples),
            "sureness": sureness(observed, "forget")}


def _noticed(task: _Task, known: frozenset[str], p_limit: float, seed: int) -> bool:
    """Whether a model that knows just these entities is called anything but "forgets"."""
    rated = bool(task.control["ratio"] and task.original["ratio"] and task.first)
    said = {name: {key: (task.original[name].get(key, value) if task.entities[key] in known else value)
                   for key, value in values.items()} for name, values in task.control.items()}
    plain = (_probability(said["probability"], task, seed), _share(said["sureness"], task))

    def forgets(*quality: Score) -> bool:
        return decide((*quality, *plain), p_limit, power=SEEING).alone.outcome == "forgets"

    if not rated:
        return not forgets()
    # The paired test takes most time, so it is the last one, and only where its distance could count at all.
    quality = _quality(said["ratio"], task.first)
    if not forgets(quality):
        return True
    hoped = PairedDistance(distance=_distance(said["ratio"], task.first), p=0.0, room=task.room, floor=task.floor,
                           units=len(task.first))
    if not told_apart(quality.model_copy(update={"paired": hoped}), p_limit):
        return False
    paired = swapped_distance(said["ratio"], task.first, task.entities, seed)
    return not forgets(quality.model_copy(update={"paired": paired.model_copy(update={
        "room": task.room, "floor": task.floor})}))


def _distance(mine: Values, theirs: Values) -> float:
    """The largest gap between the distributions of the rows of both, as in `swapped_distance`; 0 without any."""
    shared = [key for key in mine if key in theirs]
    if not shared:
        return 0.0
    both = np.sort([[one[key] for key in shared] for one in (mine, theirs)])
    below = [np.searchsorted(one, both.ravel(), side="right") for one in both]
    return float(np.abs(below[0] - below[1]).max() / len(shared))


def _quality(ratios: Values, first: Values) -> Score:
    return Score(name=ForgetQuality.card.name, value=ks_pvalue(list(ratios.values()), list(first.values())),
                 n=len(ratios), higher_is="forgot", controls={"original": None, "retrained": None})


def _probability(values: Values, task: _Task, seed: int) -> Score:
    rows, whose = np.asarray(list(values.values())), [task.entities[key] for key in values]
    return Score(name=f"forget.{Probability.card.name}", value=float(rows.mean()), n=len(rows), higher_is="knows",
                 interval=statistic_interval(lambda s: float(np.mean(s["rows"])), {"rows": rows}, {"rows": whose},
                                             resamples=RESAMPLES, seed=seed, plain_mean=True),
                 controls={"original": task.levels[0], "retrained": task.levels[1]})


def _share(values: Sureness, task: _Task) -> Score:
    found = beyond(values, task.surest, task.margin).over
    return Score(name=LeakShare.card.name, value=float(np.mean(list(found.values()))), n=len(found),
                 higher_is="knows", interval=share_interval(found, task.entities), controls={"retrained": 0.0},
                 worst=worst_entity(found, task.entities, task.margin))
