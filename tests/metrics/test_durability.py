"""DurableUn's certificate, corrected: a rounding more can only raise the figure, one that destroys the model too; a
collapsed model fails."""

from __future__ import annotations

import pytest

from expunge.records.durability import durability, rounds
from expunge.records.score import Score

PRECISIONS = {"quantise(bits=8)": (0.04, 0.8), "quantise": (0.045, 0.7)}


def score(name: str, value: float, attack: str | None = None) -> Score:
    return Score(name=name, attack=attack, value=value, n=20, higher_is="knows", ideal="reference", range=(0.0, 1.0),
                 access="weights" if attack else "logits", controls={"original": 0.9})


def scores(forget: float = 0.03, retain: float = 0.85, **more: tuple[float, float]) -> list[Score]:
    found = [score("forget.probability", forget), score("retain.probability", retain)]
    for label, (left, kept) in (PRECISIONS | more).items():
        found += [score("forget.probability", left, label), score("retain.probability", kept, label)]
    return found


def test_the_worst_precision_counts_and_one_more_only_lowers_the_chance() -> None:
    plain = durability(scores())
    assert plain.value == pytest.approx(0.045) and "(quantise)" in plain.said
    for left in (0.01, 0.3):
        more = durability(scores(**{"quantise(bits=4, form=nf4)": (left, 0.7)}))
        assert more.value == max(0.045, left)
    assert durability(scores(forget=0.6)).value == 0.6  # nothing was forgotten, rounded or not


def test_a_collapsed_model_cannot_pass() -> None:
    found = durability(scores(forget=0.0, retain=0.04))
    assert found.value is None and "collapsed" in found.said


def test_a_precision_that_destroys_the_model_shows_nothing() -> None:
    found = durability(scores(**{"quantise(bits=2)": (0.0, 0.01)}))
    assert found.value == pytest.approx(0.045) and "2 precisions" in found.said and "bits=2" in found.said
    leaking = durability(scores(**{"quantise(bits=2)": (0.4, 0.01)}))
    assert leaking.value == 0.4 and "2 precisions" in leaking.said, "a leak is a leak, whatever else was lost"
    ruined = [s.model_copy(update={"value": 0.01}) if s.attack and s.name.startswith("retain") else s for s in scores()]
    assert durability(ruined).value is None and "leaves the model whole" in durability(ruined).said
    assert durability(scores()[:2]).value is None and durability([]).value is None
    alone = durability([s.model_copy(update={"controls": {}}) for s in scores()])
    assert alone.value is None and "original" in alone.said


def test_only_rounding_alone_is_a_precision() -> None:
    assert rounds("quantise") and rounds("quantise(bits=8)")
    assert not rounds("prune") and not rounds("quantise + sample(count=8)")
