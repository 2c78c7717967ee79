"""The outcome follows the rules, and every sentence carries its figures."""

from __future__ import annotations

from typing import Any

import pytest

from expunge.attacks.base import parse_attack
from expunge.audit.attacks import AttackResult, describe
from expunge.audit.suites import SUITES
from expunge.judgement.directions import is_above, is_below
from expunge.judgement.leaks import doubt, leaks, succeeds
from expunge.judgement.outcome import shown_alone
from expunge.judgement.threat_wording import uncounted
from expunge.judgement.threats import NOT_TRIED
from expunge.judgement.verdict import verdict
from expunge.metrics.base import Evidence
from expunge.metrics.evaluate import score_all
from expunge.records.observation import Observations
from expunge.records.score import AttackRecord, Family, Score
from expunge.testing.observed_worlds import observations, world

SUITE = ["forget.probability", "forget.rouge_l", "forget.truth_ratio", "forget.extraction_strength",
         "retain.probability", "mia.loss", "mia.min_k", "privleak", "model_utility", "forget_quality"]


def score(name: str, value: float, interval: tuple[float, float] | None = None, *, n: int = 100,
          attack: str | None = None, higher_is: Any = "knows", **controls: float | None) -> Score:
    return Score(name=name, value=value, interval=interval, n=n, attack=attack, higher_is=higher_is,
                 controls=controls)


def quality(p: float, n: int = 100, floor: float = 1.0) -> Score:
    return score("forget_quality", p, n=n, higher_is="forgot", retrained=floor, original=0.0)


ABOVE = score("forget.probability", 0.8, (0.7, 0.9), original=0.9, retrained=0.2)
LOWER = score("forget.probability", 0.1, (0.08, 0.12), original=0.9, retrained=0.2)
BELOW = score("forget.probability", 0.01, (0.0, 0.02), original=0.9, retrained=0.2)
SAME = score("forget.probability", 0.21, (0.15, 0.25), original=0.9, retrained=0.2)


def attacked(excess: float | None = 0.4, width: float = 0.1, *, attack: str = "relearn", name: str = "forget.rouge_l",
             control: float = 0.2, original: float | None = 0.9, which: str = "retrained", **more: Any) -> Score:
    """A score under attack whose excess has an interval of half-width `width`."""
    known = {} if original is None else {"original": original}
    frame: dict[str, Any] = {
        "name": name, "attack": attack, "value": control + (excess or 0.0), "before": 0.05, "n": 50,
        "higher_is": "knows", "access": "weights", "controls": {**known, which: control}, "excess": excess,
        "excess_interval": None if excess is None else (excess - width, excess + width), "entities": 1000,
        "gain": excess, "gain_interval": None if excess is None else (excess - width, excess + width), "floor": 0.0}
    return Score(**frame | more)


LEAK = attacked()
RELEARNING = "relearning: whether a little fine-tuning brings the knowledge back"
NOTHING = attacked(0.02, attack="prefix", access="text")


@pytest.mark.parametrize(("scores", "outcome"), [
    ([quality(0.4), SAME], "undecided"),  # no attack ran
    ([quality(0.4), SAME, NOTHING], "forgets"),
    ([quality(0.05), NOTHING], "forgets"),
    ([quality(0.4), LOWER, NOTHING], "forgets"),
    ([quality(0.4, n=25), SAME, NOTHING], "undecided"),  # half of 25 rows would go unseen
    ([quality(0.4, n=26), SAME, NOTHING], "forgets"),
    ([quality(0.4), BELOW], "over-forgets"),
    ([quality(1e-9), LOWER], "over-forgets"),
    ([quality(0.4), ABOVE], "undecided"),
    ([quality(1e-9), ABOVE], "retains"),
    ([ABOVE], "retains"),
    ([quality(1e-9), BELOW], "over-forgets"),
    ([quality(1e-9), SAME], "undecided"),
    ([BELOW], "undecided"),
    ([SAME], "undecided"),
    ([quality(1.0, n=4)], "undecided"),
    ([quality(0.4), SAME, LEAK], "suppresses"),
    ([quality(1e-9), BELOW, LEAK], "suppresses"),
    ([quality(1e-9), SAME, LEAK], "suppresses"),
    ([quality(1e-9), ABOVE, LEAK], "retains"),
    ([quality(0.4), ABOVE, LEAK], "retains"),
    ([quality(0.4), SAME, attacked(name="retain.rouge_l")], "undecided"),
    ([quality(0.4), SAME, ABOVE.model_copy(update={"name": "forget.lens", "access": "weights"})], "suppresses"),
    ([score("forget.probability", 0.8, (0.7, 0.9), original=0.9)], "undecided"),
    ([], "undecided"),
])
def test_outcome(scores: list[Score], outcome: str) -> None:
    assert verdict(scores).outcome == outcome


