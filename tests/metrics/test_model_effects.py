"""Honest models differ as a whole, not only row by row: that alone accuses nobody."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from expunge.judgement.leaks import alarms, decided, doubt, leaks
from expunge.metrics.attacked import AttackComparison, Gap, with_tests
from expunge.records.score import Score

ENTITIES, ROWS, ATTACKS, ROOM = 10, 9, 8, 0.65


def comparison(draw: Any, attack: str, subject: float, apart: tuple[float, ...]) -> AttackComparison:
    """Rows of a subject that lies `subject` above the first retrained model as a whole, and `apart` the others."""
    rows = {f"p{e} {i}": subject + float(draw.normal(0, 0.1)) for e in range(ENTITIES) for i in range(ROWS)}
    gap = Gap(rows, None, {key: key.split()[0] for key in rows})
    value = gap.value
    score = Score(name="forget.rouge_l", attack=attack, value=0.35 + value, before=0.35, control_before=0.35,
                  n=len(rows), higher_is="knows", access="text", excess=value, gain=value, entities=gap.entities,
                  controls={"original": 0.35 + ROOM, "retrained": 0.35}, excess_interval=gap.interval(),
                  gain_interval=gap.interval(), floor=apart[0] if apart else None)
    return AttackComparison(score, gap, gap, apart)


def audit(draw: Any, controls: int, effect: float, shared: float) -> list[Score]:
    """Comparisons of one audit of honest models; each lies up or down by `effect` of the room, `shared` of its variance
    in all attacks alike."""
    whole = draw.normal(0, shared ** 0.5 * effect * ROOM, controls + 1)
    each = draw.normal(0, (1 - shared) ** 0.5 * effect * ROOM, (ATTACKS, controls + 1)) + whole
    return list(decided(with_tests([comparison(draw, f"a{j}", models[0] - models[1], tuple(models[2:] - models[1]))
                                    for j, models in enumerate(each)])))


@pytest.mark.parametrize(("effect", "shared"), [(0.06, 0.5), (0.18, 0.5), (0.1, 1.0)])
@pytest.mark.parametrize("controls", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_models_that_differ_as_a_whole_are_rarely_accused(effect: float, shared: float, controls: int,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.metrics.by_entity.DRAWS", 200)
    draw = np.random.default_rng(round(1000 * effect) + controls)
    audits = [audit(draw, controls, effect, shared) for _ in range(25)]
    accused = sum(bool(leaks(scores)) for scores in audits)
    without = sum(bool(leaks([s.model_copy(update={"spread": None}) for s in scores])) for scores in audits)
    assert accused <= 3 and accused <= without and without >= 2, (accused, without)  # two standard errors above 5 %


def test_the_spread_is_of_all_attacks_and_of_one_degree_for_each_further_model() -> None:
    draw = np.random.default_rng(0)
    gaps = [(0.0,), (0.03,), (-0.04,)]
    found = with_tests([comparison(draw, f"a{j}", 0.1, apart) for j, apart in enumerate(gaps)])
    assert [s.spread for s in found] == pytest.approx([6.3138 * (0.0025 / 3) ** 0.5] * 3, rel=1e-4)
    padded = [comparison(draw, "a", 0.1, (0.03,)), comparison(draw, "b", 0.1, (0.9,))]
    assert with_tests(padded, {"a"})[0].spread == pytest.approx(6.3138 * 0.03, rel=1e-4), "other attacks add nothing"
    assert with_tests(padded)[0].spread == pytest.approx(6.3138 * (0.8109 / 2) ** 0.5, rel=1e-4)
    (one,) = with_tests([comparison(draw, "a", 0.1, (0.03, -0.04))])
    assert one.spread == pytest.approx(2.92 * (0.0025 / 2) ** 0.5, rel=1e-3)
    (alone,) = with_tests([comparison(draw, "a", 0.1, ())])
    assert alone.spread is None and doubt(alone) == "lone control"


@pytest.mark.parametrize(("excess", "said"), [(0.15, "few controls"), (0.3, None)])
def test_what_the_models_differ_by_is_an_alarm(excess: float, said: str | None) -> None:
    draw = np.random.default_rng(1)
    found = with_tests([comparison(draw, f"a{j}", excess, (0.03,)) for j in range(3)])
    assert {doubt(s) for s in found} == {said}
    assert bool(alarms(found)) == (said is not None)
