"""Whether a control can be what it is called. One that cannot is named with its figure, and nothing rests on it.

A retrained model is one that was trained like the original, but never on the forget set. What follows from that can be
checked on the scores that an audit takes anyway, and is checked before the control counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from expunge.metrics.base import NotAvailable
from expunge.metrics.by_entity import labels, mean_error
from expunge.metrics.probability import probabilities
from expunge.metrics.rows import by_example
from expunge.records.observation import Observations
from expunge.records.score import SMALL, ControlCheck, SubjectRef
from expunge.records.task import Split

KEEPS = 0.75
"""Share of the probability of the retain rows that a control must reach: of the original's, else of the subject's."""
UNKNOWN = 0.25
"""Largest share of the way from its own holdout rows to what is known that its forget rows may lie up."""
WELL, AS_WELL = 0.5, 0.75
"""Without holdout rows: probability from which forget rows count as known, and share of what is known."""
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
            problem = problem or _knows(role, evidence, ref.reads == "text")
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


def _knows(role: Role, seen: Mapping[Role, Observations], text: bool) -> str | None:
    """What it should know and does not, or the other way round; beside the original where there is one."""
    if role not in seen:
        return None
    mine, who = seen[role], "original" if "original" in seen else "subject"
    kept, reference = _mean(mine, "retain"), _mean(seen[who], "retain") if who in seen else None
    if kept is not None and reference is not None and reference - kept > SMALL and kept < KEEPS * reference:
        return (f"it knows too little of the retain rows (probability {kept:.3g}, the {who} {reference:.3g}), so it "
                "was not trained like the original")
    left, says = _probability(mine, "forget"), _mean(mine, "forget")
    if not text or says is None:  # a classifier knows rows that it never saw
        return None
    known = _probability(seen["original"], "forget") if "original" in seen else {}
    top, whose = (_mean(seen["original"], "forget"), "the original") if known else (kept, "its retain rows")
    if known and top is not None:
        gap, error = _mean_error({row: known[row] - left[row] for row in left if row in known}, mine.entities("forget"))
        if gap <= min(SMALL, UNKNOWN * top) or gap <= CERTAIN * error:
            return (f"it says the forget rows about as surely as the original (probability {says:.3g}, the original "
                    f"{top:.3g}), so the two cannot tell who knows")
    aside = _probability(mine, "holdout")
    if not aside:
        if top is not None and says >= max(WELL, AS_WELL * top):
            return (f"it says the forget rows almost as surely as they are known (probability {says:.3g}, {whose} "
                    f"{top:.3g}), so it may have been trained on them; holdout rows would tell (--holdout FILE)")
        return None
    other, error_aside = _mean_error(aside, mine.entities("holdout"))
    _, error_left = _mean_error(left, mine.entities("forget"))
    more, room = says - other, max((1.0 if top is None else top) - other, SMALL)
    if more > SMALL and more > UNKNOWN * room and more > CERTAIN * float(np.hypot(error_aside, error_left)):
        return (f"it knows the forget rows better than holdout rows (probability {says:.3g} and {other:.3g}), so it "
                "may have been trained on some of them")
    return None


def _mean(seen: Observations, split: Split) -> float | None:
    values = _probability(seen, split)
    return float(np.mean(list(values.values()))) if values else None


def _probability(seen: Observations, split: Split) -> dict[str, float]:
    """Length-normalised probability of the right answer by row; empty where it was not observed."""
    try:
        return probabilities(by_example(seen.rows("likelihood", split)))
    except NotAvailable:
        return {}


def _mean_error(values: Mapping[str, float], entity_of: Mapping[str, str]) -> tuple[float, float]:
    """Mean over rows, and its standard error by entity (by row where there are few entities)."""
    rows = list(values.values())
    return float(np.mean(rows)), mean_error(rows, labels(values, entity_of))[0]


def words(check: ControlCheck) -> str:
    """The sentence for a control that does not count."""
    return f"The control {check.path} does not count: {check.problem}."


def uncounted(problems: Sequence[str]) -> str:
    """Why nothing is compared with a retrained model, where all that were given have a problem."""
    if len(problems) == 1:
        return f"the retrained model that was given does not count: {problems[0]}"
    return f"none of the {len(problems)} retrained models that were given counts: {'; '.join(dict.fromkeys(problems))}"