@pytest.mark.parametrize(("kept", "interval", "ruins"), [
    (0.06, (0.05, 0.07), True), (0.4, (0.35, 0.44), True), (0.45, (0.4, 0.5), False), (0.9, (0.88, 0.92), False)])
@pytest.mark.parametrize(("scores", "outcome"), [
    ([quality(0.4), SAME, NOTHING], "forgets"), ([quality(0.4), BELOW], "over-forgets"), ([SAME], "undecided"),
    ([quality(0.4), SAME, LEAK], "suppresses"), ([quality(1e-9), ABOVE], "retains")])
@pytest.mark.parametrize("control", ["original", "retrained"])
def test_a_model_that_lost_what_it_should_keep_is_ruined(kept: float, interval: tuple[float, float], ruins: bool,
                                                         scores: list[Score], outcome: str, control: str) -> None:
    """What it still knows of the forget set comes first; low scores show no forgetting then."""
    retain = score("retain.probability", kept, interval, **{control: 0.93})
    found = verdict([*scores, retain])
    ruined = ruins and outcome not in ("suppresses", "retains")
    assert found.outcome == ("ruined" if ruined else outcome)
    assert found.sentences[0].startswith(f"The model lost what it should keep: retain.probability ({kept}") == ruined
    assert "ruined" not in {t.outcome for t in found.threats} or ruined
    assert "forgets" not in {t.outcome for t in found.threats} or not ruined


@pytest.mark.parametrize(("name", "outcome"), [
    ("original", "retains"), ("perfect", "retains"), ("retrained", "undecided"), ("collapsed", "ruined"),
])
def test_worlds(name: str, outcome: str) -> None:
    found = verdict(score_all(SUITE, world(name), 200))
    assert found.outcome == outcome and (found.alone == "forgets") == (name == "retrained")
    assert all(s.endswith(".") for s in found.sentences), found.sentences
    told = [s for s in found.sentences if not s.startswith(("Asked plainly", "What would settle it"))]
    assert all(any(c.isdigit() for c in s) for s in told), told


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
    def said(value: float, low: float, high: float, **retrained: float) -> str:
        (sentence,) = [s for s in verdict([score("mia.loss", value, (low, high), **retrained)]).sentences
                       if s.startswith("mia.loss")]
        return sentence

    assert said(0.7, 0.65, 0.75) == (
        "mia.loss is 0.7 [0.65, 0.75], n = 100: the forget rows still look more familiar than rows that were never "
        "trained on (0.5 = no difference).")
    assert "look less familiar" in said(0.2, 0.1, 0.3)
    assert "does not tell" in said(0.51, 0.46, 0.56)
    # The retrained model's value is the null: its rows may be easier by nature.
    assert said(0.7, 0.65, 0.75, retrained=0.6) == (
        "mia.loss is 0.7 [0.65, 0.75], n = 100 (retrained 0.6): the forget rows still look more familiar to this "
        "model than to the retrained one, beside holdout rows.")
    assert "look as familiar to this model as to the retrained one" in said(0.7, 0.65, 0.75, retrained=0.68)
    assert "look less familiar to this model than to" in said(0.51, 0.46, 0.56, retrained=0.7)


@pytest.mark.parametrize(("scores", "down", "says"), [
    ([ABOVE.model_copy(update={"controls": {"original": 0.9}})], ("The control x does not count: it is bad.",),
     "a retrained model that counts"),
    ([SAME, Score(name="forget_quality", value=None, unavailable="no forget row has wrong answers")], (),
     "field wrong_answers"),
    ([quality(0.4), SAME, attacked(0.1, width=0.01, floor=None)], (), "--retrained A --retrained B"),
])
def test_it_says_what_would_settle_it(scores: list[Score], down: tuple[str, ...], says: str) -> None:
    found = verdict(scores, turned_down=down)
    assert found.outcome == "undecided" and set(down) <= set(found.sentences)
    assert says in next(s for s in found.sentences if s.startswith("What would settle it"))


