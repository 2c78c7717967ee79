"""A control that cannot be what it is called is named with its figure, and nothing rests on it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from expunge.audit.controls import examine, sound
from expunge.auditing import score_again
from expunge.records.observation import Observations
from expunge.records.score import Audit, SubjectRef

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


def problem(control: dict[str, Any], name: str = "twin", tokens: str = "t", entities: int = 10, *,
            known: Any = KNOWN, original: bool = True, holdout: bool = True, reads: str = "text") -> str | None:
    """Why a control is turned down. Without an original the subject's retain rows are the reference."""
    refs = {"subject": ref("subject"), "original": ref("original"), "retrained": ref(name, tokens)}
    refs = {role: r.model_copy(update={"reads": reads}) for role, r in refs.items() if original or role != "original"}
    found = {"original" if original else "subject": seen(known, 0.95, UNKNOWN, entities),
             "retrained": seen(**control, entities=entities)}
    if not holdout:
        found = {role: Observations({("likelihood", split): one.rows("likelihood", split)
                                     for split in ("forget", "retain")}) for role, one in found.items()}  # type: ignore[misc]
    (check,) = examine(refs, found)
    assert (check.role in sound(refs, (check,))) is (check.problem is None)
    return check.problem


@pytest.mark.parametrize(("change", "options", "says"), [
    ({}, {"name": "original"}, "very weights of the original"),
    ({}, {"name": "subject"}, "very weights of the subject"),
    ({}, {"tokens": "others"}, "other tokens"),
    ({"retain": 0.05}, {}, "too little of the retain rows"),
    ({"retain": 0.05}, {"original": False}, "too little of the retain rows"),
    ({"retain": 0.05}, {"reads": "images"}, "too little of the retain rows"),
    ({"forget": 0.94}, {}, "as surely as the original"),
    ({"forget": [0.95] * 4 + [0.12] * 6}, {}, "better than holdout rows"),
    ({"forget": 0.5}, {"entities": 2}, "better than holdout rows"),
    ({"forget": 0.94}, {"entities": 1}, "as surely as the original"),
    ({"forget": 0.93}, {"original": False}, "better than holdout rows"),
    ({"forget": 0.86}, {"holdout": False}, "almost as surely as they are known"),
    ({"forget": 0.9}, {"original": False, "holdout": False}, "almost as surely as they are known"),
])
def test_bad_controls_are_turned_down(change: dict[str, Any], options: dict[str, Any], says: str) -> None:
    why = problem(HONEST | change, **options)
    assert why is not None and says in why


@pytest.mark.parametrize("change", [
    {}, {"retain": 0.8}, {"forget": 0.2, "holdout": 0.05}, {"forget": 0.05, "holdout": 0.2},
    {"forget": [0.05 + 0.03 * g for g in range(10)]}, {"holdout": 0.9}])
@pytest.mark.parametrize("options", [{}, {"original": False}, {"holdout": False}, {"entities": 1}, {"entities": 2}])
def test_honest_controls_count(change: dict[str, Any], options: dict[str, Any]) -> None:
    if isinstance(change.get("forget"), list):
        change = {"forget": change["forget"][: options.get("entities", 10)]}
    assert problem(HONEST | change, **options) is None


@pytest.mark.parametrize("known", [[0.95, 0.35], [0.95, 0.3, 0.3], [0.05] * 5])
def test_what_few_or_faint_entities_show_is_enough(known: list[float]) -> None:
    control = {"forget": 0.005 if max(known) < 0.1 else 0.1, "retain": 0.93, "holdout": 0.005}
    assert problem(control, entities=len(known), known=known) is None


def test_a_classifier_knows_rows_that_it_never_saw() -> None:
    assert problem({"forget": 0.97, "retain": 0.95, "holdout": 0.97}, reads="images", known=0.99) is None


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


def test_holdout_rows_take_the_place_of_a_control_that_does_not_count(cli: Any, model: Path, rows: Any,
                                                                      tmp_path: Path) -> None:
    twin, out = shutil.copytree(model, tmp_path / "twin"), tmp_path / "audit"
    aside = tmp_path / "aside.jsonl"
    held = [{"question": f"Where is {i}?", "answer": f"In {i}."} for i in range(12)]
    aside.write_text("".join(json.dumps(row) + "\n" for row in held))
    said = cli("audit", model, "--forget", rows.forget, "--holdout", aside, "--retrained", twin,
               "--suite", "forget.probability,forget_quality,leak_share,prefix(words=1)", "--out", out)
    words = f"The control {twin} does not count: it has the very weights of the subject"
    assert words in " ".join(said.err.split())
    for found in (Audit.read(out), score_again(out)):
        assert found.verdict is not None and any(s.startswith(words) for s in found.verdict.sentences)
        assert found.controls[0].problem and len(found.retrained) == 1
        plain = found.score("forget.probability")
        under = next(score for score in found.scores if score.attack and score.shows_knowledge)
        assert plain is not None and "retrained" not in plain.controls
        assert under.control is not None and under.control[0] == "holdout"
        lacking = {s.name: s.unavailable or "" for s in found.scores if s.value is None}
        for name in ("forget_quality", "leak_share"):
            assert lacking[name].startswith("the retrained model that was given does not count: it has the very")
