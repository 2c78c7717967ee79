"""One function runs every loop; what it returns is what the next call goes on from."""

from __future__ import annotations

import inspect
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.data.text_encoder import TextEncoder
from expunge.errors import InterruptedRun, NonFiniteError
from expunge.methods.plan import make_plan, training_sides
from expunge.methods.recipe import Stage, parse
from expunge.methods.stage import StageMethod
from expunge.models.reference import build_reference
from expunge.models.subject import Subject
from expunge.records.settings import RunSettings, TrainSettings
from expunge.testing.support import LAST, fresh, memoriser, small_task, stage_of, weights
from expunge.training.checkpoint import FitState
from expunge.training.fit import fit
from expunge.training.loop import Loop
from expunge.training.method import Method
from expunge.training.monitor import Monitor
from expunge.training.plain import Plain
from expunge.training.schedule import Schedule

STEPS = 6
RECIPES = ["npo + retain_kl", "npo + gu(history=2) + adamw(lr=2e-3, weight_decay=0.1)", "npo + pdu(rho=1, warmup=0)",
           "npo + retain_nll + hybrid(lr=1e-3, period=2, queries=1) + layers(index=1)"]


class Killed(Exception):
    """Ends a loop between two checkpoints, as a crash does."""


def run(stage: Stage, subject: Subject, state: FitState | None = None, scope: Any = None, *, steps: int = STEPS,
        folder: Path | None = None, kill_at: int | None = None) -> tuple[FitState, Any]:
    """One loop, with a checkpoint in the middle if there is a folder; `kill_at` ends it in that step."""
    task = small_task()
    method = StageMethod(stage, subject, task, task.forget, task.retain, 3)
    scope = scope or stage.scope.apply(subject)
    schedule = Schedule(method.order, subject.encoder, 6)
    rows = schedule.token_rows(STEPS, stage.kept_sides)
    reference = build_reference(memoriser(), stage.reference, rows)
    loop = Loop(steps=steps, seed=3, eval_every=2, checkpoint_every=STEPS // 2, stop=LAST)

    def kill(line: dict[str, Any]) -> None:
        if line["step"] == kill_at:
            raise Killed

    return fit(method, subject, scope, schedule, loop, state, folder=folder, reference=reference,
               monitor=Monitor(subject, task, 0), on_step=kill), scope


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_halves_are_one_run(recipe: str, tmp_path: Path) -> None:
    """Weights, moments, what the combiner remembers, progress and alarms: the same bits."""
    stage, whole, halves = stage_of(recipe), fresh(), fresh()
    end, _ = run(stage, whole)
    with pytest.raises(Killed):
        run(stage, fresh(), folder=tmp_path, kill_at=STEPS // 2 + 1)
    again, _ = run(stage, halves, folder=tmp_path)
    left, right = weights(whole), weights(halves)
    assert all(torch.equal(left[n], right[n]) for n in left)
    assert vars(end.progress) | {"seconds": 0} == vars(again.progress) | {"seconds": 0}
    for i, kinds in end.optimizer["state"].items():
        assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(again.optimizer["state"][i][k]))
                   for k, v in kinds.items())