@pytest.mark.parametrize(("floor", "outcome"), [(None, "undecided"), (0.0, "suppresses")])
def test_one_control_has_the_same_bar_as_two(floor: float | None, outcome: str) -> None:
    """A tenth of what there was to recover forbids "forgets"; with one control less than a quarter is no proof."""
    assert verdict([quality(0.4), SAME, attacked(0.1, width=0.01, floor=floor)]).outcome == outcome
    assert verdict([quality(0.4), SAME, attacked(0.05, width=0.01, floor=floor)]).outcome == "forgets"


def test_utility_is_set_against_the_original() -> None:
    utility = score("model_utility", 0.3, (0.25, 0.35), original=0.6, retrained=0.58)
    assert ("model_utility is 0.3 [0.25, 0.35], n = 100 (original 0.6, retrained 0.58), 50% of the original's"
            ", which is clearly less.") in verdict([utility]).sentences
    assert any("what the model still can do" in s for s in verdict([quality(0.4)]).sentences)
    retain = score("retain.rouge_l", 0.6, (0.5, 0.7), original=0.6)
    assert any(s.startswith("retain.rouge_l") and "100% of" in s for s in verdict([retain]).sentences)


def test_forget_quality_sentence_states_power_and_noise_floor() -> None:
    assert verdict([quality(0.42, n=40, floor=0.6), NOTHING]).sentences[0] == (
        "Forget quality is p = 0.42 over 40 forget rows: the truth ratios could not be told from those of "
        "the retrained model (limit 0.05). A test of this size may miss a model that still knows 40% of the rows"
        "; other retrained models reach p = 0.6 against the first.")
    assert "other retrained" not in verdict([quality(0.42)]).sentences[0]


def test_what_was_not_tried_is_listed_until_it_is() -> None:
    assert set(NOT_TRIED) <= set(verdict([quality(0.4)]).not_tested)
    tried = verdict([quality(0.4), LEAK], [record("relearn", families=("relearning",))]).not_tested
    assert not any("relearning" in s for s in tried) and any("quantisation" in s for s in tried)


@pytest.mark.parametrize(("term", "untried", "tried"), [
    ("prefix(words=3)", {"jailbreak prompts", "paraphrased prompts"}, {"prompts that give related facts or the "
                                                                       "beginning of the answer"}),
    ("prefix", {"paraphrased prompts"}, {"jailbreak prompts"}),
    ("translate", {"jailbreak prompts"}, {"paraphrased prompts"}),
    ("relearn(steps=16) + prefix", {"paraphrased prompts"}, {"jailbreak prompts", RELEARNING}),
])
def test_the_family_says_what_was_tried_and_not_the_name(term: str, untried: set[str], tried: set[str]) -> None:
    """The beginning of the answer is no jailbreak, though the same attack gives both."""
    attack = parse_attack(term)
    said = verdict([quality(0.4), attacked(attack=attack.text())], [describe(attack, AttackResult({}))]).not_tested
    assert untried <= set(said) and not tried & set(said)


def test_what_could_not_be_run_is_said_once_with_its_reason() -> None:
    failed = [Score(name=f"forget.{m}", attack=label, value=None, unavailable="no kernel")
              for label in ("quantize(bits=4)", "quantize(bits=8)") for m in ("rouge_l", "probability")]
    bare = [Score(name="forget.keyword", attack=label, value=None, unavailable="no bare fact")
            for label in ("relearn", "prefix")]
    attacks = (record("quantize(bits=[4, 8])", "quantize(bits=4)", "quantize(bits=8)"),)
    found = verdict([quality(0.4), LEAK, NOTHING, *failed, *bare], attacks)
    assert "Not run, 1 in number: quantize(bits=[4, 8]) (no kernel)." in found.sentences
    assert "quantize(bits=[4, 8]): no kernel" in found.not_tested
    assert "forget.keyword under 2 attacks: no bare fact" in found.not_tested
    assert any(s.startswith("quantisation") for s in found.not_tested)
    assert "quantize(bits=[4, 8]): no kernel" in found.threats[3].not_tested


def record(term: str, *labels: str, families: tuple[Family, ...] = ()) -> AttackRecord:
    return AttackRecord(term=term, labels=labels or (term,), access="weights", families=families, splits_entities=False,
                        summary="")


