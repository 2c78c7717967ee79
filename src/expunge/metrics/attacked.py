"""Scores under an attack: the metric of the subject and of the control under the same attack."""

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
"""Difference between original and subject up to which there is nothing to recover."""
Values = Mapping[str, float]


@dataclass(frozen=True)
class AttackEvidence:
    """Observations at one strength of an attack, and of the same models without it."""

    label: str
    access: Access
    evidence: Evidence
    """The subject and the retrained models, all under the attack."""
    plain: Evidence
    """The subject and its references, without the attack."""
    counted: bool = True
    """Whether recovered knowledge can only come from the subject."""
    holdout: Observations | None = None
    """The subject attacked on its holdout rows: the control if there is no retrained model."""
    original: Observations | None = None
    """The original under the attack, where it was asked."""
    uncontrolled: str | None = None
    """Reason why there is no control, if there is none."""


def score_attacked(term: str, attacked: AttackEvidence, *, resamples: int = 1000, seed: int = 0) -> Score:
    """One score under an attack: value, value before it, control, excess, gain and recovered share."""
    metric, split = parse_metric(term)
    score = metric.score(attacked.evidence, split, resamples=resamples, seed=seed)
    needed = max(score.access, attacked.access, key=ACCESS.index)
    score = score.model_copy(update={"attack": attacked.label, "access": needed, "counted": attacked.counted,
                                     "attempts": len(attacked.evidence.subject.attempts())})
    if score.value is None or split is None or not isinstance(metric, RowMetric):
        return score

    def read(evidence: Evidence, of: Observations | None, where: Split = split) -> Values:
        """Values of one model by row; empty if not available."""
        try:
            return {} if of is None else metric.best(evidence.of(of), where)
        except NotAvailable:
            return {}

    evidence, plain = attacked.evidence, attacked.plain
    values, values_before = read(evidence, evidence.subject), read(plain, plain.subject)
    before, original = _mean_of(values_before, values), _mean_of(read(plain, plain.original), values)
    retrained = [(read(evidence, under), read(plain, left))
                 for under, left in zip(evidence.retrained, plain.retrained, strict=True)]
    holdout = read(evidence, attacked.holdout, "holdout") if not retrained and split == "forget" else {}
    update: dict[str, Any] = {"before": before, "controls": {} if original is None else {"original": original}}
    entities = evidence.subject.entities(split)
    rise = {key: values[key] - values_before[key] for key in values if key in values_before}
    if retrained and retrained[0][0]:
        control, control_before = retrained[0]
        update["controls"]["retrained"] = _mean_of(control, values)
        update["control_before"] = _mean_of(control_before, values)
        gaps = {key: values[key] - control[key] for key in values if key in control}
        control_rise = {key: control[key] - control_before[key] for key in rise
                        if key in control and key in control_before}
        update |= _compared((gaps, {}), (rise, control_rise), entities, entities, resamples, seed)
        if len(retrained) > 1:
            second = retrained[1][0]
            update["floor"] = _mean_of({key: second[key] - control[key] for key in second if key in control}, values)
    elif holdout and attacked.holdout is not None:
        holdout_before = read(plain, plain.subject, "holdout")
        update["controls"]["holdout"] = float(np.mean(list(holdout.values())))
        update["control_before"] = _mean_of(holdout_before, holdout)
        control_rise = {key: holdout[key] - holdout_before[key] for key in holdout if key in holdout_before}
        update |= _compared((values, holdout), (rise, control_rise), entities, attacked.holdout.entities("holdout"),
                            resamples, seed)
    else:
        update["uncontrolled"] = attacked.uncontrolled or "neither a retrained model nor holdout rows were given"
    update["original_attacked"] = _mean_of(read(plain, attacked.original), values)
    recoverable = original is not None and before is not None and original - before > LOST
    update["recovered"] = (score.value - before) / (original - before) if recoverable else None  # type: ignore[operator]
    return score.model_copy(update=update)


def _mean_of(values: Values, only: Values) -> float | None:
    kept = [values[key] for key in only if key in values]
    return float(np.mean(kept)) if kept else None


def _compared(gaps: tuple[Values, Values], rises: tuple[Values, Values], entities: Mapping[str, str],
              control_entities: Mapping[str, str], resamples: int, seed: int) -> dict[str, Any]:
    """Excess and gain with intervals, each the wider one of resampling rows and resampling entities.

    Args:
        gaps: values of subject and control; or, for paired rows, their differences and {}.
        rises: change under the attack per row, of the subject and of the control.
        entities, control_entities: row -> its entity, for rows of the subject and of the control.
    """
    subject, control = gaps
    if not subject:
        return {}
    groups = [len(_sums(values, of)) for values, of in ((subject, entities), (control, control_entities)) if values]
    update: dict[str, Any] = {"entities": min(groups), "excess": _mean(subject) - (_mean(control) if control else 0.0)}
    gained = bool(rises[0]) and bool(rises[1])
    if gained:
        update["gain"] = _mean(rises[0]) - max(_mean(rises[1]), 0.0)
    if resamples < 1:
        return update
    excess, gain = [], []
    for of, control_of in (({}, {}), (entities, control_entities)):
        base = _resampled(_sums(control, control_of), resamples, seed + 1) if control else 0.0
        excess.append(_resampled(_sums(subject, of), resamples, seed) - base)
        if gained:
            control_rise = _resampled(_sums(rises[1], control_of), resamples, seed + bool(control))
            gain.append(_resampled(_sums(rises[0], of), resamples, seed) - np.maximum(control_rise, 0.0))
    update["excess_interval"] = _span(update["excess"], excess)
    if gained:
        update["gain_interval"] = _span(update["gain"], gain)
    return update


def _mean(values: Values) -> float:
    return float(np.mean(list(values.values())))


def _sums(values: Values, entity_of: Mapping[str, str]) -> NDArray[np.float64]:
    """(sum, count) per entity, or per row if it has none; shape G 2."""
    gathered: dict[str, list[float]] = {}
    for key, value in values.items():
        gathered.setdefault(entity_of.get(key, key), []).append(value)
    return np.asarray([(sum(v), len(v)) for v in gathered.values()], dtype=float)


def _resampled(sums: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Means over groups resampled with replacement, one per resample."""
    draws = np.random.default_rng(seed).integers(0, len(sums), size=(resamples, len(sums)))
    total = sums[draws].sum(axis=1)
    return np.asarray(total[:, 0] / total[:, 1])


def _span(value: float, draws: list[NDArray[np.float64]]) -> tuple[float, float]:
    ends = [np.quantile(d, [0.025, 0.975]) for d in draws]
    return min(value, *(float(e[0]) for e in ends)), max(value, *(float(e[1]) for e in ends))