def test_without_the_moments_the_second_half_is_another(tmp_path: Path) -> None:
    stage, whole, halves = stage_of(RECIPES[0]), fresh(), fresh()
    run(stage, whole)
    with pytest.raises(Killed):
        run(stage, fresh(), folder=tmp_path, kill_at=STEPS // 2 + 1)
    (path,) = tmp_path.glob(f"checkpoint/step-{STEPS // 2}/state.pt")
    torch.save(torch.load(path, weights_only=True) | {"optimizer": {}}, path)
    end, _ = run(stage, halves, folder=tmp_path)
    assert end.progress.step == STEPS
    left, right = weights(whole), weights(halves)
    assert not all(torch.equal(left[n], right[n]) for n in left)


def test_an_optimizer_state_alone_begins_a_new_loop() -> None:
    """As the slices of a shard do: step 0 again, with the moments of the loop before. The given state is kept."""
    stage, subject = stage_of("ga"), fresh()
    first, scope = run(stage, subject)
    given = FitState(optimizer={"state": first.optimizer["state"]})
    second, _ = run(stage, subject, given, scope, steps=1)
    assert second.progress.step == 1 and given.progress.step == 0
    assert float(second.optimizer["state"][0]["step"]) == STEPS + 1
    assert float(given.optimizer["state"][0]["step"]) == STEPS


def test_the_generators_are_left_as_they_were() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    run(stage_of("ga"), fresh(), steps=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_method_says_only_what_differs() -> None:
    """The verbs of the loop have neutral defaults; plain training overrides three of them."""
    verbs = {n for n, _ in inspect.getmembers(Method, inspect.isfunction) if not n.startswith("_")}
    own = {n for n in vars(Plain) if n in verbs}
    assert own == {"terms", "optimizer", "learning_rate"} and issubclass(StageMethod, Method)


# The plan


@pytest.mark.parametrize(("recipe", "settings"), [
    ("npo + retain_kl", RunSettings(epochs=2, batch_size=4)),
    ("npo + retain_kl", RunSettings(epochs=0.5, batch_size=2, accumulate=3)),
    ("dpo + retain_nll + melu", RunSettings(epochs=1, batch_size=8)),
    ("ga >> npo + retain_nll", RunSettings(steps=7)),
    ("ssd >> npo", RunSettings(epochs=1)),
])
def test_the_planned_steps_are_those_of_the_schedule(recipe: str, settings: RunSettings) -> None:
    task, stages = small_task(), parse(recipe, 3)
    plan = make_plan(recipe, stages, task, memoriser().encoder, settings)
    for number, stage in enumerate(stages):
        if not stage.takes_steps:
            assert plan.steps[number] == plan.eval_every[number] == 0
            continue
        method = StageMethod(stage, memoriser(), task, task.forget, task.retain, settings.seed)
        schedule = Schedule(method.order, memoriser().encoder, settings.batch_size, settings.accumulate)
        assert plan.steps[number] == settings.total_steps(schedule.steps_per_epoch)
        assert plan.eval_every[number] == schedule.steps_per_epoch
        assert plan.reference[number] == stage.reference


def test_the_planned_steps_are_run(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    words = (model, *rows.words, "--method", "npo + retain_kl >> npo", "--epochs", 1.5, "--batch-size", 2,
             "--keep", "last", "--out", tmp_path / "run")
    plan = cli("forget", *words, "--dry-run", "--json").json
    cli("forget", *words)
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert [s["timing"]["steps"] for s in record["stages"]] == plan["steps"] == [3, 3]
    log = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    read = [line["step"] for line in log if "eval" in line]
    assert read == [2, 3] and plan["eval_every"] == [2, 2]
    assert plan["reference"] == ["cached states, or a frozen copy where they are larger", "cached log-probs"]
    assert plan["prompt"]["format"] == "the tokenizer's chat template"


def test_a_training_is_planned_too() -> None:
    task = small_task()
    settings = TrainSettings(split="retain", epochs=3, batch_size=4)
    plan = make_plan("retain_nll", (stage_of("retain_nll"),), task, memoriser().encoder, settings)
    rows = len(task.training_rows("retain"))
    assert plan.steps == (3 * -(-rows // 4),) and plan.eval_every == (max(plan.steps[0] // 8, 1),)
    assert training_sides(task, settings) == {"forget": (), "retain": task.training_rows("retain")}


def test_the_prompt_format_in_words() -> None:
    encoder = memoriser().encoder
    assert TextEncoder(encoder.processor, "Q: {prompt}\nA:").prompt_format == "the plain template 'Q: {prompt}\\nA:'"


@pytest.mark.parametrize("kept", [False, True])
def test_a_stop_says_what_is_kept(kept: bool, tmp_path: Path) -> None:
    """Without a folder nothing is: no message may name a folder that is gone, or advise to resume."""
    stage, task = stage_of("npo"), small_task()

    def go(on_step: Any = None, spoil: float = 1.0) -> None:
        subject = fresh()
        method = StageMethod(stage, subject, task, task.forget, task.retain, 3)
        schedule = Schedule(method.order, subject.encoder, 6)
        reference = build_reference(memoriser(), stage.reference, schedule.token_rows(STEPS, stage.kept_sides))
        real = method.terms
        method.terms = lambda *args, **more: [  # type: ignore[method-assign]
            replace(t, term=replace(t.term, sum_B=t.term.sum_B * spoil)) for t in real(*args, **more)]
        fit(method, subject, stage.scope.apply(subject), schedule, Loop(steps=STEPS, stop=LAST),
            folder=tmp_path / str(spoil) if kept else None, reference=reference, on_step=on_step)

    with pytest.raises(NonFiniteError) as broken:
        go(spoil=float("nan"))
    with pytest.raises(InterruptedRun) as stopped:
        go(lambda line: os.kill(os.getpid(), signal.SIGINT))
    assert ("are kept in" in str(broken.value)) is kept and "smaller learning rate" in broken.value.fix
    assert ("--resume" in str(stopped.value)) is kept and "after step 1" in stopped.value.what
