"""What an attack got: the metric under it, beside the control that went through the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge.metrics.base import Evidence, NotAvailable, RowMetric
from expunge.metrics.evaluate import parse_metric
from expunge.records.observation import Observations
from expunge.records.score import ACCESS, Access, Score
from expunge.records.task import Split

LOST = 0.05
"""Difference between original and subject below which there was nothing to recover."""
Values = Mapping[str, float]


@dataclass(frozen=True)
class AttackEvidence:
    """Observations at one strength of an attack, and of the same models left alone."""

    label: str
    access: Access
    evidence: Evidence
    """The subject and the retrained models, all under the attack."""
    plain: Evidence
    """The subject and its references, left alone."""
    counted: bool = True
    """Whether what comes out can only have been in the subject."""
    holdout: Observations | None = None
    """The subject attacked for its holdout rows: the control where there is no retrained model."""
    uncontrolled: str | None = None
    """Why there is no control, where there is none."""


def score_attacked(term: str, attacked: AttackEvidence, *, resamples: int = 1000, seed: int = 0) -> Score:
    """One score under an attack: value, the same rows before, control, excess and gain, share recovered."""
    metric, split = parse_metric(term)
    score = metric.score(attacked.evidence, split, resamples=resamples, seed=seed)
    needed = max(score.access, attacked.access, key=ACCESS.index)
    score = score.model_copy(update={"attack": attacked.label, "access": needed, "counted": attacked.counted,
                                     "attempts": len(attacked.evidence.subject.attempts())})
    if score.value is None or split is None or not isinstance(metric, RowMetric):
        return score

    def read(evidence: Evidence, of: Observations | None, where: Split = split) -> Values:
        """Values of one model; empty when there are none."""
        try:
            return {} if of is None else metric.best(evidence.of(of), where)
        except NotAvailable:
            return {}

    evidence, plain = attacked.evidence, attacked.plain
    found = read(evidence, evidence.subject)
    alone, original = read(plain, plain.subject), _mean_of(read(plain, plain.original), found)
    before = _mean_of(alone, found)
    controls = [(read(evidence, under), read(plain, left))
             for under, left in zip(evidence.retrained, plain.retrained, strict=True)]
    on_holdout = read(evidence, attacked.holdout, "holdout") if not controls and split == "forget" else {}
    fresh: dict[str, Any] = {"before": before, "controls": {} if original is None else {"original": original}}
    people = evidence.subject.entities(split)
    rise = {key: found[key] - alone[key] for key in found if key in alone}
    if controls and controls[0][0]:
        under, left = controls[0]
        fresh["controls"]["retrained"] = _mean_of(under, found)
        fresh["control_before"] = _mean_of(left, found)
        gaps = {key: found[key] - under[key] for key in found if key in under}
        others = {key: under[key] - left[key] for key in rise if key in under and key in left}
        fresh |= _set_against((gaps, {}), (rise, others), people, people, resamples, seed)
        if len(controls) > 1:
            second = controls[1][0]
            fresh["floor"] = _mean_of({key: second[key] - under[key] for key in second if key in under}, found)
    elif on_holdout and attacked.holdout is not None:
        unasked = read(plain, plain.subject, "holdout")
        fresh["controls"]["holdout"] = float(np.mean(list(on_holdout.values())))
        fresh["control_before"] = _mean_of(unasked, on_holdout)
        others = {key: on_holdout[key] - unasked[key] for key in on_holdout if key in unasked}
        fresh |= _set_against((found, on_holdout), (rise, others), people, attacked.holdout.entities("holdout"),
                              resamples, seed)
    else:
        fresh["uncontrolled"] = attacked.uncontrolled or "neither a retrained model nor holdout rows were given"
    lost = original is not None and before is not None and original - before > LOST
    fresh["recovered"] = (score.value - before) / (original - before) if lost else None  # type: ignore[operator]
    return score.model_copy(update=fresh)


def _mean_of(values: Values, only: Values) -> float | None:
    kept = [values[key] for key in only if key in values]
    return float(np.mean(kept)) if kept else None


def _set_against(gaps: tuple[Values, Values], rises: tuple[Values, Values], people: Mapping[str, str],
                 others: Mapping[str, str], resamples: int, seed: int) -> dict[str, Any]:
    """Excess and gain with intervals, each the wider of redrawing rows and redrawing people.

    Args:
        gaps: what the subject's mean and the control's differ by; one mapping and {} where rows are paired.
        rises: by how much the attack lifted rows of the subject, and of the control.
        people: row -> whom it is about, for the subject's rows; `others` for the control's.
    """
    mine, theirs = gaps
    if not mine:
        return {}
    clusters = [len(_sums(values, of)) for values, of in ((mine, people), (theirs, others)) if values]
    fresh: dict[str, Any] = {"entities": min(clusters), "excess": _mean(mine) - (_mean(theirs) if theirs else 0.0)}
    gained = bool(rises[0]) and bool(rises[1])
    if gained:
        fresh["gain"] = _mean(rises[0]) - max(_mean(rises[1]), 0.0)
    if resamples < 1:
        return fresh
    excess, gain = [], []
    for of, whose in (({}, {}), (people, others)):
        away = _redrawn(_sums(theirs, whose), resamples, seed + 1) if theirs else 0.0
        excess.append(_redrawn(_sums(mine, of), resamples, seed) - away)
        if gained:
            control = _redrawn(_sums(rises[1], whose), resamples, seed + bool(theirs))
            gain.append(_redrawn(_sums(rises[0], of), resamples, seed) - np.maximum(control, 0.0))
    fresh["excess_interval"] = _span(fresh["excess"], excess)
    if gained:
        fresh["gain_interval"] = _span(fresh["gain"], gain)
    return fresh


def _mean(values: Values) -> float:
    return float(np.mean(list(values.values())))


def _sums(values: Values, people: Mapping[str, str]) -> NDArray[np.float64]:
    """(sum, count) per person; per row where nobody is named."""
    gathered: dict[str, list[float]] = {}
    for key, value in values.items():
        gathered.setdefault(people.get(key, key), []).append(value)
    return np.asarray([(sum(v), len(v)) for v in gathered.values()], dtype=float)


def _redrawn(sums: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Means over clusters redrawn with replacement, one per resample."""
    draws = np.random.default_rng(seed).integers(0, len(sums), size=(resamples, len(sums)))
    total = sums[draws].sum(axis=1)
    return np.asarray(total[:, 0] / total[:, 1])


def _span(value: float, draws: list[NDArray[np.float64]]) -> tuple[float, float]:
    ends = [np.quantile(d, [0.025, 0.975]) for d in draws]
    return min(value, *(float(e[0]) for e in ends)), max(value, *(float(e[1]) for e in ends))
