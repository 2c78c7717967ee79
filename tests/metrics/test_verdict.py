"""The outcome follows the rules, and every sentence carries its figures."""

from __future__ import annotations

from typing import Any

import pytest

from expunge.metrics.base import Evidence
from expunge.metrics.evaluate import score_all
from expunge.metrics.verdict import NOT_TRIED, is_above, is_below, verdict
from expunge.records.observation import Observations
from expunge.records.score import Score

from .build import observations, world

SUITE = ["forget.probability", "forget.rouge_l", "forget.truth_ratio", "forget.extraction_strength",
         "retain.probability", "mia.loss", "mia.min_k", "privleak", "model_utility", "forget_quality"]


def score(name: str, value: float, interval: tuple[float, float] | None = None, *, n: int = 100,
          attack: str | None = None, higher_is: Any = "knows", **controls: float | None) -> Score:
    return Score(name=name, value=value, interval=interval, n=n, attack=attack, higher_is=higher_is,
                 controls=controls)


def quality(p: float, n: int = 100, floor: float = 1.0) -> Score:
    return score("forget_quality", p, n=n, higher_is="forgot", retrained=floor, original=0.0)


ABOVE = score("forget.probability", 0.8, (0.7, 0.9), original=0.9, retrained=0.2)
BELOW = score("forget.probability", 0.01, (0.0, 0.02), original=0.9, retrained=0.2)
SAME = score("forget.probability", 0.21, (0.15, 0.25), original=0.9, retrained=0.2)
LEAK = score("forget.rouge_l", 0.6, (0.5, 0.7), attack="relearn(steps=20)", original=0.9, retrained=0.2)


@pytest.mark.parametrize(("scores", "outcome"), [
    ([quality(0.4), SAME], "forgets"),
    ([quality(0.05)], "forgets"),
    ([quality(0.4), BELOW], "forgets"),
    ([quality(0.4), ABOVE], "undecided"),
    ([quality(1e-9), ABOVE], "retains"),
    ([ABOVE], "retains"),
    ([quality(1e-9), BELOW], "over-forgets"),
    ([quality(1e-9), SAME], "undecided"),
    ([BELOW], "undecided"),
    ([SAME], "undecided"),
    ([quality(1.0, n=4)], "undecided"),
    ([quality(0.4), SAME, LEAK], "retains"),
    ([quality(1e-9), BELOW, LEAK], "retains"),
    ([quality(0.4), SAME, BELOW.model_copy(update={"attack": "relearn()"})], "forgets"),
    ([score("forget.probability", 0.8, (0.7, 0.9), original=0.9)], "undecided"),
    ([], "undecided"),
])
def test_outcome(scores: list[Score], outcome: str) -> None:
    assert verdict(scores).outcome == outcome


@pytest.mark.parametrize(("name", "outcome"), [
    ("original", "retains"), ("perfect", "retains"), ("retrained", "forgets"), ("collapsed", "over-forgets"),
])
def test_worlds(name: str, outcome: str) -> None:
    found = verdict(score_all(SUITE, world(name), 200))
    assert found.outcome == outcome
    assert all(s.endswith(".") and any(c.isdigit() for c in s) for s in found.sentences), found.sentences


def test_direction_needs_width_rows_and_a_gap_that_matters() -> None:
    assert is_above(ABOVE) and is_below(BELOW) and not is_above(SAME) and not is_below(SAME)
    few = ABOVE.model_copy(update={"n": 3})
    assert not is_above(few) and not is_below(BELOW.model_copy(update={"n": 3}))
    assert not is_above(ABOVE.model_copy(update={"interval": None}))
    unsure = score("forget.probability", 0.5, (0.1, 0.9), original=0.9, retrained=0.2)
    assert not is_above(unsure)
    assert not is_below(unsure.model_copy(update={"value": 0.15}))
    sliver = score("forget.probability", 0.23, (0.22, 0.24), original=0.9, retrained=0.2)
    assert not is_above(sliver)
    assert is_above(sliver.model_copy(update={"controls": {"retrained": 0.2}}))


def test_orientation_decides_what_counts_as_knowledge() -> None:
    """A truth ratio near 1 is neither knowledge nor its absence."""
    ratio = score("forget.truth_ratio", 0.9, (0.8, 0.95), higher_is="neutral", retrained=0.2)
    assert verdict([ratio, quality(1e-9)]).outcome == "undecided"


def test_without_a_retrained_model_it_says_so_and_still_reports_the_figures() -> None:
    found = verdict(score_all(SUITE, world("original", retrained=False), 100))
    assert found.outcome == "undecided" and "no comparison with a retrained model" in found.sentences[0]
    assert any(s.startswith("mia.loss is") and "still look more familiar" in s for s in found.sentences)
    assert any(s.startswith("forget.probability is") and "original" in s for s in found.sentences)
    assert "forget_quality: no retrained model was given (--retrained)" in found.not_tested


def test_membership_sentences_follow_the_interval() -> None:
    def said(value: float, low: float, high: float) -> str:
        (sentence,) = [s for s in verdict([score("mia.loss", value, (low, high), retrained=0.52)]).sentences
                       if s.startswith("mia.loss")]
        return sentence

    assert said(0.7, 0.65, 0.75) == (
        "mia.loss is 0.7 [0.65, 0.75], n = 100 (retrained 0.52): the forget rows still look more familiar "
        "than rows that were never trained on (0.5 = no difference).")
    assert "but no more so than in the retrained model" in said(0.53, 0.51, 0.55)
    assert "look less familiar" in said(0.2, 0.1, 0.3)
    assert "does not tell" in said(0.51, 0.46, 0.56)


def test_utility_is_set_against_the_original() -> None:
    utility = score("model_utility", 0.3, (0.25, 0.35), original=0.6, retrained=0.58)
    assert ("model_utility is 0.3 [0.25, 0.35], n = 100 (original 0.6, retrained 0.58), 50% of the original's"
            ", which is clearly less.") in verdict([utility]).sentences
    assert any("what the model still can do" in s for s in verdict([quality(0.4)]).sentences)
    retain = score("retain.rouge_l", 0.6, (0.5, 0.7), original=0.6)
    assert any(s.startswith("retain.rouge_l") and "100% of" in s for s in verdict([retain]).sentences)


def test_forget_quality_sentence_states_power_and_noise_floor() -> None:
    assert verdict([quality(0.42, n=40, floor=0.6)]).sentences[0] == (
        "Forget quality is p = 0.42 over 40 forget rows: the truth ratios could not be told from those of "
        "the retrained model (limit 0.05). A test of this size only notices distributions that are about "
        "0.30 apart or more; other retrained models reach p = 0.6 against the first.")
    assert "other retrained" not in verdict([quality(0.42)]).sentences[0]


def test_what_was_not_tried_is_listed_until_it_is() -> None:
    assert set(NOT_TRIED) <= set(verdict([quality(0.4)]).not_tested)
    tried = verdict([quality(0.4), LEAK]).not_tested
    assert not any("relearning" in s for s in tried) and any("quantisation" in s for s in tried)
    failed = Score(name="forget.rouge_l", attack="quantize(bits=4)", value=None, unavailable="no kernel")
    listed = verdict([failed]).not_tested
    assert "forget.rouge_l under quantize(bits=4): no kernel" in listed
    assert any(s.startswith("quantisation") for s in listed)


def test_an_empty_audit_has_a_verdict() -> None:
    found = verdict(score_all(SUITE, Evidence(Observations({}))))
    assert found.outcome == "undecided" and len(found.not_tested) == len(SUITE) + len(NOT_TRIED)
    assert observations("original").keys()
