"""The four answers at the top of a page, for each kind of finding."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from expunge.judgement.settling import SETTLING
from expunge.judgement.verdict import verdict
from expunge.records.score import AttackRecord, Audit, EntityTest, Power, Score, SubjectRef
from expunge.report.answers import POWER, QUALITY, SETTLES, four_answers


def answered(scores: Sequence[Score], attacks: Sequence[AttackRecord] = (), retrained: int = 2) -> dict[str, str]:
    """The four answers on an audit of these scores."""
    ref = SubjectRef(path="m", fingerprint="f")
    audit = Audit(task="t", task_fingerprint="f", suite=(), subject=ref, retrained=(ref,) * retrained,
                  scores=tuple(scores), attacks=tuple(attacks),
                  verdict=verdict(scores, attacks, power=Power(entities=20, missed=1, control="retrained2")),
                  primary=tuple(a.term for a in attacks))
    return dict(four_answers(audit))


RATIOS = Score(name="forget_quality", value=0.6, n=400, higher_is="forgot")
KNOWN = Score(name="forget.probability", value=0.2, interval=(0.15, 0.25), n=400, higher_is="knows", entities=20,
              controls={"original": 0.9, "retrained": 0.2})
SHARE = Score(name="leak_share", value=0.0, interval=(0.0, 0.04), n=400, higher_is="knows", access="logits",
              controls={"retrained": 0.0})


def tried(name: str, least: float = 1e-4) -> Score:
    """An attack that found nothing."""
    return KNOWN.model_copy(update={
        "attack": name, "before": 0.2, "excess": 0.0, "excess_interval": (-0.02, 0.02), "gain": 0.0,
        "gain_interval": (-0.02, 0.02),
        "test": EntityTest(p=0.5, p_joint=0.5, p_gain=0.5, p_least=least, units=20)})


TRIED = tuple(AttackRecord(term=name, labels=(name,), access="text", families=("prompt:paraphrase",),
                           splits_entities=False, summary="") for name in ("a", "b"))


def test_going_too_far_is_no_yes_without_an_attack_that_could_tell() -> None:
    low = KNOWN.model_copy(update={"value": 0.02, "interval": (0.01, 0.03)})
    for attacks, said in ([], "since no attack was set"), ([tried("a", 0.2)], "since a could not have counted"):
        found = answered([RATIOS, low, *attacks], TRIED)["Did it forget?"]
        assert found.startswith("It says less than a model that never saw the forget set; whether something is left ")
        assert said in found
    assert answered([RATIOS, low, tried("a")], TRIED)["Did it forget?"].startswith("Yes, but it went too far.")


def test_what_forgetting_means_goes_by_what_was_measured() -> None:
    with_ratios, without = (answered([first, KNOWN, tried("a")], TRIED)["Did it forget?"] for first in (RATIOS, SHARE))
    assert "The truth ratios are those" in with_ratios and "The truth ratios are those" not in without
    assert without.startswith("Yes, as far as it was tested. No more rows than chance explains")


@pytest.mark.parametrize(("retrained", "count", "said", "unsaid"), [
    (2, 2, "would succeed all the same with a chance of 5 % at most", "does not hold"),
    (3, 1, "would succeed all the same with a chance of 5 % at most", "does not hold"),
    (2, 0, "2 retrained models are the controls.", "5 %"),
    (1, 2, "it does not hold that a model in which nothing is left is accused",
     "all the same"),
    (1, 0, "One retrained model is the only control", "5 %"), (0, 2, "with no retrained model.", "5 %")])
def test_the_level_is_told_where_it_holds(retrained: int, count: int, said: str, unsaid: str) -> None:
    found = answered([RATIOS, KNOWN, *map(tried, "ab"[:count])], TRIED[:count], retrained)["How sure?"]
    assert said in found and unsaid not in found


@pytest.mark.parametrize(("scores", "reason"), [
    ([RATIOS, KNOWN], "Asked plainly the model looks like one that never saw the forget set, but no attack"),
    ([RATIOS.model_copy(update={"value": 0.001}), KNOWN, tried("a")], "The truth ratios differ, and the average"),
    ([RATIOS.model_copy(update={"n": 9}), KNOWN, tried("a")], "With 9 rows a test of truth ratios"),
    ([KNOWN.model_copy(update={"controls": {}})], "There is no comparison with a retrained model")])
def test_an_undecided_answer_has_one_reason_and_what_would_settle_it(scores: list[Score], reason: str) -> None:
    found = answered(scores, TRIED)["Did it forget?"]
    assert found.startswith(f"That is not settled. {reason}") and found.count(SETTLES) == 1
    assert f"{SETTLING} " == SETTLES
    assert "do not settle whether" not in found and QUALITY not in found and POWER not in found