@pytest.mark.parametrize(("score", "tests", "yes"), [
    (attacked(), 1, True),
    (attacked(-0.4), 1, False),
    (attacked(0.1, 0.11), 1, False),
    (attacked(0.4, 0.3), 1, True),
    (attacked(0.4, 0.3), 50, False),  # z = 3.09 of a standard error of 0.153
    (attacked(0.06, 0.01), 1, False),  # less than a tenth of the 0.7 there were to recover
    (attacked(0.06, 0.01, original=None), 1, True),
    (attacked(0.04, 0.01, original=None), 1, False),  # too small to matter, whatever there was
    (attacked(0.06, 0.01, control=0.9), 1, True),  # lent the original: only the excess counts
    (attacked(0.15, 0.01, floor=None), 1, False),  # less than a quarter, and nobody knows what seeds differ by
    (attacked(0.2, 0.01, floor=None), 1, True),
    (attacked(0.4, gain=-0.3, gain_interval=(-0.4, -0.2)), 1, False),  # it showed more before the attack
    (attacked(0.4, gain=0.06, gain_interval=(0.05, 0.07)), 1, False),  # hardly more than plain asking brings
    (attacked(0.4, gain=0.3, gain_interval=(-0.1, 0.7)), 1, False),
    (attacked(0.4, gain=None, gain_interval=None), 1, False),  # nobody asked plainly
    (attacked(entities=1), 1, False),
    (attacked(entities=2), 1, True),  # Student's t of one degree of freedom: 6.3 standard errors, here 0.051 each
    (attacked(entities=2), 2, False),
    (attacked(0.4, control_before=0.3), 1, True),
    (attacked(0.4, control_before=0.58), 1, False),  # the attack silenced the control; asked plainly it says as much
    (attacked(0.4, floor=0.3), 1, True),
    (attacked(0.4, floor=-0.41), 1, False),
    (attacked(None), 1, False),
])
def test_when_an_attack_succeeds(score: Score, tests: int, yes: bool) -> None:
    assert succeeds(score, tests) == yes


@pytest.mark.parametrize(("score", "says"), [
    (attacked(), None), (attacked(None), "no control"), (attacked(gain=None), "no plain score"),
    (attacked(0.1, 0.11), "no excess"), (attacked(gain=-0.1), "no gain"), (attacked(0.06, 0.01), "too small"),
    (attacked(control_before=0.58), "control fell"), (attacked(floor=-0.41), "noise floor"),
    (attacked(entities=2), "few entities"), (attacked(0.4, 0.3), "chance"),
])
def test_a_failure_says_at_what(score: Score, says: str | None) -> None:
    assert doubt(score, 50) == says


def test_the_correction_counts_attacks() -> None:
    borderline = attacked(0.4, 0.3)
    crowd = [attacked(0.0, attack=f"noise{i}") for i in range(49)]
    assert leaks([borderline]) == [borderline]
    assert leaks([borderline, *crowd]) == []
    assert leaks([borderline, *(s.model_copy(update={"access": "text"}) for s in crowd)]) == []
    assert leaks([borderline, *(s.model_copy(update={"attack": "noise"}) for s in crowd)]) == [borderline]
    assert leaks([attacked(n=4), attacked(name="retain.rouge_l"), attacked(higher_is="neutral")]) == []


def test_noise_rarely_succeeds() -> None:
    """50 comparisons of pure noise: at most about one audit in twenty claims a leak."""
    import numpy as np

    draws = np.random.default_rng(0).normal(0, 0.1, (400, 50))
    claims = sum(bool(leaks([attacked(float(x), 0.196, original=None, attack=f"a{i}") for i, x in enumerate(row)]))
                 for row in draws)
    assert claims / 400 < 0.08


def test_the_strongest_recovers_the_largest_share() -> None:
    much, more = attacked(0.4, attack="a"), attacked(0.3, attack="b", control=0.55)
    lent = attacked(0.09, 0.01, attack="c", control=0.9)
    assert [s.attack for s in leaks([lent, much, more])] == ["b", "a", "c"]
    assert lent.share is None and more.share == pytest.approx(0.3 / 0.35)


def outcomes(*scores: Score) -> list[str]:
    return [t.outcome for t in verdict([quality(0.4), *scores]).threats]


