"""Leak share: figures on models of known truth, who is worst, intervals, and controls of every number."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from expunge.metrics.attacked import AttackEvidence
from expunge.metrics.base import Evidence
from expunge.metrics.leak_attacked import share_under
from expunge.metrics.leak_share import LeakShare
from expunge.metrics.margins import FEWEST, RARE, ControlMargin
from expunge.metrics.over_forget_share import OverForgetShare
from expunge.metrics.shares import share_interval, worst_entity
from expunge.records.observation import Observations

from .known_models import Models


@pytest.mark.parametrize("controls", [1, 2, 3])
def test_figures_on_models_of_known_truth(controls: int) -> None:
    for seed in range(2):
        models = Models(seed=seed)
        honest = models.share(controls=controls).value
        assert honest is not None and honest <= 3 * RARE
        for tenths in (1, 2, 3):
            found = models.share(models.names[:2 * tenths], controls).value
            assert found == pytest.approx(tenths / 10, abs=0.03), (seed, tenths)
        one = models.share(["p7"], controls)
        assert one.value == pytest.approx(0.05, abs=0.03)
        assert one.worst is not None and (one.worst.entity, one.worst.rows) == ("p7", 20) and one.worst.share > 0.9
        assert one.worst.chance < 1e-9 and one.worst.exact


def test_honest_models_are_not_accused() -> None:
    scores = [Models(entities=10, rows=10, seed=seed).share(controls=1 + seed % 3) for seed in range(24)]
    assert np.mean([s.value for s in scores]) <= RARE
    assert max(s.worst.share for s in scores if s.worst) <= 0.3
    assert not [s for s in scores if s.worst and s.worst.chance < 0.01]


def test_wording_only_is_plain_under_paraphrase() -> None:
    """Rows right on paraphrases alone."""
    models = Models()
    asked, reworded = models.evidence(models.ids["forget"][::25]), models.evidence(models.ids["forget"][40:])
    under = Evidence(reworded.subject, None, reworded.retrained)
    score = share_under(AttackEvidence("paraphrase", "text", under, asked))
    plain = LeakShare().score(asked)
    assert plain.value == pytest.approx(0.04, abs=0.02) and score.before == plain.value
    assert score.value == pytest.approx(0.90, abs=0.03)
    assert (score.attack, score.access, score.name) == ("paraphrase", "logits", "leak_share")
    assert score.interval is not None and score.interval[0] > 0.6 and score.controls["retrained"] == pytest.approx(0.01)


def test_one_attacked_control_widens_the_margin_by_what_the_attack_moves() -> None:
    models = Models()
    asked = models.evidence(["p0"], controls=1)
    moved = Evidence(models.model(["p0", "p1"]), None, (models.model(),))
    score = share_under(AttackEvidence("relearn", "weights", moved, asked))
    assert score.value == pytest.approx(0.1, abs=0.02) and score.controls == {"retrained": 0.0}
    uneven = Observations({("likelihood", "forget"): [
        {**row, "logp": [row["logp"][0] * (0.01 if i % 2 else 1.0)]} for i, row in enumerate(models.rows("forget"))]})
    assert share_under(AttackEvidence("relearn", "weights", Evidence(models.model(["p0"]), None, (uneven,)), asked)
                       ).value == pytest.approx(0.0, abs=0.03)


def test_before_is_of_the_same_rows() -> None:
    """An attack that learns from half of the entities is tested on the others."""
    models = Models(entities=10, rows=10)
    asked, half = models.evidence(["p0", "p1"]), models.names[:5]
    under = [Observations({("likelihood", "forget"): [
        row for row in one.rows("likelihood", "forget") if row["entity"] in half]})
        for one in (asked.subject, *asked.retrained)]
    score = share_under(AttackEvidence("relearn", "weights", Evidence(under[0], None, tuple(under[1:])), asked))
    assert score.n == 50 and score.value == score.before == pytest.approx(0.4, abs=0.03)


def test_over_forgetting_stands_beside_it() -> None:
    models = Models()
    pushed = models.evidence(shift=-6.0)
    assert LeakShare().score(pushed).value == 0.0 and OverForgetShare().score(pushed).value > 0.98
    assert OverForgetShare().score(models.evidence()).value <= 2 * RARE
    assert OverForgetShare().score(models.evidence(models.names)).value <= RARE


def test_without_two_retrained_models_something_else_must_tell_the_noise() -> None:
    models = Models(entities=5, rows=10)
    subject, one = models.model(["p0"]), models.model()
    forget_only = Observations({("likelihood", "forget"): one.rows("likelihood", "forget")})
    without = LeakShare().score(Evidence(subject, None, (forget_only,)))
    assert "two retrained models, or holdout rows" in str(without.unavailable)
    beside = LeakShare().score(Evidence(subject, None, (one,)))
    assert beside.value == pytest.approx(0.2, abs=0.05) and "the subject and the retrained model" in str(beside.remark)
    alone = LeakShare().score(Evidence(subject))
    assert alone.value is not None and 0.1 <= alone.value <= 0.22 and "no retrained model" in str(alone.remark)
    few = Observations({("likelihood", "forget"): subject.rows("likelihood", "forget"),
                        ("likelihood", "holdout"): subject.rows("likelihood", "holdout")[:FEWEST - 1]})
    assert "fewer than" in str(LeakShare().score(Evidence(few)).unavailable)


def test_more_controls_never_raise_the_share() -> None:
    models = Models()
    evidence = models.evidence(["p0", "p1"], controls=2)
    same = Evidence(evidence.subject, evidence.original, (*evidence.retrained, evidence.subject))
    assert LeakShare().score(same).value == 0.0, "a control that knows it all leaves nothing beyond it"


@pytest.mark.parametrize(("hits", "sizes", "least", "most"), [
    ([0] * 20, [20] * 20, 0.0, 0.169),       # 0 of 20 entities: 1 - 0.025 ** (1 / 20)
    ([20] + [0] * 19, [20] * 20, 0.0012, 0.28),  # one whole entity counts as one case, not as twenty
    ([6] * 20, [20] * 20, 0.25, 0.35),       # the same in every entity: rows tell
    ([1] + [0] * 19, [20] * 20, 0.0, 0.169),
    ([5], [5], 0.0, 1.0),
    ([20] * 5, [20] * 5, 0.478, 1.0),        # all of five entities, as none of them mirrored: 0.025 ** (1 / 5)
    ([0] * 5, [20] * 5, 0.0, 0.522),
    ([20] * 18 + [0] * 2, [20] * 20, 0.655, 0.99),
])
def test_interval_by_entity(hits: list[int], sizes: list[int], least: float, most: float) -> None:
    found: dict[str, bool] = {}
    entities: dict[str, str] = {}
    for i, (hit, size) in enumerate(zip(hits, sizes, strict=True)):
        for j in range(size):
            found[f"{i} {j}"], entities[f"{i} {j}"] = j < hit, str(i)
    low, high = share_interval(found, entities)
    assert least - 0.001 <= low <= sum(hits) / sum(sizes) <= high <= most + 0.001


def test_interval_covers() -> None:
    """Entities leak in full with a chance of 0.3, or rows do: 95 % of the intervals hold it."""
    draw, covered = np.random.default_rng(0), {"entities": 0, "rows": 0}
    for _ in range(300):
        for what in covered:
            leaks = np.repeat(draw.random(20) < 0.3, 10) if what == "entities" else draw.random(200) < 0.3
            low, high = share_interval(dict(enumerate(leaks.tolist())),  # type: ignore[arg-type]
                                       {i: i // 10 for i in range(200)})  # type: ignore[misc, arg-type]
            covered[what] += low <= 0.3 <= high
    assert min(covered.values()) >= 0.94 * 300, covered


def test_the_surest_entity_is_named_not_the_largest_share() -> None:
    """Three of four rows may be chance among 27 entities, fourteen of twenty are not."""
    sizes = {"few": (3, 4), "many": (14, 20)} | {f"e{i}": (0, 4) for i in range(25)}
    found = {f"{who} {j}": j < hits for who, (hits, rows) in sizes.items() for j in range(rows)}
    worst = worst_entity(found, {key: key.split()[0] for key in found}, ControlMargin(0.0, 0.0, 1000, ""))
    assert worst is not None and (worst.entity, worst.share) == ("many", 0.7) and worst.chance < 1e-9
    found |= {f"many {j}": j < 8 for j in range(20)} | {f"few {j}": j < 2 for j in range(4)}
    worst = worst_entity(found, {key: key.split()[0] for key in found}, ControlMargin(0.0, 0.0, 1000, ""))
    assert worst is not None and (worst.entity, worst.share) == ("few", 0.5), "the largest share where none is known"


def test_worst_needs_rows() -> None:
    """A row without an entity is its own, and one row is no entity to accuse."""
    models = Models(entities=200, rows=2)
    assert models.share(["p0"]).worst is None


def _values(found: Mapping[str, bool]) -> float:
    return float(np.mean(list(found.values())))


def test_rows_of_every_model_can_be_looked_up() -> None:
    evidence = Models().evidence(["p3"], controls=2)
    flags, score = LeakShare().flags(evidence), LeakShare().score(evidence)
    assert set(flags) == {"subject", "original", "retrained", "retrained2"}
    assert _values(flags["subject"]) == score.value and _values(flags["original"]) == score.controls["original"]
