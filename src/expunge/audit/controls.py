"""Whether a control can be what it is called. One that cannot is named with its figure, and nothing rests on it.

A retrained model is one that was trained like the original, but never on the forget set. What follows from that can be
checked on the scores that an audit takes anyway, and is checked before the control counts.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from expunge.metrics.base import NotAvailable
from expunge.metrics.probability import probabilities
from expunge.metrics.rows import by_example
from expunge.records.observation import Observations
from expunge.records.score import SMALL, ControlCheck, SubjectRef
from expunge.records.task import Split

KEEPS = 0.75
"""Share of the original's probability of the retain rows that a control must reach."""
UNKNOWN = 0.25
"""Largest share of the way from its own holdout rows to the original's forget rows that its forget rows may lie up."""
CERTAIN = 2.0
"""Standard errors, by entity, that a difference must exceed before a control is turned down for it."""
Role = str


def examine(refs: Mapping[Role, SubjectRef], evidence: Mapping[Role, Observations]) -> tuple[ControlCheck, ...]:
    """One check for each retrained model, in the order given; what was not observed is not held against it.

    Args:
        refs: the models by role: subject, original, retrained, retrained2 and so on.
        evidence: their observations without any attack.
    """
    found: list[ControlCheck] = []
    for role, ref in refs.items():
        if role.startswith("retrained"):
            earlier = {other: known for other, known in refs.items() if other != role and (
                not other.startswith("retrained") or list(refs).index(other) < list(refs).index(role))}
            problem = _same(ref, earlier) or _reads(ref, refs["subject"])
            if problem is None and ref.reads == "text":  # a classifier knows rows that it never saw
                problem = _knows(role, evidence)
            found.append(ControlCheck(role=role, path=ref.path, problem=problem))
    return tuple(found)


def sound(refs: Mapping[Role, SubjectRef], checks: tuple[ControlCheck, ...]) -> list[Role]:
    """The roles that count: all but the controls with a problem."""
    bad = {check.role for check in checks if check.problem}
    return [role for role in refs if role not in bad]


def _same(ref: SubjectRef, others: Mapping[Role, SubjectRef]) -> str | None:
    twin = next((role for role, other in others.items() if other.fingerprint == ref.fingerprint), None)
    if twin is None:
        return None
    if twin.startswith("retrained"):
        return "it has the very weights of another retrained model"
    more = ("; if it was trained apart from it, that alone shows exact unlearning, and as a control it says nothing"
            if twin == "subject" else "")
    return f"it has the very weights of the {twin}{more}"


def _reads(ref: SubjectRef, subject: SubjectRef) -> str | None:
    if not ref.tokens or not subject.tokens or ref.tokens == subject.tokens:
        return None
    return "it reads the rows as other tokens than the subject does (another tokenizer or chat template)"


def _knows(role: Role, evidence: Mapping[Role, Observations]) -> str | None:
    """What it knows and what it does not, beside the original where there is one."""
    mine, original = evidence.get(role), evidence.get("original")
    if mine is None or original is None:
        return None
    kept, kept_before = _probability(mine, "retain"), _probability(original, "retain")
    if kept and kept_before:
        now, then = float(np.mean(list(kept.values()))), float(np.mean(list(kept_before.values())))
        if then - now > SMALL and now < KEEPS * then:
            return (f"it knows too little of the retain rows (probability {now:.3g}, the original {then:.3g}), so it "
                    "was not trained like the original")
    left, known = _probability(mine, "forget"), _probability(original, "forget")
    if not left or not known:
        return None
    gap, error = _paired({row: known[row] - left[row] for row in left if row in known}, mine.entities("forget"))
    says, said = float(np.mean(list(left.values()))), float(np.mean(list(known.values())))
    if gap <= SMALL or gap <= CERTAIN * error:
        return (f"it says the forget rows about as surely as the original (probability {says:.3g}, the original "
                f"{said:.3g}), so the two cannot tell who knows")
    aside = _probability(mine, "holdout")
    if not aside:
        return None
    other, error_aside = _paired(aside, mine.entities("holdout"))
    _, error_left = _paired(left, mine.entities("forget"))
    more, room = says - other, max(said - other, SMALL)
    if more > SMALL and more > UNKNOWN * room and more > CERTAIN * float(np.hypot(error_aside, error_left)):
        return (f"it knows the forget rows better than holdout rows (probability {says:.3g} and {other:.3g}), so it "
                "may have been trained on some of them")
    return None


def _probability(seen: Observations, split: Split) -> dict[str, float]:
    """Length-normalised probability of the right answer by row; empty where it was not observed."""
    try:
        return probabilities(by_example(seen.rows("likelihood", split)))
    except NotAvailable:
        return {}


def _paired(values: Mapping[str, float], entity_of: Mapping[str, str]) -> tuple[float, float]:
    """Mean over rows, and its standard error over entities (over rows where there is one entity)."""
    groups: dict[str, list[float]] = {}
    for row, value in values.items():
        groups.setdefault(entity_of.get(row, row), []).append(value)
    units = [float(np.mean(g)) for g in groups.values()] if len(groups) > 1 else list(values.values())
    mean = float(np.mean(list(values.values()))) if values else 0.0
    return mean, float(np.std(units, ddof=1) / np.sqrt(len(units))) if len(units) > 1 else 0.0


def words(check: ControlCheck) -> str:
    """The sentence for a control that does not count."""
    return f"The control {check.path} does not count: {check.problem}."

