"""A run that was interrupted and resumed is the run that was not, bit for bit."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.errors import InterruptedRun
from expunge.methods.stage import StageMethod
from expunge.models.scope import Scope
from expunge.records.task import Example
from expunge.testing.support import Trained, fresh, small_task, stage_of, train, weights
from expunge.training.checkpoint import Checkpoints
from expunge.training.monitor import Monitor
from expunge.training.schedule import Schedule
from expunge.training.stopping import StopRule

STEPS = 9
CURVED = " + adamw(lr=2e-3, weight_decay=0.1)"
RECIPES = ["npo + retain_kl", "idk", "rmu", "grad_diff + lora(rank=2)", "dpo + layers(index=[0, 2])",
           "undial + retain_nll + lora(rank=2, dropout=0.3)"]


class Stop(Exception):
    """Something outside the loop failed."""


def run(recipe: str, folder: Path, on_step: Callable[[dict[str, Any]], None] | None = None,
        keep: str = "last") -> Trained:
    """Nine steps over four epochs with a monitor, from the start or from what `folder` holds."""
    subject = fresh()
    return train(recipe + CURVED, subject=subject, steps=STEPS, folder=folder, on_step=on_step, seed=3,
                 loop={"checkpoint_every": 2, "eval_every": 3, "stop": StopRule(keep=keep)},  # type: ignore[arg-type]
                 monitor=Monitor(subject, small_task(), 0))


def lines(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in found]


def same(a: Trained, b: Trained) -> None:
    left, right = weights(a.subject), weights(b.subject)
    assert all(torch.equal(left[n], right[n]) for n in left)
    assert vars(a.progress) | {"seconds": 0} == vars(b.progress) | {"seconds": 0}


def fail(line: dict[str, Any]) -> None:
    """To be called after every step."""
    if line["step"] == 5:
        raise Stop


def goes_on(run: Callable[..., Trained], place: Path) -> None:
    """A run that fails in its fifth step goes on from the fourth to what one without failure leaves."""
    whole = run(place / "whole")
    with pytest.raises(Stop):
        run(place / "cut", fail)
    latest = Checkpoints(place / "cut" / "checkpoint").latest()
    assert latest is not None and latest.name == "step-4"
    torch.manual_seed(99)  # nothing depends on what else was drawn meanwhile
    same(run(place / "cut"), whole)
    assert lines(place / "cut") == lines(place / "whole")


@pytest.mark.parametrize("recipe", RECIPES)
def test_after_an_exception(recipe: str, tmp_path: Path) -> None:
    """The loop goes on from the newest checkpoint, two steps back at most."""
    goes_on(partial(run, recipe), tmp_path)
    assert len(lines(tmp_path / "cut")) == STEPS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_after_a_signal(number: int, tmp_path: Path) -> None:
    """The step under way is finished and saved, whatever the checkpoint interval."""
    recipe = "npo + retain_kl"
    whole = run(recipe, tmp_path / "whole")
    before = signal.getsignal(number)

    def interrupt(line: dict[str, Any]) -> None:
        if line["step"] == 3:
            os.kill(os.getpid(), number)

    with pytest.raises(InterruptedRun, match="after step 3 of 9") as raised:
        run(recipe, tmp_path / "cut", interrupt)
    assert raised.value.exit_code == 4
    assert signal.getsignal(number) == before, "the handler was not put back"
    assert len(lines(tmp_path / "cut")) == 3
    same(run(recipe, tmp_path / "cut"), whole)
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")


def test_interrupted_at_every_step(tmp_path: Path) -> None:
    """Even one step at a time it is the same run, with the best checkpoint kept across all of them."""
    recipe = "npo + retain_nll"
    whole = run(recipe, tmp_path / "whole", keep="best")

    def interrupt(line: dict[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    for _ in range(STEPS):
        with pytest.raises(InterruptedRun):
            run(recipe, tmp_path / "cut", interrupt, keep="best")
    same(run(recipe, tmp_path / "cut", keep="best"), whole)
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")


def test_a_half_written_log_line_is_cut_away(tmp_path: Path) -> None:
    whole = run("ga", tmp_path / "whole")

    def fail(line: dict[str, Any]) -> None:
        if line["step"] == 3:
            raise Stop

    with pytest.raises(Stop):
        run("ga", tmp_path / "cut", fail)
    log = tmp_path / "cut" / "steps.jsonl"
    log.write_text(log.read_text()[:-40])  # a kill in the middle of the last line
    same(run("ga", tmp_path / "cut"), whole)
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")


def test_a_half_written_checkpoint_is_ignored(tmp_path: Path) -> None:
    whole = run("ga", tmp_path / "whole")

    def fail(line: dict[str, Any]) -> None:
        if line["step"] == 5:
            raise Stop

    with pytest.raises(Stop):
        run("ga", tmp_path / "cut", fail)
    (tmp_path / "cut" / "checkpoint" / "step-5.new").mkdir()
    same(run("ga", tmp_path / "cut"), whole)
    assert not list((tmp_path / "cut" / "checkpoint").glob("*.new"))


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    whole = run("ga", tmp_path)
    steps: list[int] = []
    same(run("ga", tmp_path, lambda line: steps.append(line["step"])), whole)
    assert steps == []


def test_movement_counts_from_the_start(tmp_path: Path) -> None:
    """Resumed for a last step that moves nothing, a run still knows how far it has come: no false alarm."""

    def interrupt(line: dict[str, Any]) -> None:
        if line["step"] == STEPS - 1:
            os.kill(os.getpid(), signal.SIGINT)

    def rest_at_the_end(scope: Scope, method: StageMethod) -> None:
        method.learning_rate = lambda step, *_: 1e-3 if step < STEPS - 1 else 0.0  # type: ignore[method-assign]

    def go(on_step: Callable[[dict[str, Any]], None] | None) -> Trained:
        subject = fresh()
        return train("ga", subject=subject, steps=STEPS, folder=tmp_path, prepare=rest_at_the_end, on_step=on_step,
                     monitor=Monitor(subject, small_task(), 0))

    with pytest.raises(InterruptedRun):
        go(interrupt)
    assert not [a for a in go(None).progress.alarms if "weight has moved" in a]


def schedule_of(recipe: str, batch_size: int, accumulate: int = 1) -> Schedule:
    subject, task = fresh(), small_task()
    method = StageMethod(stage_of(recipe), subject, task, task.forget, task.retain, 7)
    return Schedule(method.order, subject.encoder, batch_size, accumulate)


def ids(schedule: Schedule, step: int) -> list[dict[str, tuple[str, str]]]:
    return [{side: (e.id, e.answer) for side, e in draw.items()} for draw in schedule.draws(step)]


@pytest.mark.parametrize("recipe", ["npo + retain_nll", "idk", "dpo"])
def test_schedule_is_a_function_of_the_step(recipe: str) -> None:
    """Asked in any order, by any instance: the same rows and the same refusals."""
    forward, backward = schedule_of(recipe, 4), schedule_of(recipe, 4)
    there = [ids(forward, step) for step in range(12)]
    assert [ids(backward, step) for step in reversed(range(12))] == there[::-1]
    assert there[0] != there[forward.steps_per_epoch], "epochs differ"


def test_an_epoch_is_every_forget_row_once() -> None:
    schedule = schedule_of("npo + retain_nll", 4)
    assert schedule.steps_per_epoch == 5  # 18 rows
    sizes = [len(schedule.draws(step)) for step in range(10)]
    assert sizes == [4, 4, 4, 4, 2] * 2
    for epoch in (0, 1):
        seen = [d["forget"].id for s in range(5) for d in schedule.draws(5 * epoch + s)]
        assert sorted(seen) == sorted(r.id for r in small_task().forget)


def test_accumulation_sees_the_same_rows() -> None:
    """Micro-batches cut a step up; they do not change what is in it."""
    big, small = schedule_of("dpo + retain_nll", 8), schedule_of("dpo + retain_nll", 2, accumulate=4)
    assert big.steps_per_epoch == small.steps_per_epoch == 3
    for step in range(6):
        assert ids(big, step) == ids(small, step)
        parts = list(small.micro_batches(step))
        (whole,) = big.micro_batches(step)
        for side, batch in whole.items():
            assert tuple(r for part in parts for r in part[side].rows) == batch.rows
    assert [len(m["forget"]) for m in small.micro_batches(2)] == [2]


def test_token_rows_are_all_that_will_be_asked() -> None:
    schedule = schedule_of("dpo", 4)
    found = {row.key for row in schedule.token_rows(7, {"forget", "refusal"})}
    asked = {row.key for step in range(7) for batch in schedule.micro_batches(step)
             for side in ("forget", "refusal") for row in batch[side].rows}
    assert found == asked


def test_sides_of_a_stage() -> None:
    """A draw has exactly the sides that some term reads."""
    expected = {"npo": {"forget"}, "npo + retain_kl": {"forget", "retain"}, "idk": {"refusal", "retain"},
                "dpo": {"forget", "refusal"}}
    for recipe, sides in expected.items():
        draw: dict[str, Example] = dict(schedule_of(recipe, 1).draws(0)[0])
        assert set(draw) == sides
