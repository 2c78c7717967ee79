"""Excess and gain: arithmetic, who is redrawn, and how often noise looks like a success."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from expunge.attacks.base import Attack, parse_attack
from expunge.audit.attacks import AttackResult, score_attacks
from expunge.judgement.leaks import succeeds
from expunge.metrics.attacked import AttackEvidence, score_attacked
from expunge.metrics.base import Evidence
from expunge.records.observation import Observations, Row
from expunge.records.score import Score
from expunge.records.task import Split
from expunge.testing.observed_worlds import likelihood

METRIC = "forget.probability"


def seen(values: Mapping[str, float], split: Split = "forget") -> Observations:
    """Rows of that probability; the first word of an id is whom it is about."""
    rows: list[Row] = [likelihood(id, [float(np.log(p))]) | {"entity": id.split()[0]} for id, p in values.items()]
    return Observations({("likelihood", split): rows})


def both(forget: Mapping[str, float], holdout: Mapping[str, float]) -> Observations:
    sides = (seen(forget), seen(holdout, "holdout"))
    return Observations({pair: side.rows(*pair) for side in sides for pair in side.keys()})  # noqa: SIM118


def case(found: Mapping[str, float], before: Mapping[str, float], control: Mapping[str, float],
         control_before: Mapping[str, float], resamples: int = 300) -> Score:
    return score_attacked(METRIC, AttackEvidence(
        "relearn", "weights", Evidence(seen(found), None, (seen(control),)),
        Evidence(seen(before), None, (seen(control_before),))), resamples=resamples)


def test_excess_and_gain_by_hand() -> None:
    ids = [f"p{i} r" for i in range(12)]
    score = case(dict.fromkeys(ids, 0.6), dict.fromkeys(ids, 0.1), dict.fromkeys(ids, 0.25), dict.fromkeys(ids, 0.05))
    assert score.excess == pytest.approx(0.35) and score.gain == pytest.approx(0.5 - 0.2) and score.entities == 12
    assert (score.before, score.control_before) == (pytest.approx(0.1), pytest.approx(0.05))
    silenced = case(dict.fromkeys(ids, 0.6), dict.fromkeys(ids, 0.6), dict.fromkeys(ids, 0.1), dict.fromkeys(ids, 0.5))
    assert silenced.excess == pytest.approx(0.5) and silenced.gain == pytest.approx(0.0), "the control only fell"
    assert not succeeds(silenced) and succeeds(score)


def test_people_are_redrawn_where_rows_of_one_agree() -> None:
    """All of the excess comes from two of six people: redrawing rows alone would be too sure of it."""
    ids = [f"p{i} {j}" for i in range(6) for j in range(10)]
    found = {key: 0.9 if key[1] in "01" else 0.1 for key in ids}
    low = dict.fromkeys(ids, 0.1)
    grouped, apart = (case(*({rename(k): v for k, v in values.items()} for values in (found, low, low, low)))
                      for rename in (str, lambda k: k.replace(" ", "-")))
    assert grouped.excess == apart.excess and grouped.entities == 6 and apart.entities == 60
    assert grouped.excess_interval is not None and apart.excess_interval is not None
    assert grouped.excess_interval[0] < 0.05 < 0.15 < apart.excess_interval[0]


def test_the_floor_is_what_a_second_retrained_model_has_over_the_first() -> None:
    ids = [f"p{i}" for i in range(12)]
    first, second = seen(dict.fromkeys(ids, 0.2)), seen(dict.fromkeys(ids, 0.5))
    score = score_attacked(METRIC, AttackEvidence(
        "relearn", "weights", Evidence(seen(dict.fromkeys(ids, 0.45)), None, (first, second)),
        Evidence(seen(dict.fromkeys(ids, 0.1)), None, (first, second))), resamples=50)
    assert score.floor == pytest.approx(0.3) and score.excess == pytest.approx(0.25) and not succeeds(score)


@pytest.mark.parametrize("entities", [2, 5, pytest.param(10, marks=pytest.mark.slow)])
def test_noise_rarely_succeeds_however_few_the_people(entities: int) -> None:
    """Each person differs as much as each row does. One comparison alone: at most one in twenty."""
    draw, wins = np.random.default_rng(entities), 0
    ids = [f"p{i} {j}" for i in range(entities) for j in range(10)]
    for _ in range(100):
        whose = np.repeat(draw.normal(0, 0.1, entities), 10) + draw.normal(0, 0.1, 10 * entities)
        found = dict(zip(ids, np.clip(0.4 + whose, 0.01, 0.99).tolist(), strict=True))
        level = dict.fromkeys(ids, 0.4)
        wins += succeeds(case(found, level, level, level, 1).model_copy(update={"floor": 0.0}))
    assert wins <= 9


def scored(attack: Attack, roles: dict[tuple[str, Split], AttackResult], plain: Evidence,
           names: tuple[str, ...]) -> tuple[Score, ...]:
    return score_attacks([attack, attack], lambda a, role, split: roles.get((role, split), AttackResult({})), plain,
                         names, lambda a: None, resamples=20, seed=0)


def test_a_control_that_failed_says_why_and_a_label_counts_once() -> None:
    attack = parse_attack("quantise")
    ids = {f"p{i}": 0.5 for i in range(12)}
    mine = AttackResult({"quantise": seen(ids)})
    failed = {("subject", "forget"): mine, ("subject", "holdout"): AttackResult({}, "it is about one person")}
    found = scored(attack, failed, Evidence(both(ids, ids)), ("subject",))
    assert len(found) == len(attack.asks), "twice the same attack is one"
    (score,) = (s for s in found if s.name == METRIC)
    assert score.value == pytest.approx(0.5) and score.excess is None
    assert score.uncontrolled == "it is about one person"


def test_models_are_compared_with_themselves_where_one_of_several_failed() -> None:
    attack = parse_attack("quantise")
    ids = [f"p{i}" for i in range(12)]
    under, one, two = (seen(dict.fromkeys(ids, p)) for p in (0.5, 0.3, 0.2))
    roles: dict[tuple[str, Split], AttackResult] = {
        ("subject", "forget"): AttackResult({"quantise": under}),
        ("retrained", "forget"): AttackResult({}, "too large"),
        ("retrained2", "forget"): AttackResult({"quantise": two})}
    plain = Evidence(under, None, (one, two))
    (score,) = (s for s in scored(attack, roles, plain, ("subject", "retrained", "retrained2")) if s.name == METRIC)
    assert score.controls["retrained"] == pytest.approx(0.2) == score.control_before and score.floor is None
