"""A control that cannot be what it is called is named with its figure, and nothing rests on it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from expunge.audit.controls import examine, sound
from expunge.records.observation import Observations
from expunge.records.score import SubjectRef

KNOWN, UNKNOWN = 0.95, 0.1
HONEST = {"forget": 0.12, "retain": 0.93, "holdout": 0.1}


def seen(forget: Any, retain: float, holdout: float, entities: int = 10) -> Observations:
    """Five rows of each entity; `forget` may be one probability for each entity."""
    said = {"forget": forget if isinstance(forget, list) else [forget] * entities,
            "retain": [retain] * entities, "holdout": [holdout] * entities}
    return Observations({("likelihood", split): [
        {"id": f"{split}{g}.{i}", "entity": f"{split}{g}", "group": "a", "form": "answer", "index": 0, "correct": True,
         "text": "x", "logp": [math.log(p) - 0.05 * ((7 * g + i) % 5)], "hit": [True], "end": 0}
        for g, p in enumerate(each) for i in range(5)] for split, each in said.items()})


def ref(name: str, tokens: str = "t") -> SubjectRef:
    return SubjectRef(path=name, fingerprint=name, tokens=tokens)


def problem(control: dict[str, Any], name: str = "twin", tokens: str = "t", entities: int = 10) -> str | None:
    refs = {"subject": ref("subject"), "original": ref("original"), "retrained": ref(name, tokens)}
    found = {"original": seen(KNOWN, 0.95, UNKNOWN, entities), "retrained": seen(**control, entities=entities)}
    (check,) = examine(refs, found)
    assert (check.role in sound(refs, (check,))) is (check.problem is None)
    return check.problem


@pytest.mark.parametrize(("change", "options", "says"), [
    ({}, {"name": "original"}, "very weights of the original"),
    ({}, {"name": "subject"}, "very weights of the subject"),
    ({}, {"tokens": "others"}, "other tokens"),
    ({"retain": 0.05}, {}, "too little of the retain rows"),
    ({"forget": 0.94}, {}, "as surely as the original"),
    ({"forget": [0.95] * 4 + [0.12] * 6}, {}, "better than holdout rows"),
    ({"forget": 0.5}, {"entities": 2}, "better than holdout rows"),
    ({"forget": 0.94}, {"entities": 1}, "as surely as the original"),
])
def test_bad_controls_are_turned_down(change: dict[str, Any], options: dict[str, Any], says: str) -> None:
    why = problem(HONEST | change, **options)
    assert why is not None and says in why


@pytest.mark.parametrize("change", [
    {}, {"retain": 0.8}, {"forget": 0.2, "holdout": 0.05}, {"forget": 0.05, "holdout": 0.2},
    {"forget": [0.05 + 0.03 * g for g in range(10)]}, {"holdout": 0.9}])
@pytest.mark.parametrize("entities", [1, 2, 10])
def test_honest_controls_count(change: dict[str, Any], entities: int) -> None:
    if isinstance(change.get("forget"), list):
        change = {"forget": change["forget"][:entities]}
    assert problem(HONEST | change, entities=entities) is None


def test_the_same_model_twice_counts_once() -> None:
    refs = {"subject": ref("a"), "original": ref("b"), "retrained": ref("c"), "retrained2": ref("c"),
            "retrained3": ref("d")}
    checks = examine(refs, {})
    assert [check.problem is None for check in checks] == [True, False, True]
    assert "another retrained model" in str(checks[1].problem)


def test_what_was_not_observed_is_not_held_against_it() -> None:
    refs = {"subject": ref("a", ""), "retrained": ref("c")}
    (check,) = examine(refs, {"retrained": Observations({})})
    assert check.problem is None
