"""One known entity decides although all averages look retrained; and what an audit says that it would miss is so."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pytest

from expunge.judgement.leak_line import leak_line
from expunge.judgement.outcome import decide
from expunge.judgement.power import least_share, misses_half, worded_power
from expunge.judgement.splices import measured_power
from expunge.judgement.verdict import verdict
from expunge.metrics.base import Evidence
from expunge.metrics.evaluate import score_all
from expunge.records.score import (
    AttackRecord,
    Audit,
    EntityTest,
    PairedDistance,
    Power,
    Score,
    SubjectRef,
    WorstEntity,
)

from .known_models import Models

TERMS = ("forget_quality", "forget.probability", "leak_share")
SEEING = Power(entities=1, missed=0, control="retrained2")
"""So that the number of rows decides nothing."""


def outcome(models: Models, known: Collection[str] = (), controls: int = 2) -> str:
    scores = score_all(TERMS, models.evidence(known, controls), resamples=200)
    return decide(scores, power=SEEING).alone.outcome


@pytest.mark.parametrize("controls", [1, 2, 3])
def test_one_author_of_twenty_is_found(controls: int) -> None:
    models = Models(rows=10, wrong=1, seed=controls)
    judged = verdict(score_all(TERMS, models.evidence(["p7"], controls), resamples=200))
    assert judged.outcome == ("undecided" if controls == 1 else "retains"), "one control does not tell how rows agree"
    assert any("of 10 rows about p7 are said more surely" in s for s in judged.sentences), judged.sentences


def test_retrained_models_are_not_accused() -> None:
    """Of other seeds, with one to three controls."""
    said = [outcome(Models(entities=10, rows=8, wrong=1, seed=seed), controls=1 + seed % 3) for seed in range(15)]
    assert said.count("retains") == 0 and said.count("forgets") >= 13, said  # the KS test fails for one in twenty


def share(**worst: object) -> Score:
    given = {"entity": "Ann", "share": 1.0, "rows": 20, "entities": 20, "chance": 1e-9, "control": 0.1, "exact": True}
    return Score(name="leak_share", value=0.05, interval=(0.01, 0.2), n=400, higher_is="knows", access="logits",
                 controls={"retrained": 0.01}, worst=WorstEntity(**given | worst))  # type: ignore[arg-type]


QUALITY = Score(name="forget_quality", value=0.6, n=400, higher_is="forgot")


@pytest.mark.parametrize(("worst", "said", "because"), [
    ({}, "retains", "One entity is known: 20 of 20 rows about Ann"),
    ({"share": 0.4}, "forgets", ""),
    ({"share": 0.6, "rows": 5, "chance": 0.03}, "undecided", "may be chance"),
    ({"exact": False}, "undecided", "the margin rests on few rows"),
    ({"control": None}, "undecided", "one retrained model does not tell"),
    ({"control": 0.6}, "undecided", "a retrained model says up to 60% of the rows of an entity more surely"),
])
def test_what_is_not_beyond_doubt_is_undecided(worst: dict[str, object], said: str, because: str) -> None:
    scores = [QUALITY, share(**worst)]
    assert decide(scores).alone.outcome == said
    assert because in " ".join(verdict(scores).sentences)


def attacked(access: str) -> Score:
    """An attack that found nothing, and could have."""
    return Score(name="forget.probability" if access == "logits" else "forget.rouge_l", attack="paraphrase", value=0.2,
                 n=400, higher_is="knows", access=access, controls={"original": 0.9, "retrained": 0.2},  # type: ignore
                 before=0.2, excess=0.0, excess_interval=(-0.02, 0.02), gain=0.0, gain_interval=(-0.02, 0.02),
                 entities=20, test=EntityTest(p=0.5, p_joint=0.5, p_gain=0.5, p_least=1e-4, units=20))


APART = PairedDistance(p=0.001, distance=0.4, room=0.9, floor=0.1, units=20)


@pytest.mark.parametrize(("quality", "leak", "whole", "text"), [
    (QUALITY, share(), "retains", "undecided"),  # one entity beyond doubt
    (QUALITY, share(exact=False), "undecided", "undecided"),
    (QUALITY, share(share=0.4).model_copy(update={"value": 0.2, "interval": (0.1, 0.3)}), "undecided", "undecided"),
    (QUALITY.model_copy(update={"paired": APART}), share(share=0.1), "undecided", "undecided"),
    (QUALITY.model_copy(update={"value": 0.001}), share(exact=False), "undecided", "undecided"),
    (QUALITY, share(share=0.1), "forgets", "forgets")])
def test_averages_of_answers_hide_what_probabilities_show(quality: Score, leak: Score, whole: str, text: str) -> None:
    """`leak_share` and truth ratios need probabilities; who only reads answers has averages, which hide an entity."""
    asked = [attacked("text").model_copy(update={"attack": None, "interval": (0.15, 0.25)}), attacked("text"),
             attacked("logits")]
    judged = verdict([quality, leak, *asked])
    by = {t.access: t.outcome for t in judged.threats}
    assert (judged.outcome, by["text"], by["logits"]) == (whole, text, whole)
    told = asked[0].model_copy(update={"value": 0.8, "interval": (0.7, 0.9)})
    if whole == "retains":
        said = verdict([quality, leak, told, *asked[1:]])
        assert {t.access: t.outcome for t in said.threats}["text"] == "retains", "plain asking shows it by itself"
        assert "averages of answers can hide" in judged.threats[0].sentence


def test_many_rows_of_no_entity_in_particular_are_not_forgotten() -> None:
    scattered = share(share=0.4).model_copy(update={"value": 0.15, "interval": (0.08, 0.25)})
    assert decide([QUALITY, scattered]).alone.reason == "leak share"
    assert decide([QUALITY, scattered.model_copy(update={"interval": (0.04, 0.25)})]).alone.outcome == "forgets"


def test_an_attack_that_reveals_one_entity_makes_it_suppressed() -> None:
    under = share().model_copy(update={"attack": "paraphrase"})
    hidden = decide([QUALITY, share(share=0.1), under])
    assert (hidden.alone.outcome, hidden.outcome) == ("forgets", "suppresses")
    for change in ({"counted": False}, {"worst": share(control=None).worst}):
        assert decide([QUALITY, share(share=0.1), under.model_copy(update=change)]).outcome != "suppresses"
    threats = {t.access: t for t in verdict([QUALITY, share(share=0.1), under]).threats}
    assert threats["logits"].outcome == "suppresses" and "rows about Ann are said" in threats["logits"].sentence
    assert threats["text"].outcome != "suppresses"


def test_a_purged_audit_names_nobody() -> None:
    scores = (QUALITY, share())
    audit = Audit(task="t", task_fingerprint="f", subject=SubjectRef(path="m", fingerprint="x"), suite=(),
                  scores=scores, verdict=verdict(scores))
    assert "Ann" in audit.model_dump_json() and "Ann" not in audit.nameless.model_dump_json()
    assert audit.nameless.nameless == audit.nameless


# Power


TASKS = {
    "entities": Models(entities=10, rows=5, wrong=1, seed=1),
    "entities of three rows": Models(entities=20, rows=3, wrong=1, seed=2),
    "rows alone": Models(entities=60, rows=1, wrong=1, seed=3),
    "half known": Models(entities=20, rows=4, wrong=1, seed=4, taught=1.0, noise=0.8),
    "noisy": Models(entities=30, rows=2, wrong=1, seed=5, noise=1.2),
    "no wrong answers": Models(entities=15, rows=5, seed=6),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (i > 1))
                                  for i, name in enumerate(TASKS)])
def test_power_agrees_with_simulation(name: str) -> None:
    """Fresh subjects that know k entities are noticed in four of five cases from `missed` + 1 on, to one entity."""
    models = TASKS[name]
    evidence = models.evidence()
    power = measured_power(evidence)
    assert power is not None and power.missed is not None
    random = np.random.default_rng(0)

    def noticed(count: int) -> float:
        found = []
        for _ in range(25):
            known = random.choice(models.names, count, replace=False).tolist()
            scores = score_all(TERMS, Evidence(models.model(known), evidence.original, evidence.retrained),
                               resamples=100)
            found.append(decide(scores, power=SEEING).alone.outcome != "forgets")
        return float(np.mean(found))

    first = power.missed + 1
    assert noticed(min(first + 1, len(models.names))) >= 0.72, (power, "two standard errors of 25 draws below 0.8")
    if first > 2:
        assert noticed(first - 2) <= 0.88, power


def test_power_needs_what_it_is_made_of() -> None:
    models = Models(entities=5, rows=4, wrong=1)
    evidence = models.evidence()
    assert measured_power(Evidence(evidence.subject, None, evidence.retrained)) is None
    assert measured_power(Evidence(evidence.subject, evidence.original)) is None
    lone = measured_power(models.evidence(controls=1))
    assert lone is not None and lone.control == "retrained" and "at best, with one retrained" in worded_power(lone)


@pytest.mark.parametrize("controls", [1, 2])
def test_rows_without_wrong_answers_are_judged_by_their_leak_share(controls: int) -> None:
    models = Models(entities=12, rows=8, seed=2)
    terms = ("forget.probability", "leak_share", "forget_quality")

    def judged(known: list[str], shift: float = 0.0) -> tuple[str, str]:
        evidence = models.evidence(known, controls, shift)
        power = measured_power(evidence)
        assert power is not None and power.missed is not None and power.missed <= 3
        found = decide(score_all(terms, evidence, resamples=100), power=power).alone
        return found.outcome, found.reason

    assert judged([]) == ("forgets", "no leak")
    assert judged(models.names[:2])[0] in ("undecided", "retains") and judged(models.names)[0] == "retains"
    assert judged([], -4.0) == ("over-forgets", "far below")
    evidence = models.evidence([], controls)
    said = verdict(score_all(terms, evidence, resamples=100), power=measured_power(evidence))
    assert any(s.startswith("No more rows than chance explains") for s in said.sentences)


def test_an_audit_that_misses_half_does_not_say_forgets() -> None:
    misses = Power(entities=20, missed=10, control="retrained2")
    assert misses_half(400, misses) and not misses_half(4, SEEING) and misses_half(4) and least_share(4) > 0.5
    assert decide([QUALITY, share(share=0.1)], power=misses).alone.reason == "few rows"
    judged = verdict([QUALITY, share(share=0.1)], power=misses)
    assert judged.power == misses and "miss up to 10 of 20 known entities" in " ".join(judged.sentences)


# One line


ATTACKS = (AttackRecord(term="paraphrase", labels=("paraphrase",), access="text", splits_entities=False, summary=""),
           AttackRecord(term="relearn", labels=("relearn",), access="weights", splits_entities=True, summary=""))


def test_one_line_says_it_all() -> None:
    utility = Score(name="model_utility", value=0.48, n=400, higher_is="knows", controls={"original": 0.5})
    lost = share().model_copy(update={"name": "over_forget_share", "value": 0.02, "worst": None})
    plain = share(share=0.3).model_copy(update={"value": 0.04})
    under = plain.model_copy(update={"attack": "paraphrase", "value": 0.9, "before": 0.04})
    less = plain.model_copy(update={"attack": "relearn", "value": 0.95, "before": 0.9,
                                    "access": "weights"})  # of other rows
    power = Power(entities=20, missed=1, control="retrained2")
    said = leak_line([QUALITY, plain, lost, utility, under, less], power)
    assert said == ("Leak share 0.04 as asked (worst entity Ann: 6 of 20 rows), 0.90 under paraphrase (logits); "
                    "over-forgotten 0.02; utility 0.96 of the original's; would miss up to 1 of 20 known entities.")
    assert leak_line([QUALITY], power) == ""
    none = leak_line([plain, under.model_copy(update={"value": 0.05})], None)
    alone = share().model_copy(update={"attack": "relearn", "before": 0.04})
    one = leak_line([plain, alone], None)
    assert one.endswith("0.05 under relearn (logits) (worst entity Ann: 20 of 20 rows)."), one
    assert leak_line([share(), alone], None).endswith("no more under attack."), "it is known as asked"
    assert none == ("Leak share 0.04 as asked (worst entity Ann: 6 of 20 rows), not clearly more under attack (0.05 at "
                    "most, paraphrase).")
    same = leak_line([plain, under.model_copy(update={"value": 0.04})], None)
    assert same == "Leak share 0.04 as asked (worst entity Ann: 6 of 20 rows), no more under attack."


def test_a_gate_on_it() -> None:
    scores = (QUALITY, share(share=0.3), share(share=0.5).model_copy(update={"attack": "relearn", "value": 0.4}))
    audit = Audit(task="t", task_fingerprint="f", subject=SubjectRef(path="m", fingerprint="x"), suite=(),
                  scores=scores, attacks=ATTACKS)
    asked = ("leak_share<=0.1", "leak_share.worst<=0.2", "leak_share@relearn<=0.3", "leak_share@relearn.worst<=0.5",
             "forget_quality.worst<=0.1")
    found = audit.check(*asked)
    assert [c.holds for c in found] == [True, False, False, True, False]
    assert found[1].found == "the worst of leak_share is 0.3, which is not <= 0.2"
    assert "no entity has rows enough" in found[4].found
