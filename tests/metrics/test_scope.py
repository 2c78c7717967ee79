"""What a verdict says it covers."""

from __future__ import annotations

import pytest

from expunge.judgement.leaks import decided
from expunge.judgement.verdict import verdict
from expunge.needs import OFFERS
from expunge.records.coverage import Coverage
from expunge.records.score import AttackRecord, EntityTest, Family, Score
from tests.metrics.test_entity_alarms import QUALITY

FAMILIES: dict[str, Family] = {"paraphrase": "prompt:paraphrase", "relearn": "relearning", "prefix": "prompt:context"}
RECORDS = tuple(AttackRecord(term=name, labels=(name,), access="text", families=(family,), splits_entities=False,
                             summary="") for name, family in FAMILIES.items())


def score(attack: str | None = None, excess: float = 0.0) -> Score:
    """One of an attack that brings out `excess` more than of its control."""
    value = 0.1 + excess
    made = Score(name="forget.probability", attack=attack, value=value, interval=(value - 0.02, value + 0.02), n=100,
                 higher_is="knows", entities=20, controls={"original": 0.9, "retrained": 0.1})
    if attack:
        made = made.model_copy(update={
            "before": 0.1, "control_before": 0.1, "excess": excess, "excess_interval": (excess - 0.02, excess + 0.02),
            "gain": excess, "gain_interval": (excess - 0.02, excess + 0.02), "floor": 0.0,
            "test": EntityTest(p=0.001 if excess else 0.6, p_joint=0.004 if excess else 0.9,
                               p_gain=0.001 if excess else 0.6, p_least=0.001, units=20)})
    return made


def covers(*scores: Score, kind: str = "text") -> Coverage:
    return verdict(decided([QUALITY, *scores]), RECORDS, offered=OFFERS[kind]).scope


def test_ways_that_stayed_silent_and_ways_that_nobody_tried() -> None:
    found = covers(score(), score("paraphrase"), score("relearn"))
    assert (found.brought_out, found.silent) == ((), ("plain questions", "paraphrases", "relearning"))
    assert found.untested == ("hints", "jailbreaks", "many samples", "searched prompts", "rounding", "hidden states")
    assert found.text == ("nothing found by plain questions, paraphrases, relearning; not tried: hints, "
        "jailbreaks, many "
                          "samples, searched prompts, rounding, hidden states")


def test_what_brought_it_out_stands_first() -> None:
    found = covers(score(), score("paraphrase"), score("relearn", 0.5))
    assert (found.brought_out, found.silent) == (("relearning",), ("plain questions", "paraphrases"))
    assert found.text.startswith("found by relearning; nothing found by plain questions, paraphrases; not "
        "tried: hints, ")
    known = score().model_copy(update={"value": 0.8, "interval": (0.7, 0.9)})
    assert covers(known, score("paraphrase", 0.5)).text.startswith("found by plain questions, paraphrases; not tried: ")


@pytest.mark.parametrize("changes", [
    {"excess": None, "excess_interval": None, "controls": {"original": 0.9}},  # no control
    {"n": 5},
    {"counted": False},
    {"value": 0.0, "original_attacked": 0.2, "excess": -0.1, "excess_interval": (-0.12, -0.08)},  # it breaks the model
    {"test": EntityTest(p=0.5, p_joint=0.9, p_gain=0.5, p_least=0.2, units=20)},  # too few to count
])
def test_what_proves_nothing_is_not_called_tested(changes: dict[str, object]) -> None:
    found = covers(score(), score("relearn"), score("paraphrase").model_copy(update=changes))
    assert "paraphrases" in found.untested and "paraphrases" not in found.silent


def test_what_a_kind_of_model_has_no_use_for_is_not_missed() -> None:
    assert {"hints", "jailbreaks", "many samples"} <= {*covers(score()).untested}
    found = covers(score(), kind="image")
    assert (found.silent, found.untested) == (("plain inputs",), ("relearning", "rounding", "hidden states"))


def test_a_look_inside_counts_where_it_was_compared() -> None:
    inside = score().model_copy(update={"access": "weights", "name": "forget.logit_lens"})
    assert "hidden states" in covers(score(), inside).silent
    assert "hidden states" in covers(score(), inside.model_copy(update={"controls": {}})).untested
    assert "hidden states" in covers(score(), inside.model_copy(update={
        "value": 0.7, "interval": (0.6, 0.8)})).brought_out


def test_an_alarm_is_neither_silent_nor_found() -> None:
    secondary = score("paraphrase", 0.5).model_copy(update={
        "test": EntityTest(p=0.001, p_gain=0.001, p_least=0.001, units=20)})
    lone = score("relearn", 0.12).model_copy(update={"floor": None})
    few = score("prefix", 0.5).model_copy(update={
        "test": EntityTest(p=0.2, p_joint=0.2, p_gain=0.001, p_least=0.2, units=3)})
    found = covers(score(), secondary, lone, few)
    assert found.alarmed == ("hints", "paraphrases", "relearning")
    assert (found.brought_out, found.silent) == ((), ("plain questions",))
    assert found.text.startswith("alarm by hints, paraphrases, relearning; nothing found by plain questions; "
        "not tried: ")
    assert covers(score(), secondary, score("relearn", 0.5)).text.startswith(
        "found by relearning; alarm by paraphrases; nothing found by plain questions; not tried: ")


def test_what_could_not_have_counted_tests_nothing_declared_or_not() -> None:
    for joint in (0.9, None):
        unable = score("paraphrase").model_copy(update={
            "test": EntityTest(p=0.5, p_joint=joint, p_gain=0.5, p_least=0.2, units=3)})
        assert "paraphrases" in covers(score(), score("relearn"), unable).untested


@pytest.mark.parametrize(("quality", "changes", "group"), [
    (QUALITY, {}, "silent"), (QUALITY, {"value": 0.8, "interval": (0.7, 0.9)}, "alarmed"),  # the evidence disagrees
    (QUALITY.model_copy(update={"value": 0.001}), {"value": 0.8, "interval": (0.7, 0.9)}, "brought_out"),
    (QUALITY.model_copy(update={"value": 0.001}), {}, "alarmed"),  # in no direction
    (QUALITY.model_copy(update={"n": 12}), {}, None)])  # too few rows
def test_plain_questions_found_nothing_only_where_that_is_settled(quality: Score, changes: dict[str, object],
                                                                  group: str | None) -> None:
    found = verdict(decided([quality, score().model_copy(update=changes), score("relearn")]), RECORDS).scope
    groups = ("brought_out", "alarmed", "silent", "untested")
    assert [name for name in groups if "plain questions" in getattr(found, name)] == [group] * (group is not None)
