"""Scores under an attack: the metric of the subject and of the control under the same attack, compared by entity."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from expunge.metrics.base import Evidence, NotAvailable, RowMetric
from expunge.metrics.by_entity import (
    ENOUGH,
    Floats,
    JointTest,
    Values,
    entity_means,
    labels,
    mean_error,
    permute,
    sign_flip,
    t_interval,
)
from expunge.metrics.evaluate import parse_metric
from expunge.records.observation import Observations
from expunge.records.score import ACCESS, MIN_ROWS, SMALL, Access, EntityTest, Score
from expunge.records.task import Split

LEVEL = 0.05
"""That any attack of an audit succeeds where there is nothing to be had. A comparison in which even a total recovery
would not reach it is judged by its rows."""


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


@dataclass(frozen=True)
class Gap:
    """What a difference of means rests on: paired differences by row, or values of two sets of rows."""

    mine: Values
    """Differences by row where `theirs` is None."""
    theirs: Values | None = None
    whose: Mapping[str, str] = field(default_factory=dict)
    """Row -> its entity, of `mine`."""
    whose_theirs: Mapping[str, str] = field(default_factory=dict)

    @property
    def value(self) -> float:
        return _mean(self.mine) - (_mean(self.theirs) if self.theirs else 0.0)

    @property
    def entities(self) -> int:
        """How many, on the side with fewer."""
        sides = [(self.mine, self.whose)] + ([(self.theirs, self.whose_theirs)] if self.theirs else [])
        return min(len({of.get(key, key) for key in rows}) for rows, of in sides)

    def interval(self, by_rows: bool = False) -> tuple[float, float]:
        """95 %, clustered by entity, or by row."""
        sides = [(self.mine, self.whose)] + ([(self.theirs, self.whose_theirs)] if self.theirs else [])
        return t_interval(self.value, (mean_error(list(rows.values()), None if by_rows else labels(rows, of))
                                       for rows, of in sides))

    def units(self, by_rows: bool) -> tuple[Values, Values | None]:
        """Means by entity, or the rows, of both sides."""
        return (entity_means(self.mine, {} if by_rows else self.whose),
                None if self.theirs is None else entity_means(self.theirs, {} if by_rows else self.whose_theirs))


@dataclass(frozen=True)
class AttackComparison:
    """A score under attack, with the rows that its excess and its gain rest on."""

    score: Score
    excess: Gap | None = None
    gain: Gap | None = None
    apart: tuple[float, ...] = ()
    """The excess of each further retrained model over the first."""


def score_attacked(term: str, attacked: AttackEvidence, *, resamples: int = 1000, seed: int = 0) -> Score:
    """One score under an attack, tested as if it were the only one."""
    (score,) = with_tests([compare_attacked(term, attacked, resamples=resamples, seed=seed)], seed=seed)
    return score


def compare_attacked(term: str, attacked: AttackEvidence, *, resamples: int = 1000, seed: int = 0) -> AttackComparison:
    """Value, value before it, control, excess, gain and recovered share, without a test.

    Args:
        resamples: of the value's own interval; below 1 no interval is taken.
    """
    metric, split = parse_metric(term)
    score = metric.score(attacked.evidence, split, resamples=resamples, seed=seed)
    needed = max(score.access, attacked.access, key=ACCESS.index)
    score = score.model_copy(update={"attack": attacked.label, "access": needed, "counted": attacked.counted,
                                     "attempts": len(attacked.evidence.subject.attempts())})
    if score.value is None or split is None or not isinstance(metric, RowMetric):
        return AttackComparison(score)

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
    rise, excess, gain, apart = _less(values, values_before), None, None, tuple[float, ...]()
    if retrained and retrained[0][0]:
        control, control_before = retrained[0]
        update["controls"]["retrained"] = _mean_of(control, values)
        update["control_before"] = _mean_of(control_before, values)
        excess = Gap(_less(values, control), None, entities)
        gain = _paired_gain(rise, _less(control, control_before), entities)
        further = [_mean_of(_less(other, control), values) for other, _ in retrained[1:]]
        apart = tuple(gap for gap in further if gap is not None)
        update["floor"] = further[0] if further else None
    elif len(holdout) >= MIN_ROWS and attacked.holdout is not None:
        theirs, holdout_before = attacked.holdout.entities("holdout"), read(plain, plain.subject, "holdout")
        update["controls"]["holdout"] = _mean(holdout)
        update["control_before"] = _mean_of(holdout_before, holdout)
        excess = Gap(values, holdout, entities, theirs)
        control_rise = _less(holdout, holdout_before)
        if rise and control_rise:
            gain = Gap(rise, control_rise if _mean(control_rise) > 0 else None, entities, theirs)
    else:
        few = f"only {len(holdout)} holdout rows were given, and {MIN_ROWS} are needed" if holdout else ""
        update["uncontrolled"] = attacked.uncontrolled or few or (
            "neither a retrained model nor holdout rows were given")
    if excess is not None and excess.mine:
        update |= {"excess": excess.value, "entities": excess.entities, "gain": gain.value if gain else None}
        if resamples > 0:
            update["excess_interval"], update["gain_interval"] = excess.interval(), gain.interval() if gain else None
    update["original_attacked"] = _mean_of(read(plain, attacked.original), values)
    recoverable = original is not None and before is not None and original - before > SMALL
    update["recovered"] = (score.value - before) / (original - before) if recoverable else None  # type: ignore[operator]
    return AttackComparison(score.model_copy(update=update), excess if excess and excess.mine else None, gain, apart)


def _paired_gain(rise: Values, control_rise: Values, entities: Mapping[str, str]) -> Gap | None:
    """The rise beyond that of the control where the control rose, else the rise alone."""
    if not rise or not any(key in control_rise for key in rise):
        return None
    shared = {key: control_rise[key] for key in rise if key in control_rise}
    return Gap(_less(rise, shared) if _mean(shared) > 0 else rise, None, entities)


def with_tests(comparisons: Sequence[AttackComparison], primary: Collection[str] | None = None, *,
           seed: int = 0) -> tuple[Score, ...]:
    """The scores, each with its test by entity: those of primary attacks are corrected together, others not at all.

    Where even a total recovery could not count by entities, a comparison is judged by its rows, and `Score.test` says
    so: the claim is then limited to these rows.

    Args:
        primary: labels of the attacks declared beforehand; None = all.
    """
    able = [c for c in comparisons if c.excess is not None and c.score.shows_knowledge]
    first = [c for c in able if c.score.counted and c.score.n >= MIN_ROWS
             and (primary is None or c.score.attack in primary)]
    chosen = {id(c) for c in first}
    found = _tests([c for c in able if id(c) not in chosen], seed, together=False) | _tests(first, seed, together=True)
    # Other attacks take nothing away: they count only where no primary attack asks that metric.
    spread = _spreads(comparisons) | _spreads([c for c in comparisons if primary is None or c.score.attack in primary])
    return tuple(_with_test(replace(c, score=c.score.model_copy(update={"spread": spread.get(c.score.name)}))
                            if c.apart else c, found.get(id(c))) for c in comparisons)


def _spreads(comparisons: Sequence[AttackComparison]) -> dict[str, float]:
    """`Score.spread` of each metric that further retrained models have.

    Two models that never knew differ as a whole, in how they word an answer for instance, which no test by entity of
    one pair can tell from knowledge. The comparisons of an audit are of the same models, so together they count as one
    difference for each further model; under one attack alone that may be small by chance.
    """
    from scipy.special import stdtrit  # here, so that listings need not wait for it

    found: dict[str, list[tuple[float, ...]]] = {}
    for c in comparisons:
        if c.apart:
            found.setdefault(c.score.name, []).append(c.apart)
    return {name: float(stdtrit(max(map(len, gaps)), 1 - LEVEL) * np.sqrt(np.mean(np.square(np.concatenate(gaps)))))
            for name, gaps in found.items()}


def _with_test(comparison: AttackComparison, test: EntityTest | None) -> Score:
    """The score with its test; its intervals are by rows where the test is."""
    by_rows = test is not None and test.unit == "rows" and comparison.score.excess_interval is not None
    spans = {} if not by_rows else {name: gap.interval(by_rows=True) for name, gap in (
        ("excess_interval", comparison.excess), ("gain_interval", comparison.gain)) if gap}
    return comparison.score.model_copy(update={"test": test, **spans})


def _tests(comparisons: Sequence[AttackComparison], seed: int, *, together: bool) -> dict[int, EntityTest]:
    """By `id` of the comparison. An audit has one kind of control; were there two, each gets half of the level."""
    kinds = [[c for c in comparisons if c.excess and (c.excess.theirs is None) == paired] for paired in (True, False)]
    kinds, found = [kind for kind in kinds if kind], {}
    for kind in kinds:
        by_rows = [_few(c) for c in kind]
        test, least_J = _joint(kind, by_rows, seed, together)
        if any(more := [not rows and least > LEVEL and _more_rows(c)
                        for c, rows, least in zip(kind, by_rows, least_J, strict=True)]):
            by_rows = [a or b for a, b in zip(by_rows, more, strict=True)]
            test, least_J = _joint(kind, by_rows, seed, together)
        gain_J = _alone([c.gain for c in kind], by_rows, seed)
        for j, (c, rows) in enumerate(zip(kind, by_rows, strict=True)):
            mine, theirs = _of(c).units(rows)
            found[id(c)] = EntityTest(
                p=float(test.alone_J[j]), p_gain=gain_J[j], p_least=min(1.0, float(least_J[j]) * len(kinds)),
                p_joint=min(1.0, float(test.joint_J[j]) * len(kinds)) if together else None,
                unit="rows" if rows else "entities", units=min(len(mine), len(theirs or mine)),
                row_interval=_of(c).interval(by_rows=True))
    return found


def _of(comparison: AttackComparison) -> Gap:
    assert comparison.excess is not None  # only such are tested
    return comparison.excess


def _more_rows(comparison: AttackComparison) -> bool:
    """Whether rows are not their own entities."""
    return _of(comparison).entities < len(_of(comparison).mine)


def _few(comparison: AttackComparison) -> bool:
    return _of(comparison).entities < ENOUGH and _more_rows(comparison)


def _joint(kind: Sequence[AttackComparison], by_rows: Sequence[bool], seed: int,
           together: bool) -> tuple[JointTest, Floats]:
    """The test of all, and what a total recovery would have given of each: corrected where they go together."""
    sides = [_of(c).units(rows) for c, rows in zip(kind, by_rows, strict=True)]
    mine = [_named(a, rows) for (a, _), rows in zip(sides, by_rows, strict=True)]
    if all(b is None for _, b in sides):
        test = sign_flip(mine, seed)
    else:
        test = permute(mine, [_named(b or {}, rows) for (_, b), rows in zip(sides, by_rows, strict=True)], seed)
    return test, test.least_J if together else test.floor_J


def _named(units: Values, rows: bool) -> dict[tuple[bool, str], float]:
    """Rows and entities of one name are different units."""
    return {(rows, unit): value for unit, value in units.items()}


def _alone(gaps: Sequence[Gap | None], by_rows: Sequence[bool], seed: int) -> list[float | None]:
    """The p-value of each gap by itself; None where there is none."""
    found: list[float | None] = [None] * len(gaps)
    for paired in (True, False):
        at = [j for j, gap in enumerate(gaps) if gap is not None and (gap.theirs is None) == paired]
        sides = [gap.units(by_rows[j]) for j in at if (gap := gaps[j]) is not None]
        if at:
            mine, theirs = [a for a, _ in sides], [b or {} for _, b in sides]
            test = sign_flip(mine, seed) if paired else permute(mine, theirs, seed)
            for j, p in zip(at, test.alone_J, strict=True):
                found[j] = float(p)
    return found


def _less(values: Values, others: Values) -> dict[str, float]:
    """Differences over the rows of both."""
    return {key: values[key] - others[key] for key in values if key in others}


def _mean(values: Values) -> float:
    return float(np.mean(list(values.values())))


def _mean_of(values: Values, only: Values) -> float | None:
    kept = [values[key] for key in only if key in values]
    return float(np.mean(kept)) if kept else None