TEXT_SAME = score("forget.rouge_l", 0.21, (0.15, 0.25), original=0.9, retrained=0.2).model_copy(
    update={"access": "text"})


def test_threats_are_per_access_and_inherited() -> None:
    assert verdict([quality(0.4), SAME]).threats == ()
    assert outcomes(TEXT_SAME, NOTHING, LEAK) == ["forgets", "undecided", "not tested", "suppresses"]
    logits = attacked(0.02, access="logits")
    assert outcomes(SAME, TEXT_SAME, NOTHING, logits, LEAK) == ["forgets", "forgets", "not tested", "suppresses"]
    by_text = attacked(access="text", attack="prefix")
    assert outcomes(SAME, TEXT_SAME, by_text, logits) == ["suppresses"] * 4
    assert outcomes(TEXT_SAME, NOTHING, ABOVE) == ["undecided"] * 4
    found = verdict([quality(1e-9), ABOVE, TEXT_SAME, NOTHING, LEAK])
    assert [t.outcome for t in found.threats] == ["forgets", "retains", "retains", "retains"]
    assert found.threats[3].strongest == "relearn" and "(0.8 against 0.2)" in found.threats[1].sentence
    below = verdict([quality(1e-9), BELOW, logits])
    assert [t.outcome for t in below.threats] == ["not tested", "over-forgets", "not tested", "not tested"]
    assert below.outcome == "over-forgets" and "(0.01 against 0.2)" in below.threats[1].sentence
    assert [t.outcome for t in verdict([quality(1e-9), SAME, logits]).threats][1] == "undecided"


def few(one: Score, n: int) -> Score:
    return one.model_copy(update={"n": n})


@pytest.mark.parametrize("access", ["text", "logits", "gradients", "weights"])
@pytest.mark.parametrize(("rows", "outcome"), [(12, "undecided"), (20, "undecided"), (25, "undecided"),
                                              (26, "forgets")])
def test_no_threat_forgets_below_the_power_of_the_rows(access: Any, rows: int, outcome: str) -> None:
    """Whatever the truth ratios say, and also where they were not taken."""
    scores = [few(TEXT_SAME, rows), few(SAME, rows), attacked(0.02, attack="prefix", access=access, n=rows)]
    at = ["text", "logits", "gradients", "weights"].index(access)
    whole = verdict([quality(0.4, n=rows), *scores])
    assert whole.outcome == whole.threats[at].outcome == outcome
    assert verdict([quality(1e-9, n=rows), *scores]).threats[at].outcome in ("undecided", outcome)
    if rows < 26:
        assert f"but {rows} rows are too few" in whole.threats[at].sentence
        assert verdict(scores).threats[at].outcome == "undecided"


def test_a_threat_says_which_evidence_disagrees() -> None:
    """Also where the score that disagrees needs more access; many other rows do not make up for few truth ratios."""
    found = verdict([quality(0.4), TEXT_SAME, NOTHING, ABOVE])
    assert found.outcome == "undecided" and "the evidence disagrees" in found.threats[0].sentence
    assert "(0.8 against 0.2)" in found.threats[0].sentence
    few_ratios = verdict([quality(0.4, n=20), TEXT_SAME, NOTHING])
    assert few_ratios.threats[0].outcome == "undecided" and "do not settle it" in few_ratios.threats[0].sentence


def test_attacks_without_a_control_decide_nothing() -> None:
    bare = attacked(None, access="logits")
    found = verdict([quality(0.4), SAME, bare])
    assert found.outcome == "undecided" and "no attack was set against a control" in found.sentences[0]
    assert found.threats[1].outcome == "undecided"
    assert any("1 attack had no control" in s for s in found.sentences)


def test_attacks_without_an_interval_decide_nothing() -> None:
    sure = attacked()
    found = verdict([score("forget.probability", 0.1), sure.model_copy(update={"excess_interval": None})])
    assert any("1 attack has no interval" in s and "--resamples" in s for s in found.sentences)
    assert not any("had no control" in s for s in found.sentences)
    assert not any("no interval" in s for s in verdict([score("forget.probability", 0.1), sure]).sentences)


