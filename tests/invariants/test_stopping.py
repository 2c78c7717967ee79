"""When a loop stops, what it keeps, and when it speaks up."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from expunge.records.settings import RunSettings, TrainSettings
from expunge.runs import stop_rule
from expunge.testing.support import fresh, loss, small_task, stage_of, train, weights
from expunge.training.monitor import Monitor
from expunge.training.stopping import StopRule, alarms

START = {"forget": 0.9, "forget_loss": 0.1, "utility": 0.8}


def seen(forget: float = 0.5, utility: float = 0.8, forget_loss: float = 0.7) -> dict[str, float]:
    return {"forget": forget, "forget_loss": forget_loss, "utility": utility}


@pytest.mark.parametrize(("rule", "now", "reason"), [
    (StopRule(), seen(0.0, 0.0, 99.0), None),
    (StopRule(forget_ceiling=5.0), seen(forget_loss=5.0), None),
    (StopRule(forget_ceiling=5.0), seen(forget_loss=5.01), "passed the ceiling"),
    (StopRule(stop_at_floor=True), seen(utility=0.721), None),
    (StopRule(stop_at_floor=True), seen(utility=0.71), "fell below 90%"),
    (StopRule(utility_floor=0.5, stop_at_floor=True), seen(utility=0.71), None),
    (StopRule(forget_target=0.2), seen(0.1), None),
    (StopRule(forget_target=0.2, stop_at_target=True), seen(0.21), None),
    (StopRule(forget_target=0.2, stop_at_target=True), seen(0.2), "reached the target"),
    (StopRule(stop_at_target=True), seen(0.0), None),  # no target to reach
])
def test_reasons_to_stop(rule: StopRule, now: dict[str, float], reason: str | None) -> None:
    found = rule.reason_to_stop(now, START)
    assert found is None if reason is None else reason in (found or "")


@pytest.mark.parametrize(("rule", "now", "best", "expected"), [
    (StopRule(), seen(), None, True),
    (StopRule(keep="last"), seen(0.9, 0.0), seen(0.0, 0.8), True),
    (StopRule(), seen(0.4), seen(0.5), True),  # both fit: the lower forget probability
    (StopRule(), seen(0.5), seen(0.4), False),
    (StopRule(), seen(0.4), seen(0.4), False),  # a tie keeps the earlier one
    (StopRule(), seen(0.1, 0.71), seen(0.5, 0.73), False),  # the floor goes first
    (StopRule(), seen(0.5, 0.73), seen(0.1, 0.71), True),
    (StopRule(), seen(0.9, 0.5), seen(0.1, 0.4), True),  # neither fits: the higher utility
    (StopRule(forget_target=0.3), seen(0.1), seen(0.35), False),  # over-forgetting is a miss as well
    (StopRule(forget_target=0.3), seen(0.28), seen(0.35), True),
])
def test_which_checkpoint_is_better(rule: StopRule, now: dict[str, float], best: dict[str, float] | None,
                                    expected: bool) -> None:
    assert rule.better(now, best, START) is expected


def test_rules_in_words() -> None:
    assert StopRule(keep="last").describe() == "the last step is kept"
    assert StopRule(utility_floor=0.8).describe() == (
        "lowest forget probability among checkpoints with at least 80% of the starting utility")
    assert "closest to 0.25" in StopRule(forget_target=0.25).describe()
    assert StopRule().describe(seen(0.1, 0.5), START) == (
        "highest utility: no checkpoint had 90% of the starting utility")
    assert StopRule().describe(seen(0.1, 0.79), START) == StopRule().describe()


@pytest.mark.parametrize(("options", "word"), [
    ({"now": seen(0.9), "moved": 1e-9, "done": 0.2}, None),  # too early to say
    ({"now": seen(0.2), "moved": 1e-9, "done": 0.25}, "no weight has moved"),
    ({"now": seen(0.895), "moved": 1.0, "done": 0.4}, None),
    ({"now": seen(0.895), "moved": 1.0, "done": 0.5}, "hardly moved"),
    ({"now": seen(0.895), "moved": 1.0, "done": 0.5, "forgets": False}, None),
    ({"now": seen(0.2, 0.39), "moved": 1.0, "done": 0.1}, "Utility collapsed"),
    ({"now": seen(0.2, 0.41), "moved": 1.0, "done": 0.1}, None),
])
def test_alarms(options: dict[str, object], word: str | None) -> None:
    found = alarms(**{"start": START, "forgets": True, **options})  # type: ignore[arg-type]
    assert found == [] if word is None else (len(found) == 1 and word in found[0])


def test_an_alarm_is_raised_once() -> None:
    """However often its figures change."""
    subject = fresh()
    found = train("ga", subject=subject, steps=12, lr=3e-3, loop={"eval_every": 2},
                  monitor=Monitor(subject, small_task(), 0)).progress
    assert len([a for a in found.alarms if "Utility collapsed" in a]) == 1


def test_a_run_that_moves_nothing_says_so() -> None:
    subject = fresh()
    found = train("ga + adamw(lr=1e-12, weight_decay=0)", subject=subject, steps=4, loop={"eval_every": 2},
                  monitor=Monitor(subject, small_task(), 0)).progress
    assert any("no weight has moved" in a for a in found.alarms)
    assert any("hardly moved" in a for a in found.alarms)


def test_unbounded_objectives_get_a_ceiling() -> None:
    """Log of the vocabulary, the loss of a uniform guess, even when nobody asks."""
    for recipe in ("ga", "grad_diff", "ga + retain_kl"):
        assert stop_rule(stage_of(recipe), RunSettings(), None, 1000).forget_ceiling == pytest.approx(math.log(1000))
    for recipe in ("npo", "undial", "idk"):
        assert stop_rule(stage_of(recipe), RunSettings(), None, 1000).forget_ceiling is None
    assert stop_rule(stage_of("retain_nll"), TrainSettings(), None, 1).keep == "last"


def test_ascent_is_stopped_by_its_ceiling(tmp_path: Path) -> None:
    subject = fresh()
    run = train("ga", subject=subject, steps=60, lr=1e-3, folder=tmp_path, monitor=Monitor(subject, small_task(), 0),
                loop={"eval_every": 2, "stop": StopRule(forget_ceiling=3.0, keep="last")})
    assert run.progress.stopped and "passed the ceiling 3.00" in run.progress.reason
    assert run.progress.step == len(run.lines) < 60
    readings = [line["eval"]["forget_loss"] for line in run.lines if "eval" in line]
    assert readings[-1] > 3 and all(r <= 3 for r in readings[:-1])
    assert loss(subject, small_task().forget) == pytest.approx(readings[-1], rel=0.1)


def test_the_best_reading_is_what_remains() -> None:
    """Not the last one: its weights come back, and it is the one the rule prefers."""
    subject = fresh()
    kept: dict[int, dict[str, torch.Tensor]] = {}
    run = train("npo", subject=subject, steps=16, lr=1e-3, monitor=Monitor(subject, small_task(), 0),
                loop={"eval_every": 1, "stop": StopRule(keep="best", utility_floor=0.9)},
                on_step=lambda line: kept.update({line["step"]: weights(subject)}))
    best = run.progress.best
    assert best is not None
    fit = [line for line in run.lines if line["eval"]["utility"] >= 0.9 * run.progress.start["utility"]]
    assert 0 < len(fit) < 16
    assert best["step"] == min(fit, key=lambda line: line["eval"]["forget"])["step"] < 16
    assert all(torch.equal(p, kept[int(best["step"])][n]) for n, p in weights(subject).items())


def test_the_log_has_what_a_person_steers_by() -> None:
    """Every term, both losses, gradient norms and the cosine between the two gradients."""
    subject = fresh()
    lines = train("npo + retain_kl", subject=subject, steps=4, lr=1e-3, loop={"eval_every": 2},
                  monitor=Monitor(subject, small_task(), 0)).lines
    for line in lines:
        assert {"step", "epoch", "loss", "terms", "forget_nll", "retain_nll", "grad_norm", "lr", "seconds"} <= set(line)
        assert set(line["terms"]) == {"npo", "retain_kl"}
        assert line["loss"] == pytest.approx(sum(line["terms"].values()), rel=1e-5)
    for line in (lines[1], lines[3]):
        assert {"grad_norm_forget", "grad_norm_retain", "cosine", "eval", "alarms"} <= set(line)
        assert -1 <= line["cosine"] <= 1
