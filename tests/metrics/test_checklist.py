"""The checklist: each answer follows from what the audit ran, and none is better for saying less."""

from __future__ import annotations

from typing import Any

import pytest

from expunge.judgement.checklist import QUESTIONS, checklist
from expunge.records.coverage import ChecklistItem
from expunge.records.score import AttackRecord, Audit, ControlCheck, Power, Score, SubjectRef, Verdict

ME = SubjectRef(path="m", fingerprint="m")


def score(name: str, attack: str | None = None, value: float | None = 0.5, **more: Any) -> Score:
    beyond: dict[str, Any] = {"excess": 0.1, "excess_interval": (0.0, 0.2)} if attack and value is not None else {}
    return Score(name=name, attack=attack, value=value, higher_is="knows", n=20, **beyond, **more)


def attack(term: str, *families: str, access: str = "text", labels: tuple[str, ...] = ()) -> AttackRecord:
    return AttackRecord.model_validate({"term": term, "labels": labels or (term,), "access": access, "summary": term,
                                        "families": families, "splits_entities": False})


def audit(scores: tuple[Score, ...] = (), **more: Any) -> Audit:
    return Audit(task="t", task_fingerprint="t", subject=ME, suite=(), scores=scores, **more)


def answers(found: Audit) -> dict[str, ChecklistItem]:
    """By the function that answers."""
    return {QUESTIONS[item.question].__name__.strip("_"): item for item in checklist(found)}


def test_an_audit_of_nothing_tested_nothing() -> None:
    items = checklist(audit())
    assert [item.question for item in items] == list(QUESTIONS) and len(items) >= 12
    assert {item.answer for item in items} == {"not tested"} and not any(item.evidence for item in items)
    assert all(item.question.startswith("Whether ") and item.found.endswith(".") for item in items)


def test_what_was_run_is_answered_with_its_scores() -> None:
    found = answers(audit(
        (score("forget.probability", controls={"retrained": 0.1}), score("retain.rouge_l"), score("utility.accuracy"),
         score("neighbour.probability"), score("forget.refusal", controls={"original": 0.25}), score("mia.loss"),
         score("forget.probability", "relearn(steps=5)", controls={"retrained": 0.1}),
         score("forget.probability", "relearn(steps=9)", controls={"retrained": 0.1}),
         score("forget.keyword", "paraphrase", attempts=3, controls={"retrained": 0.1}), score("leak_share")),
        attacks=(attack("relearn(at=[5, 9])", "relearning", access="weights",
                        labels=("relearn(steps=5)", "relearn(steps=9)")), attack("paraphrase", "prompt:paraphrase")),
        retrained=(ME, ME), seed=7, verdict=Verdict(outcome="undecided", sentences=(), power=Power(
            entities=4, missed=1, control="retrained2"))))
    assert {found[name].answer for name in ("control", "kept", "tuned", "missed")} == {"tested"}
    assert found["tuned"].evidence == ("forget.probability@relearn(steps=5)", "forget.probability@relearn(steps=9)")
    assert found["prompts"].answer == "partly" and "Tried: paraphrases. Not tried: jailbreaks" in found["prompts"].found
    assert "not with logits, gradients; up to 3 attempts a row; the control" in found["attackers"].found
    assert "1 of 2 attacks ran in more than one setting, with one seed (7)" in found["repeated"].found
    assert "declined in 0.50 of cases (original: 0.25)" in found["safety"].found and found["safety"].answer == "partly"
    assert found["missed"].found.startswith("Up to 1 of 4 entities")
    assert found["changed"].answer == found["recombined"].answer == found["layers"].answer == "not tested"


def test_refusals_are_told_of_the_rows_that_were_asked() -> None:
    other, mine = (score(f"{split}.refusal", value=value, controls={"original": 0.25})
                   for split, value in (("neighbour", 0.75), ("forget", 0.5)))
    assert "Forget questions are declined in 0.50" in answers(audit((other, mine)))["safety"].found
    assert "Neighbour questions are declined in 0.75" in answers(audit((other,)))["safety"].found


def test_an_attack_without_a_score_is_no_test() -> None:
    found = answers(audit((score("forget.probability", "quantise", value=None, unavailable="it failed"),),
                          attacks=(attack("quantise", "quantisation", access="weights"),)))
    assert found["changed"].answer == found["attackers"].answer == "not tested"


@pytest.mark.parametrize(("retrained", "bad", "answer"), [(0, 0, "not tested"), (1, 0, "partly"), (2, 1, "partly"),
                                                          (1, 1, "not tested"), (3, 1, "tested")])
def test_a_control_that_is_turned_down_does_not_count(retrained: int, bad: int, answer: str) -> None:
    checks = tuple(ControlCheck(role=f"r{i}", path="p", problem="no control" if i < bad else None)
                   for i in range(retrained))
    found = answers(audit(retrained=(ME,) * retrained, controls=checks))["control"]
    assert found.answer == answer and ("turned down" in found.found) == bool(bad)


def test_what_a_classifier_has_no_use_for_is_not_missed() -> None:
    image = ME.model_copy(update={"offered": ("logp", "distribution", "blocks", "weights", "image")})
    found = answers(audit().model_copy(update={"subject": image}))
    assert {name for name, item in found.items() if item.answer == "does not apply"} == {
        "prompts", "inside", "recombined", "safety"}
    assert found["changed"].answer == "not tested"


def test_an_answer_never_gets_worse_by_another_attack() -> None:
    order = ["not tested", "partly", "tested"]
    scores, attacks = (score("forget.probability"),), tuple[AttackRecord, ...]()
    before = answers(audit(scores))
    for term, family in (("paraphrase", "prompt:paraphrase"), ("roleplay", "prompt:jailbreak"),
                         ("prefix", "prompt:context"), ("suffix", "prompt:search"),
                         ("sample(count=8)", "decoding"), ("quantise", "quantisation"),
                         ("step_by_step", "prompt:context"), ("steer", "steering")):
        scores += (score("forget.probability", term, controls={"retrained": 0.1}),)
        attacks += (attack(term, family),)
        after = answers(audit(scores, attacks=attacks))
        assert all(order.index(after[name].answer) >= order.index(item.answer) for name, item in before.items())
        before = after
    assert before["prompts"].answer == "tested"