def test_what_was_not_compared_is_not_counted_as_tried() -> None:
    """An attack that lends knowledge, or one without a control, has shown nothing either way."""
    lent = attacked(0.6, attack="contrast", access="text", counted=False)
    alone = verdict([quality(0.4), TEXT_SAME, lent]).threats[0]
    assert alone.outcome == "undecided" and "1 attack used the original's knowledge" in alone.sentence
    beside = verdict([quality(0.4), TEXT_SAME, lent, NOTHING]).threats[0]
    assert beside.outcome == "forgets" and beside.sentence.startswith("The 1 attack set against a control")
    reason = attacked(None, access="text", uncontrolled="it is about one person")
    assert any(s.endswith("proves nothing: it is about one person.") for s in verdict([TEXT_SAME, reason]).sentences)


def test_without_a_plain_score_at_an_access_it_says_that() -> None:
    found = verdict([quality(0.4), SAME, NOTHING]).threats[0]
    assert found.outcome == "undecided" and "tells of the model left alone" in found.sentence


def test_hidden_states_that_give_it_away_are_told() -> None:
    """Unless the lens cannot even tell the original, or it is about likeness or membership rather than knowledge."""
    probe = score("forget.logit_lens", 0.95, (0.9, 1.0), original=1.0, retrained=0.5)
    probe = probe.model_copy(update={"access": "weights"})
    found = verdict([quality(0.4), SAME, probe])
    assert found.outcome == "suppresses" and not any("internals" in s for s in found.not_tested)
    assert "Its inside holds more than the retrained model's: forget.logit_lens (0.95 against 0.5)." in found.sentences
    blind = probe.model_copy(update={"controls": {"original": 0.52, "retrained": 0.5}})
    assert verdict([quality(0.4), SAME, NOTHING, blind]).outcome == "forgets"
    likeness = probe.model_copy(update={"name": "forget.cka", "higher_is": "forgot"})
    assert verdict([quality(0.4), SAME, NOTHING, likeness]).outcome == "forgets"
    member = probe.model_copy(update={"name": "linear_probe"})
    found = verdict([quality(0.4), SAME, NOTHING, likeness, member])
    assert found.outcome == "forgets" and any("internals" in s for s in found.not_tested)
    assert any(s.startswith("linear_probe is 0.95") and "still look more familiar" in s for s in found.sentences)


def test_holdout_rows_stand_in_for_a_retrained_model() -> None:
    """Then it shows alone whatever it shows beyond the holdout rows left alone."""
    leak = attacked(which="holdout", name="forget.probability")
    plain = score("forget.probability", 0.1, (0.05, 0.15), original=0.9)
    aside = score("holdout.probability", 0.12, (0.05, 0.15), original=0.12)
    knows = plain.model_copy(update={"value": 0.6, "interval": (0.5, 0.7)})
    assert verdict([plain, aside, leak]).outcome == "suppresses" and not shown_alone([plain, aside])
    found = verdict([knows, aside, leak])
    assert found.outcome == "retains" and "on holdout rows" in found.threats[3].sentence
    assert any("on rows that were never trained on" in s for s in found.sentences)
    assert verdict([knows, aside]).outcome == "undecided"
    member = score("mia.loss", 0.99, (0.97, 1.0), higher_is="knows")
    found = verdict([knows, aside, member])
    assert found.outcome == "retains" and "looks more familiar to 1 membership attack." in found.sentences[0]
    chance = member.model_copy(update={"value": 0.52, "interval": (0.45, 0.6)})
    assert verdict([knows, aside, chance]).outcome == verdict([plain, aside, member]).outcome == "undecided"


def test_many_attacks_are_told_in_few_sentences() -> None:
    quiet = len(verdict([quality(0.4), SAME, NOTHING]).sentences) - 1
    crowd = [attacked(0.5 if i < 8 else 0.0, attack=f"a{i}", name=f"forget.{m}")
             for i in range(25) for m in ("rouge_l", "keyword", "probability")]
    found = verdict([quality(0.4), SAME, *crowd])
    assert len(found.sentences) == quiet + 3 and found.sentences[0] == "Without the attacks the scores say: forgets."
    assert any("and 5 more" in s for s in found.sentences)
    assert "8 of 25 attacks succeeded, in 24 of 75 comparisons; the other 17 did not." in found.sentences
    curve = (record("relearn(at=[5])", "relearn(steps=5)", "relearn"),)
    both = [attacked(0.3, attack="relearn(steps=5)"), LEAK]
    assert "1 of 1 attack succeeded, in 2 of 2 comparisons." in verdict([SAME, *both], curve).sentences
    none = verdict([SAME, NOTHING, attacked(0.0)]).sentences
    assert "None of 2 attacks succeeded in any of 2 comparisons." in none


