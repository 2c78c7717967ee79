"""Tuning a recipe: what is searched, what is kept, and that going on repeats nothing."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import expunge
from expunge.errors import UsageError
from expunge.records.settings import RunSettings
from expunge.records.sweep import Sweep, Trial
from expunge.records.task import Task
from expunge.report.sweep import render_sweep
from expunge.tuning import filled, measure, merit, space_of

TASK = "authors(forget=2, retain=4, holdout=2, neighbours=1)"


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("twins")
    for split in ("full", "retain"):
        expunge.train("tiny", task=TASK, split=split, out=place / split, steps=3)
    retrained = Path(shutil.copytree(place / "retain" / "model", place / "retrained"))
    weights = load_file(file := retrained / "model.safetensors")  # a control must say the forget rows less
    save_file({name: 3 * value for name, value in weights.items()}, file, {"format": "pt"})
    return place / "full", retrained


def test_options_left_open_are_searched() -> None:
    assert set(space_of("npo + retain_nll")) == {"npo.beta", "retain_nll.weight", "lr"}
    assert set(space_of("npo(beta=0.1) + retain_nll(weight=1)")) == {"lr"}
    assert set(space_of("npo")) == {"npo.beta", "npo.weight", "lr"}, "alone, its weight is all there is"
    assert set(space_of("grad_diff")) == {"retain_nll.weight", "lr"}, "a preset is what it stands for"
    assert set(space_of("rmu")) == {"rmu.coefficient", "rmu.alpha", "lr"}, "what it brings along is its own affair"
    assert "lr" not in space_of("npo + adamw(lr=1e-4)")
    assert set(space_of("grad_diff + retain_kl")) == {"retain_kl.weight", "lr"}, "typed replaces a preset's"
    assert set(space_of("grad_diff + retain_nll(weight=2)")) == {"lr"}
    assert set(space_of("ssd >> npo(beta=0.1)")) == {"0.ssd.alpha", "0.ssd.lambda_", "1.npo.weight", "lr"}
    assert set(space_of("npo + retain_nll + sign_adam")) == {"npo.beta", "retain_nll.weight", "sign_adam.bits", "lr"}
    assert "lr" not in space_of("ssd") and "lr" not in space_of("uld")
    with pytest.raises(UsageError, match="nothing open"):
        space_of("npo(beta=0.1, weight=1) + adamw(lr=1e-4)")


def test_drawn_values_are_written_into_the_recipe() -> None:
    assert filled("npo + retain_nll(weight=2)", {"npo.beta": 0.5, "lr": 1e-3}) == "npo(beta=0.5) + retain_nll(weight=2)"
    assert filled("grad_diff", {"retain_nll.weight": 3.0}) == "ga + retain_nll(weight=3.0)"
    assert filled("ga >> npo", {"1.npo.beta": 0.5}) == "ga >> npo(beta=0.5)"
    both = filled("npo(beta=0.1) >> npo", {"0.npo.weight": 2.0, "1.npo.beta": 0.5})
    assert both == "npo(weight=2.0, beta=0.1) >> npo(beta=0.5)"
    assert filled("grad_diff + retain_kl", {"retain_kl.weight": 3.0}) == "ga + retain_kl(weight=3.0)"
    assert filled("ga_lora + adamw(lr=0.01)", {}).count("adamw") == 1


def test_merit_charges_for_utility_below_95_per_cent() -> None:
    assert merit(-2.0, 0.97) == -2.0
    assert merit(-2.0, 0.90) == pytest.approx(-4.0)


def trial(number: int, quality: float | None, utility: float | None) -> Trial:
    both = quality is not None and utility is not None
    return Trial(number=number, params={"lr": 1e-3}, recipe="npo", quality=quality, utility=utility,
                 merit=merit(quality or 0.0, utility or 0.0) if both else None, failed="" if both else "broke <here>")


def test_the_front_and_the_page(tmp_path: Path) -> None:
    trials = (trial(0, -5, 0.99), trial(1, -1, 0.9), trial(2, -6, 0.95), trial(3, None, None), trial(4, -2, 0.97))
    found = Sweep(recipe="npo", space={"lr": ("log", 1e-5, 1e-3)}, settings={}, task="t", task_fingerprint="f",
                  model_fingerprint="m", seed=0, environment={}, trials=trials)
    assert [t.number for t in found.front()] == [1, 4, 0]
    best = found.best()
    assert best is not None and best.number == 4
    page = render_sweep(found)
    assert "<svg" in page and "broke &lt;here&gt;" in page and "http" not in page.replace("http://www.w3.org", "")
    found.write(tmp_path / "sweep.json")
    assert Sweep.read(tmp_path / "sweep.json") == found


def test_going_on_repeats_nothing_and_draws_the_same(twins: tuple[Path, Path], tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["expunge.tuning"]
    measured: list[int] = []

    def fake(model: Any, task: Task, recipe: str, params: dict[str, Any], *, number: int, **rest: Any) -> Trial:
        measured.append(number)
        if number == 2:
            return Trial(number=number, params=params, recipe=recipe, failed="diverged")
        quality = -abs(params["lr"] - 1e-3) * 1e3
        return Trial(number=number, params=params, recipe=recipe, quality=quality, utility=0.96,
                     merit=merit(quality, 0.96))

    monkeypatch.setattr(module, "measure", fake)
    options: dict[str, Any] = {"task": TASK, "model": twins[0], "retrained": [twins[1]], "seed": 3}
    whole = module.sweep("npo + retain_nll", out=tmp_path / "whole", trials=7, **options)
    measured.clear()
    module.sweep("npo + retain_nll", out=tmp_path / "cut", trials=3, **options)
    went_on = module.sweep("npo + retain_nll", out=tmp_path / "cut", trials=7, resume=True, **options)
    assert measured == list(range(7))
    assert went_on.trials == whole.trials
    for name, (kind, low, high) in whole.space.items():
        assert kind == "log" and all(low * 0.99 < t.params[name] < high * 1.01 for t in whole.trials)
    assert len((tmp_path / "cut" / "trials.jsonl").read_text().splitlines()) == 7
    with pytest.raises(UsageError, match="made with other options or inputs"):
        module.sweep("npo", out=tmp_path / "cut", trials=7, resume=True, **options)
    with pytest.raises(UsageError, match="made with other options") as refused:
        module.sweep("npo + retain_nll", out=tmp_path / "cut", trials=7, resume=True, accumulate=2, **options)
    assert refused.value.why == "settings.accumulate was 1 and is now 2."
    with pytest.raises(UsageError, match="takes no learning rate"):
        module.sweep("npo + retain_nll", out=tmp_path / "new", lr=1e-4, **options)
    with pytest.raises(UsageError, match="already exists"):
        module.sweep("npo", out=tmp_path / "cut", trials=7, **options)


def test_a_trial_is_a_run_and_an_audit(twins: tuple[Path, Path]) -> None:
    task = expunge.load_task(TASK)
    suite = "forget_quality,model_utility"
    found = measure(twins[0], task, "npo(beta=0.5)", {"npo.beta": 0.5, "lr": 1e-3}, number=4, retrained=[twins[1]],
                    suite=suite, settings=RunSettings(epochs=1))
    assert found.number == 4 and not found.failed and found.quality is not None and found.seconds > 0
    assert set(found.scores) == {"forget_quality", "model_utility"}
    broken = measure(twins[0], task, "ga", {"lr": 1e30}, number=0, retrained=[twins[1]], suite=suite,
                     settings=RunSettings(epochs=1))
    assert "not finite" in broken.failed and broken.merit is None


@pytest.mark.slow
def test_from_the_command_line(cli: Any, twins: tuple[Path, Path], tmp_path: Path) -> None:
    words = ("sweep", twins[0], "--retrained", twins[1], "--task", TASK, "--method", "npo", "--trials", 2, "--steps", 2,
             "--out", tmp_path / "out")
    plan = cli(*words, "--dry-run", "--json").json
    assert set(plan["space"]) == {"npo.beta", "npo.weight", "lr"} and not (tmp_path / "out").exists()
    said = cli(*words).out
    assert "Best by merit: npo(" in said and (tmp_path / "out" / "sweep.html").exists()
    assert len(Sweep.read(tmp_path / "out" / "sweep.json").trials) == 2
    cli.refused(*words, says=("already exists", "--resume"))
    cli.refused("sweep", twins[0], "--task", TASK, "--out", tmp_path / "x", says=("--retrained",))
