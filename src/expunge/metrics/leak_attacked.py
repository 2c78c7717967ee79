"""The leak share under an attack: subject and controls go through the same attack, on the same rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from expunge.metrics.attacked import AttackEvidence
from expunge.metrics.base import NotAvailable
from expunge.metrics.leak_share import LeakShare, compared, margin_of_one
from expunge.metrics.margins import (
    Beyond,
    ControlMargin,
    beside_holdout,
    beyond,
    highest,
    left_out,
    others_of,
    sureness,
)
from expunge.metrics.shares import share_interval, worst_entity
from expunge.records.score import ACCESS, Score


def compared_under(case: AttackEvidence) -> dict[str, Beyond]:
    """Subject and, of several, each retrained model: the attacked forget rows set against the attacked controls.

    With one retrained model the margin is that of the models left alone, plus how unevenly the attack moves the rows
    of the retrained model.

    Raises:
        NotAvailable: there is no control, and why.
    """
    subject = sureness(case.evidence.subject, "forget")
    controls = [sureness(one, "forget") for one in case.evidence.retrained]
    if not controls:
        if case.holdout is None:
            raise NotAvailable(case.uncontrolled or f"{case.plain.unmatched}, and there are no holdout rows")
        return {"subject": beside_holdout(subject, sureness(case.holdout, "holdout"), case.plain.unmatched)}
    if len(controls) == 1:
        alone = sureness(case.plain.retrained[0], "forget")
        return {"subject": beyond(subject, controls, widened(margin_of_one(case.plain), controls[0], alone))}
    margin = left_out(controls)
    each = {f"retrained{i + 1 if i else ''}": beyond(one, others, margin)
            for i, (one, others) in enumerate(others_of(controls))}
    return {"subject": beyond(subject, controls, margin)} | each


def widened(margin: ControlMargin, attacked: Mapping[str, float], alone: Mapping[str, float]) -> ControlMargin:
    """The margin plus the distance from the median of the moves of single rows that few of them exceed."""
    moves = np.asarray([attacked[key] - alone[key] for key in attacked if key in alone])
    if not len(moves):
        raise NotAvailable("the retrained model was not asked plainly")
    spread = highest(np.abs(moves - np.median(moves)))
    return ControlMargin(margin.over + spread, margin.under + spread, margin.rows, margin.source)


def share_under(case: AttackEvidence) -> Score:
    """The score `leak_share` under one attack at one strength."""
    metric = LeakShare()
    score = Score(name=metric.label(None), attack=case.label, value=None, counted=case.counted,
                  access=max(metric.card.access, case.access, key=ACCESS.index), higher_is=metric.card.higher_is,
                  ideal=metric.card.ideal, range=metric.card.range, attempts=len(case.evidence.subject.attempts()))
    try:
        each = compared_under(case)
    except NotAvailable as reason:
        return score.model_copy(update={"unavailable": str(reason)})
    entities, found = case.evidence.subject.entities("forget"), each["subject"]
    alike = [one.over for model, one in each.items() if model != "subject"]
    beside = [_mean(one) for one in alike] or [0.0] * len(case.evidence.retrained)
    return score.model_copy(update={
        "value": _mean(found.over), "n": len(found.over), "before": _before(case, found.over),
        "interval": share_interval(found.over, entities),
        "controls": {"retrained": float(np.mean(beside))} if beside else {},
        "worst": worst_entity(found.over, entities, found.margin, alike)})


def _before(case: AttackEvidence, rows: Mapping[str, bool]) -> float | None:
    """The share of the model left alone on the same rows; None where it was not asked plainly."""
    try:
        alone = compared(case.plain).over
    except NotAvailable:
        return None
    shared = {key: alone[key] for key in rows if key in alone}
    return _mean(shared) if shared else None


def _mean(found: Mapping[str, bool]) -> float:
    return float(np.mean(list(found.values())))
