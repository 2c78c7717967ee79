"""When forgetting is enough: which rows count, what is refused, and what each objective makes of the rule."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from expunge import registry
from expunge.errors import PreflightError, UsageError
from expunge.methods.plan import preflight
from expunge.methods.recipe import parse
from expunge.methods.stops.holdout_level import HoldoutLevel, aims
from expunge.records.settings import RunSettings
from expunge.records.task import Example
from expunge.testing.checks.cards import required
from expunge.testing.checks.recipes import OPTIONS
from expunge.testing.support import fresh, made, memoriser, small_task, train


def test_a_row_counts_until_its_entity_is_at_the_level() -> None:
    rows = [Example(id=f"{e}{i}", prompt="?", answer=".", entity=e) for e in "ab" for i in range(2)]

    def weights(per: str, *losses: float) -> list[float]:
        stop = HoldoutLevel(per=per)
        stop._aim_of, stop._whose = {r.id: 2.0 for r in rows}, {r.id: unit for r, unit in zip(rows, {
            "entity": "aabb", "row": "0123", "task": "tttt"}[per], strict=True)}
        return [float(w) for w in stop.weights([r.id for r in rows], torch.tensor(losses))]

    assert weights("entity", 5.0, 0.5, 1.0, 2.5) == [0, 0, 1, 1], "a is above in the mean, b below"
    assert weights("row", 5.0, 0.5, 1.0, 2.5) == [0, 1, 1, 0]
    assert weights("task", 5.0, 0.5, 1.0, 2.5) == [0, 0, 0, 0]


def test_an_entity_that_comes_back_counts_again() -> None:
    stop = HoldoutLevel()
    stop._aim_of, stop._whose = {"a": 2.0}, {"a": "e"}
    assert stop.weights(["a"], torch.tensor([3.0])) == 0
    assert stop.weights(["a"], torch.tensor([0.1])) == 0, "within a step the first reading counts"
    assert stop.figures() == {"still_forgetting": 0.0}
    assert stop.weights(["a"], torch.tensor([1.0])) == 1
    assert stop.figures() == {"still_forgetting": 1.0} and stop.figures() == {}


def test_the_level_is_that_of_rows_of_the_same_form() -> None:
    rows = [Example(id=str(i), prompt="", answer=".", kind=kind, group=group)  # type: ignore[arg-type]
            for i, (kind, group) in enumerate((("qa", "x"), ("qa", "x"), ("qa", "y"), ("text", "")))]
    found = aims(rows, [1.0, 3.0, 5.0, 7.0])
    assert found == {("qa", "x"): 2.0, ("qa", "y"): 5.0, ("text", ""): 7.0, ("", ""): 4.0}


@pytest.mark.parametrize("name", [entry.name for entry in registry.of_kind("objective")])
def test_every_objective_takes_the_rule_or_refuses_it(name: str) -> None:
    """No row counts where the level is passed from the start, and all do where it is never reached."""
    task, subject = small_task(), fresh()
    plugin = registry.load(name)
    recipe = f"{plugin(**OPTIONS.get(name, required(plugin))).text()} + holdout_level"
    (stage,) = parse(recipe, len(subject.blocks))
    try:
        preflight(recipe, (stage,), task, subject.encoder, subject.model.config, RunSettings(steps=1))
    except PreflightError as refused:
        assert "reads none of them" in str(refused)
        return
    for part in stage.builders.values():
        part.made = made(part.text())
    shares = []
    for margin in (-1e3, 1e3):
        train(replace(stage, stop=HoldoutLevel(margin=margin)), subject=fresh(), steps=1, batch_size=2,
              on_step=lambda line: shares.append(line["still_forgetting"]))
    assert shares == [0.0, 1.0]


def test_two_rules_and_a_rule_without_steps_are_refused() -> None:
    with pytest.raises(UsageError, match="one stop"):
        parse("npo + holdout_level + holdout_level(per=row)")
    task, subject = small_task(), memoriser()
    (stage,) = parse("ssd + holdout_level")
    with pytest.raises(PreflightError, match="would do nothing"):
        preflight("ssd + holdout_level", (stage,), task, subject.encoder, subject.model.config, RunSettings())
    (stage,) = parse("npo + holdout_level")
    with pytest.raises(PreflightError, match="holdout"):
        preflight("npo + holdout_level", (stage,), task.model_copy(update={"holdout": ()}), subject.encoder,
                  subject.model.config, RunSettings())
    assert math.isclose(HoldoutLevel(margin=0.5).spec.margin, 0.5)