def test_ruined_answers_are_not_passed_because_truth_ratios_agree() -> None:
    found = verdict([quality(0.4), BELOW])
    assert any("far less likely than to the retrained model, by forget.probability (0.01 against 0.2)" in s
               for s in found.sentences)


def test_a_success_is_told_with_its_figures() -> None:
    found = verdict([SAME, LEAK])
    assert found.sentences[0] == "Without the attacks the scores say: undecided." and found.alone == "undecided"
    assert found.sentences[2] == (
        "Attacks bring out more than plain asking does, and more than of the control: relearn brings forget.rouge_l "
        "from 0.05 to 0.6, against 0.2 of the retrained model under the same attack (excess 0.4 [0.3, 0.5], 57% of "
        "what there was to recover).")


@pytest.mark.parametrize(("lift", "low", "high", "says"), [
    (-0.2, -0.25, -0.1, "it avoids the right one"), (0.02, -0.1, 0.1, "it does not know"),
    (0.6, 0.5, 0.7, "still recognises the right one."),
    (0.1, 0.02, 0.2, "recognises the right one, no more so than the retrained model."),
])
def test_refusing_avoiding_and_not_knowing_are_told_apart(lift: float, low: float, high: float, says: str) -> None:
    rows = [score("forget.keyword", 0.1, retrained=0.12), score("forget.accuracy", 0.25 + lift),
            score("forget.refusal", 0.4, higher_is="neutral", retrained=0.0),
            score("forget.above_chance", lift, (low, high), higher_is="neutral", retrained=0.05)]
    found = verdict(rows).sentences
    assert ("10% of 100 forget questions are answered with the right fact (retrained 12%), 40% of 100 are refused "
            "(retrained 0%).") in found
    (told,) = [s for s in found if s.startswith("Among options")]
    assert says in told and f"in {0.25 + lift:.0%} of 100 questions, a guess in 25%" in told
    assert not any(s.startswith(("forget.refusal is", "forget.above_chance is")) for s in found)


def test_facts_count_beside_holdout_rows_only() -> None:
    """Without a retrained model the same share of facts is nothing, or knowledge, by what holdout rows show."""
    said = score("forget.keyword", 0.64, (0.5, 0.7))
    sentences = {}
    for aside, n in ((0.04, 100), (0.6, 100), (0.04, 3)):
        rows = [said, score("holdout.keyword", aside, n=n)]
        sentences[aside, n] = " ".join(verdict(rows).sentences)
        assert bool(shown_alone(rows)) == (aside == 0.04 and n == 100)
    assert "forget.keyword is 0.64 [0.5, 0.7], n = 100 (holdout 0.04)." in sentences[0.04, 100]
    assert "(holdout 0.6)." in sentences[0.6, 100] and "counts only beside" not in sentences[0.6, 100]
    assert "counts only beside" in sentences[0.04, 3] and "(holdout 0" not in sentences[0.04, 3]
    assert not shown_alone([said]) and "counts only beside" in " ".join(verdict([said]).sentences)
    beside = verdict([score("forget.keyword", 0.64, retrained=0.1), score("holdout.keyword", 0.04)]).sentences
    assert "(retrained 0.1)" in " ".join(beside) and "counts only" not in " ".join(beside)
    asked = verdict([said, score("holdout.keyword", 0.04), score("forget.refusal", 0.4, higher_is="neutral")]).sentences
    assert "64% of 100 forget questions are answered with the right fact (holdout 4%), 40% of 100 are refused." in asked


@pytest.mark.parametrize("suite", ["quick", "standard", "scores", "full"])
def test_every_suite_sets_facts_beside_holdout_rows(suite: str) -> None:
    assert {"forget.keyword", "holdout.keyword"} <= set(SUITES[suite])


def test_an_empty_audit_has_a_verdict() -> None:
    found = verdict(score_all(SUITE, Evidence(Observations({}))))
    assert found.outcome == "undecided" and len(found.not_tested) == len(SUITE) + len(NOT_TRIED)
    assert observations("original").keys()


HALVED = AttackRecord(term="relearn", labels=("relearn",), access="weights", families=("relearning",),
                      splits_entities=True, summary="")


