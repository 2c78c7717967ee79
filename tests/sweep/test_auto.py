"""`--method auto`: bounds, budgets, halving, the choice; and a whole search that is interrupted and goes on (slow)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import expunge
from expunge.auto import search as searching
from expunge.auto.portfolio import PORTFOLIO, OpenRecipe, check_portfolio, middle, space_of
from expunge.auto.readings import ROUNDS, readings
from expunge.auto.rehearsal import rehearsal_task
from expunge.auto.search import FINALISTS, Past, _Search, choose
from expunge.auto.verb import forget_auto
from expunge.console import Reporter
from expunge.errors import InterruptedRun, UsageError
from expunge.metrics.risk_bound import p_value, upper_bound
from expunge.records.choice import AutoSettings, AutoTrial, Choice, Rehearsed, seconds_of
from expunge.records.examples import ExampleScore, write_examples
from expunge.records.run import RunRecord
from expunge.records.score import Audit, Score
from expunge.records.settings import RunSettings
from expunge.records.task import Task
from expunge.testing import attack_bed, support

QUIET = Reporter(quiet=True)


def test_bound_lies_above_the_mean_and_falls_with_more_entities() -> None:
    for mean in (0.0, 0.1, 0.5):
        bounds = [upper_bound([mean] * n) for n in (5, 20, 100, 10_000)]
        assert all(bound >= mean for bound in bounds) and bounds == sorted(bounds, reverse=True)
        assert bounds[-1] == pytest.approx(mean, abs=0.02)
    assert upper_bound([]) == 1.0
    assert upper_bound([1.0] * 5) == pytest.approx(1.0)
    for n, bound in ((59, 0.05), (29, 0.1), (14, 0.2)):
        assert upper_bound([0.0] * n) == pytest.approx(bound, abs=0.01), "no failure among n"
    with pytest.raises(UsageError, match="outside 0 to 1"):
        upper_bound([1.2])


def test_bound_is_exceeded_no_more_often_than_it_says() -> None:
    """2,000 draws of entities with risk 0.2: the true risk lies above the bound in 5 % of them at most."""
    drawn = np.random.default_rng(0).random((2000, 12)) < 0.2
    missed = np.mean([upper_bound(row.astype(float).tolist()) < 0.2 for row in drawn])
    assert missed <= 0.05
    assert p_value(0.3, 0.2, 10) == 1.0 and p_value(0.0, 1.0, 10) == 0.0


def test_budgets() -> None:
    assert [seconds_of(text, 200.0) for text in ("90s", "20m", "1.5h", "0.3x-retrain")] == [90, 1200, 5400, 60]
    with pytest.raises(UsageError, match="not known"):
        seconds_of("0.3x-retrain", None)
    for wrong in ("20", "m", "-5m", "0s", "five minutes", "0.3x"):
        with pytest.raises(UsageError, match="no amount of time"):
            AutoSettings(budget=wrong)


def test_every_recipe_of_the_portfolio_is_one() -> None:
    check_portfolio(PORTFOLIO, 4)
    with pytest.raises(UsageError):
        check_portfolio((OpenRecipe("wrong", "npoo + adamw(lr={lr})"),), 4)
    assert middle(space_of(PORTFOLIO[0], 3.2e-2))["lr"] == pytest.approx((5e-4 * 1.6e-2) ** 0.5, rel=0.01)
    taught = next(entry for entry in PORTFOLIO if entry.name == "retaught")
    assert middle(space_of(taught, 4e-3))["teach"] == pytest.approx(4e-3)
    assert "epochs=13) + adamw(lr=0.004)" in taught.filled(middle(space_of(taught, 4e-3, passes=30)))


def test_passes_of_teaching_are_shares_of_those_of_the_training() -> None:
    taught = next(entry for entry in PORTFOLIO if entry.name == "retaught")
    assert space_of(taught, passes=30)["epochs"] == ("choice", 3, 6, 9, 13)
    assert space_of(taught, passes=30, most=0.25)["epochs"] == ("choice", 3, 6, 7), "and as many as the limit lets"
    assert space_of(taught, passes=30, most=0.05)["epochs"] == ("choice", 1), "one pass at least"
    assert space_of(taught)["epochs"] == ("choice", 1, 2, 3, 4)
    damped = next(entry for entry in PORTFOLIO if entry.name == "ssd retaught")
    assert space_of(damped, passes=30, most=0.19)["epochs"] == ("choice", 2, 3, 4), "the importances take a pass too"
    for most in (0.42, 0.21, 0.1):
        assert all(1 <= n <= max(30 * most - 1.25, 1) for n in space_of(damped, passes=30, most=most)["epochs"][1:])


def plain(name: str, value: float, **controls: float | None) -> Score:
    return Score(name=name, value=value, controls=controls, higher_is="knows", n=20)


def made_up(place: Path, forget: float, worst: float, holdout: float = 0.2, kept: float = 0.9) -> Audit:
    """Two entities of which one is known under relearning."""
    def rows(score: str, model: str, attack: str, **values: float) -> list[ExampleScore]:
        split = score.split(".")[0]
        return [{"score": score, "model": model, "attack": attack, "split": split, "id": key, "entity": key[0],
                 "value": value} for key, value in values.items()]

    name = "forget.probability"
    write_examples(place, [
        *rows(name, "subject", "", a1=forget, a2=forget, b1=forget),
        *rows(name, "original", "", a1=1.0, a2=1.0, b1=1.0),
        *rows(name, "subject", "relearn", a1=holdout, a2=holdout, b1=worst),
        *rows("retain.probability", "original", "", x1=1.0, x2=1.0),
        *rows("retain.probability", "subject", "", x1=kept, x2=1.0)])
    under = (2 * holdout + worst) / 3
    return Audit.model_construct(scores=(
        plain(name, forget, original=1.0), plain("holdout.probability", holdout),
        plain("retain.probability", (kept + 1) / 2, original=1.0),
        Score(name=name, attack="relearn", value=under, excess=under - holdout, n=20, higher_is="knows",
              controls={"original": 1.0, "holdout": holdout})))


def test_readings_are_shares_of_the_way_back(tmp_path: Path) -> None:
    found = readings(made_up(tmp_path, forget=0.2, worst=0.8), tmp_path)
    assert found.residues[""] == pytest.approx(0.0, abs=1e-9)
    assert found.residues["relearn"] == pytest.approx(0.25)
    assert sorted(found.risks) == pytest.approx([0.0, 0.75]), "one entity comes back although the mean is low"
    assert found.kept == pytest.approx(0.95) and sorted(found.losses) == pytest.approx([0.0, 0.1])
    assert found.score(0.95) == pytest.approx(0.25)
    assert found.score(1.0) == pytest.approx(0.25 + 4 * 0.05)


def test_answers_below_those_of_rows_never_seen_are_a_trace_too(tmp_path: Path) -> None:
    assert readings(made_up(tmp_path, forget=0.04, worst=0.2), tmp_path).residues[""] == pytest.approx(0.2)


def test_a_model_that_knows_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to forget"):
        readings(made_up(tmp_path, forget=0.97, worst=0.97, holdout=0.96), tmp_path)


def test_a_rehearsal_takes_entities_that_were_never_seen() -> None:
    task = attack_bed.task()
    made = rehearsal_task(task)
    assert isinstance(made, Task)
    assert {r.id for r in made.forget} == {r.id for r in task.holdout} and not made.holdout
    assert set(made.retain) <= set(task.retain) and made.background == task.forget
    few = task.model_copy(update={"holdout": tuple(r for r in task.holdout if r.entity == task.holdout[0].entity)})
    assert "needs 4" in str(rehearsal_task(few))


def test_too_few_entities_for_the_limit_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    task = attack_bed.task()
    searching.warn_of_few(task, AutoSettings(risk=0.3), Reporter())
    assert "With 4 entities to forget no upper bound lies below 0.60" in " ".join(capsys.readouterr().err.split())
    searching.warn_of_few(task, AutoSettings(risk=0.7), Reporter())
    assert not capsys.readouterr().err


def trial(number: int, *reports: float, **more: Any) -> AutoTrial:
    return AutoTrial(number=number, name="npo", params={"lr": 1e-3}, recipe="npo", epochs=1, reports=reports, **more)


def search_of(out: Path, auto: AutoSettings | None = None) -> _Search:
    return _Search("model", attack_bed.task(), out, RunSettings(), auto or AutoSettings(), PORTFOLIO, Past(1e-3),
                   QUIET)


def choice(trials: tuple[AutoTrial, ...], **more: Any) -> Choice:
    return Choice(settings=AutoSettings(), run_settings={}, portfolio={}, model_fingerprint="", task="t",
                  task_fingerprint="", seed=0, environment={}, budget_s=60.0, trials=trials, **more)


def test_a_trial_stops_once_it_can_be_no_finalist(tmp_path: Path) -> None:
    before = tuple(trial(i, 0.0, 0.1 * i) for i in range(FINALISTS + 2))
    search = search_of(tmp_path)
    assert not search._out_of_reach(choice(before), trial(5, 0.19)), "below the third best final score"
    assert search._out_of_reach(choice(before), trial(5, 0.2))
    assert search._out_of_reach(choice(before), trial(5, 0.0, 9.0))
    assert not search._out_of_reach(choice(before[:FINALISTS - 1]), trial(5, 9.0)), "too few are complete"


def test_the_cheapest_within_both_limits_is_chosen_else_the_best(tmp_path: Path) -> None:
    search = search_of(tmp_path)
    good, cheap = (trial(i, s, risk_bound=0.2, loss_bound=0.02, train_s=t, residues={"": s})
                   for i, s, t in ((0, 0.05, 90.0), (1, 0.15, 10.0)))
    risky = trial(2, 0.01, risk_bound=0.5, loss_bound=0.02, train_s=1.0, residues={"": 0.01})
    stopped = trial(3, 0.0, stopped=True)
    made = search.finish(choice((good, cheap, risky, stopped)))
    assert (made.chosen, made.within_limits) == (1, True) and "cheapest of 2" in made.reason
    rehearsed = (Rehearsed(number=1, outcome="suppresses"), Rehearsed(number=0, outcome="forgets"))
    assert search.finish(choice((good, cheap, risky), rehearsed=rehearsed)).chosen == 0
    alone = search.finish(choice((risky, stopped)))
    assert (alone.chosen, alone.within_limits) == (2, False) and "no setting is within both limits" in alone.reason
    with pytest.raises(UsageError, match="No trial was completed"):
        search.finish(choice((stopped,)))


def test_a_trial_that_costs_more_than_the_limit_fails_with_its_cost(tmp_path: Path) -> None:
    search = search_of(tmp_path, AutoSettings(cost=0.2))
    assert search.too_dear(trial(0, cost=0.21)) and not search.too_dear(trial(0, cost=0.2))
    assert not search.too_dear(trial(0)), "not known"
    assert not search_of(tmp_path).too_dear(trial(0, cost=3.0)), "no limit"


def test_what_is_asked_next_follows_from_what_was_tried(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    search = search_of(tmp_path)
    tried: tuple[AutoTrial, ...] = ()
    for number, entry in enumerate(PORTFOLIO):
        name, params = search._next(choice(tried))
        assert name == entry.name, "each recipe once"
        tried += (AutoTrial(number=number, name=name, params=params, recipe="", epochs=1, reports=(0.1 * number,),
                            stopped=number == 1, failed="broke" if number == 2 else ""),)
    first, again = search._next(choice(tried)), search._next(choice(tried))
    assert first == again and first[0] in {entry.name for entry in PORTFOLIO}
    rate = "lr" if "lr" in first[1] else "teach"
    low, high = search.spaces[first[0]][rate][1:]
    assert low * 0.99 <= first[1][rate] <= high * 1.01


def test_bad_requests_are_refused(tmp_path: Path, cli: Any) -> None:
    task = attack_bed.task()
    for lacking in ("holdout", "retain"):
        with pytest.raises(UsageError, match=f"needs {lacking} rows"):
            searching.check_request(task.model_copy(update={lacking: (), "background": ()}), RunSettings())
    with pytest.raises(UsageError, match="no learning rate"):
        searching.check_request(task, RunSettings(lr=1e-3))


TINY = (OpenRecipe("npo", "npo + retain_nll(weight={weight}) + adamw(lr={lr})",
              {"lr": ("log", 3e-4, 3e-3), "weight": ("choice", 1, 3)}),
        OpenRecipe("ce_u", "ce_u + retain_nll + adamw(lr={lr})", {"lr": ("log", 3e-4, 3e-3)}))


@pytest.mark.slow
def test_a_search_is_interrupted_goes_on_and_its_recipe_gives_the_same_weights(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = attack_bed.task()
    config = tmp_path / "config.json"
    config.write_text(json.dumps(support.CONFIG))
    original = tmp_path / "original"
    expunge.train(str(config), task=task, out=original, epochs=25, lr=5e-3, batch_size=16)
    settings = RunSettings(epochs=6)
    past = searching.history(original, task)
    assert past.rate == 5e-3 and past.passes == 25 and past.seconds is not None and past.seconds > 0
    out, calls = tmp_path / "run", 0
    forget = searching.api.forget

    def killed(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise InterruptedRun("killed", "", "")
        return forget(*args, **options)

    monkeypatch.setattr(searching.api, "forget", killed)
    monkeypatch.setattr("expunge.auto.verb.choose", lambda *a, **k: choose(*a, portfolio=TINY, most=4, **k))
    options: dict[str, Any] = {"settings": settings, "auto": AutoSettings(budget="10m"), "reporter": QUIET}
    with pytest.raises(InterruptedRun):
        forget_auto(original, task, out, resume=False, overwrite=False, **options)
    half = Choice.read(out / "auto")
    assert len(half.trials) == 2 and half.chosen is None
    with pytest.raises(UsageError, match="already exists"):
        forget_auto(original, task, out, resume=False, overwrite=False, **options)
    record = forget_auto(original, task, out, resume=True, overwrite=False, **options)
    made = Choice.read(out / "auto")
    assert made.trials[:2] == half.trials and len(made.trials) == 4 and made.ended == "trials"
    pick = made.pick
    assert pick is not None and record.recipe == pick.recipe and record.status == "finished"
    assert expunge.load_subject(out).fingerprint == pick.fingerprint, "the recipe gives the same weights again"
    assert made.rehearsed and made.rehearsal["taught"] > made.rehearsal["before"]
    assert set(pick.residues) >= {"", "quantise", "relearn(steps=16)"} and pick.cost is not None
    assert made.spent_s >= half.spent_s
    assert not (out / "auto" / "rehearsal").exists() and not (out / "auto" / "trial").exists()
    assert isinstance(record, RunRecord) and "left" in str(made)
    assert "relearn(steps=16)" in ROUNDS["weights"][-1]