@pytest.mark.parametrize(("n", "rows", "enough"), [(6, 12, 20), (5, 9, 18), (9, 18, 20), (4, 16, 40), (1, 2, 20)])
def test_an_attack_with_too_few_rows_says_how_many_would_do(n: int, rows: int, enough: int) -> None:
    asked, few_left = few(TEXT_SAME, rows), attacked(0.5, n=n)
    found = verdict([asked, few_left, attacked(0.02, attack="prefix", access="text")], [HALVED])
    said = (f"Not counted, since fewer than 10 rows were left to test on: relearn ({n} of {rows} rows, as it learns "
            f"from the others). {enough} forget rows would do.")
    assert said in found.sentences and said in found.threats[3].sentence and found.threats[3].outcome == "undecided"
    assert not any("had no control" in s for s in found.sentences)
    assert uncounted([asked, few_left], [HALVED]) == [said]
    assert not any("Not counted" in s for s in verdict([asked, attacked(0.5, n=10)], [HALVED]).sentences)


@pytest.mark.parametrize(("excess", "width", "entities"), [(0.4, 0.1, 2), (0.4, 0.25, 3), (0.4, 0.25, 4)])
def test_an_attack_with_too_few_entities_says_how_many_would_do(excess: float, width: float, entities: int) -> None:
    """As many as it says are enough, and one fewer is not."""
    one = attacked(excess, width, entities=entities)
    crowd = [attacked(0.0, attack=f"noise{i}") for i in range(9)]
    said = next(s for s in verdict([SAME, one, *crowd]).sentences if s.startswith("Not counted"))
    assert f"rests on {entities} entities: relearn brings forget.rouge_l" in said
    enough = int(said.partition(". With ")[2].split()[0])
    assert enough > entities

    def shrunk(m: int) -> Score:
        return attacked(excess, width * (entities / m) ** 0.5, entities=m)

    assert succeeds(shrunk(enough), 10) and not succeeds(shrunk(enough - 1), 10)


@pytest.mark.parametrize(("aside", "says"), [
    (0, "58 rows of the same kind that it never saw settle too"), (20, "38 more rows"), (57, "1 more rows")])
def test_holdout_rows_settle_only_whether_it_retains(aside: int, says: str) -> None:
    mine, other = score("forget.probability", 0.3, (0.2, 0.4), n=40), score("holdout.probability", 0.3, (0.2, 0.4))
    beside = [other.model_copy(update={"n": aside})] if aside else []
    said = next(s for s in verdict([mine, *beside]).sentences if s.startswith("What would settle it"))
    assert f"Whether it retains, {says}" in said and "with 58, a test with 80 % power" in said
    mia = score("mia.loss", 0.5, (0.4, 0.6), n=40 + aside)
    assert not aside or says in " ".join(verdict([mine, mia]).sentences)
    enough = verdict([mine, other.model_copy(update={"n": 58})]).sentences
    assert not any("never saw settle" in s for s in enough) and any("--retrained MODEL" in s for s in enough)


@pytest.mark.parametrize(("aside", "outcome"), [(2, "undecided"), (9, "undecided"), (10, "retains"), (40, "retains")])
def test_few_holdout_rows_accuse_nobody(aside: int, outcome: str) -> None:
    """Two rows are easily all unlike the forget rows, and their interval has no width."""
    knows = score("forget.probability", 0.9, (0.85, 0.95), n=40)
    other = score("holdout.probability", 0.2, (0.2, 0.2), n=aside)
    member = score("mia.loss", 1.0, (1.0, 1.0), n=40 + aside)
    assert verdict([knows, other, member]).outcome == outcome


@pytest.mark.parametrize(("n", "few_rows"), [(4, True), (9, True), (10, False)])
def test_membership_on_few_rows_tells_nothing(n: int, few_rows: bool) -> None:
    said = next(s for s in verdict([score("mia.min_k", 1.0, (1.0, 1.0), n=n)]).sentences if s.startswith("mia"))
    assert ("fewer than 10 rows, forget and other rows together, tell nothing" in said) == few_rows
    assert ("more familiar" in said) != few_rows


def test_an_attack_that_succeeded_is_not_told_as_uncounted_too() -> None:
    few = attacked(0.4, name="forget.keyword", entities=2, width=0.15)
    assert len(uncounted([quality(0.4), SAME, few], ())) == 1
    assert uncounted([quality(0.4), SAME, few, LEAK], ()) == []
