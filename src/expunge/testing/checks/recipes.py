"""What holds for every part of a recipe, shown on the smallest recipe that it can be part of.

Legend: B rows of one side.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from expunge.methods.base import TermPlugin
from expunge.methods.recipe import Stage
from expunge.models.reference import LiveReference, Reference
from expunge.models.scope import Scope
from expunge.plugin import Kind, Plugin
from expunge.records.task import Example
from expunge.training.gradients import Movement
from expunge.training.step import Step

from ..support import (
    batches_of,
    distance,
    draws_of,
    flat,
    fresh,
    gradient,
    hooks,
    memoriser,
    moved,
    new_folder,
    reference_for,
    same_random_state,
    stage_of,
    step_for,
    token_rows,
    train,
    weights,
)
from .base import invariant, term
from .cards import required

TERMS: tuple[Kind, ...] = ("objective", "retain", "preset")
PARTS: tuple[Kind, ...] = (*TERMS, "combine", "perturb", "optimizer", "scope", "sampler")
OPTIONS: dict[str, dict[str, Any]] = {"layers": {"index": 1}, "dmm": {"models": 2, "epochs": 0.05}, "cir": {"every": 1}}
"""Options of plug-ins that cannot be named without one, where the first that comes to hand is no good, or that take
long with their own."""


def recipe_of(plugin: type[Plugin]) -> str:
    """The plug-in in the smallest recipe it can be part of."""
    text = term(plugin, OPTIONS.get(plugin.card.name, required(plugin)))
    if plugin.card.kind in ("objective", "preset"):
        return text
    return f"npo + {text}" if plugin.card.kind == "retain" else f"npo + retain_nll + {text}"


def terms_of(stage: Stage) -> list[TermPlugin]:
    return [part for part in (stage.objective, *stage.retain) if part is not None]


def sums(stage: Stage, draws: Sequence[dict[str, Example]]) -> dict[str, Tensor]:
    """Per-sample sums of every term, for a model that has moved away from its reference."""
    with torch.no_grad():
        step = step_for(stage, moved(), batches_of(moved(), draws), memoriser())
        return {name: t.sum_B for part in terms_of(stage) for name, t in part.terms(step).items()}


@invariant(*TERMS)
def neighbours_in_a_batch_change_nothing(plugin: type[Plugin]) -> None:
    """A row's sum is the same alone, behind longer rows and in another order."""
    stage = stage_of(recipe_of(plugin))
    draws = draws_of(stage, moved(), 5)
    long = draws[0] | {side: e.model_copy(update={"id": f"long {side}", "answer": e.answer * 4})
                       for side, e in draws[0].items()}
    if stage.builders:  # it may know the rows of its task only
        long = max(draws_of(stage, moved(), 12), key=lambda d: max(len(e.answer) for e in d.values()))
    crowd = [long, *reversed(draws)]
    together = sums(stage, crowd)
    for i, draw in enumerate(draws):
        for name, alone_B in sums(stage, [draw]).items():
            there = together[name][len(crowd) - 1 - i]
            assert there.item() == pytest.approx(alone_B.item(), abs=1e-5, rel=1e-5), name


@invariant(*TERMS)
def terms_are_sums_per_row(plugin: type[Plugin]) -> None:
    """One finite value per row of the side a term names."""
    recipe = recipe_of(plugin)
    draws = draws_of(recipe, moved(), 3)
    for value_B in sums(stage_of(recipe), draws).values():
        assert value_B.shape == (3,) and bool(value_B.isfinite().all()), value_B


@invariant(*TERMS)
def accumulation_changes_no_gradient(plugin: type[Plugin]) -> None:
    """One micro-batch of eight rows, or eight of one: the same gradient."""
    recipe = recipe_of(plugin)
    draws = draws_of(recipe, moved(), 8)
    whole = gradient(recipe, moved(), original=memoriser(), batches=[batches_of(moved(), draws)])
    parts = gradient(recipe, moved(), original=memoriser(), batches=[batches_of(moved(), [d]) for d in draws])
    assert distance(whole.total(), parts.total()) < 1e-5
    assert float((flat(whole.total()) - flat(parts.total())).abs().max()) < 1e-6 * max(flat(whole.total()).norm(), 1)
    assert parts.values == pytest.approx(whole.values, rel=1e-5)
    assert parts.nll == pytest.approx(whole.nll, rel=1e-5)


class Watched:
    """A reference that notes what it is asked for."""

    def __init__(self, held: Any, asked: set[str]) -> None:
        self.held, self.asked = held, asked

    def __getattr__(self, name: str) -> Any:
        self.asked.add({"answers": "reference.logits", "at": "reference.hidden"}.get(name, f"reference.{name}"))
        return getattr(self.held, name)


@invariant(*TERMS)
def asks_what_its_card_names(plugin: type[Plugin]) -> None:
    """A term asks its reference for what its card names, and reads the answers it says it reads."""
    stage = stage_of(recipe_of(plugin))
    batches = batches_of(moved(), draws_of(stage, moved(), 2))
    held = reference_for(stage, memoriser(), batches)
    for part in terms_of(stage):
        asked: set[str] = set()

        step = Step(moved(), batches, cast(Reference, Watched(held, asked)))
        with torch.no_grad():
            part.terms(step)
        assert asked == {n for n in part.card.needs if n.startswith("reference.")}
        assert set(step._answers) == set(part.reads)


class _Boom(Exception):
    """What the checks throw."""


@invariant(*PARTS, trains=True)
def exception_leaves_no_trace(plugin: type[Plugin]) -> None:
    """Through a term or from the middle of a forward: hooks gone, evaluation mode, weights as they were."""
    for where in ("forward", "terms"):
        subject, before = fresh(), dict[str, Tensor]()

        def boom(*args: Any, **options: Any) -> Any:
            raise _Boom

        def prepare(scope: Scope, method: Any, subject: Any = subject, before: Any = before, where: str = where,
                    boom: Any = boom) -> None:
            before.update(weights(subject))
            if where == "terms":
                real = method.terms
                method.terms = lambda step, only=None: (real(step), boom())
            else:
                next(iter(subject.blocks.values())).mlp.forward = boom

        with pytest.raises(_Boom):
            train(recipe_of(plugin), subject=subject, steps=2, prepare=prepare)
        assert hooks(subject) == [], where
        assert not subject.model.training, where
        assert all(torch.equal(p, before[n]) for n, p in weights(subject).items()), where


@invariant(*PARTS, trains=True)
def runs_repeat_and_leave_no_trace(plugin: type[Plugin]) -> None:
    """Same seed, same weights; no hooks, no gradients, evaluation mode, and a reference that never moved.

    Whatever the global random state was before; another seed gives other weights.
    """
    ends = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        stage = stage_of(recipe_of(plugin))
        torch.manual_seed(noise)
        run = train(stage, steps=2, seed=seed)
        ends.append(weights(run.subject))
        if len(ends) == 1:
            assert hooks(run.subject) == []
            assert not run.subject.model.training
            assert all(p.grad is None for p in run.subject.model.parameters())
            _same_reference(stage, run.reference)
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0]), "the same seed gave other weights"
    assert any(not torch.equal(ends[0][n], ends[2][n]) for n in ends[0]), "another seed gave the same weights"


def _same_reference(stage: Stage, found: dict[str, str]) -> None:
    """Its kind is the cheapest that gives what is needed; the run has compared its checksum with that at the start."""
    wanted = {n for n in stage.needs if n.startswith("reference.")}
    assert bool(found) == bool(wanted)
    if found:
        kind = "frozen copy" if stage.rolls_out and not stage.scope.adapter \
            else "cached log-probs" if wanted == {"reference.logp"} \
            else "cached likeliest tokens" if wanted <= {"reference.logp", "reference.likeliest"} \
            else "adapter off" if stage.scope.adapter \
            else "frozen copy" if wanted & {"reference.hidden", "reference.attention"} else "cached states"
        assert found["kind"] == kind
    if found.get("kind") == "frozen copy":
        assert found["checksum"] == LiveReference(fresh(), adapter=False).checksum


@invariant(*PARTS)
def choosing_draws_from_no_global_state(plugin: type[Plugin]) -> None:
    """Rows and parameters are chosen, and terms computed, without a global random generator."""
    stage, subject = stage_of(recipe_of(plugin)), fresh()
    changed, original = moved(), memoriser()  # trained on first use, which seeds everything
    with same_random_state():
        draws_of(stage, subject)
        scope = stage.scope.apply(subject, token_rows(subject))
        Movement(scope, seed=0)
        batches = batches_of(subject, draws_of(stage, subject, 2))
        step = step_for(stage, changed, batches, original)
        with torch.no_grad():
            for part in terms_of(stage):
                part.terms(step)


@invariant(*PARTS, trains=True)
def resumed_is_uninterrupted(plugin: type[Plugin]) -> None:
    """A run that fails in its third step goes on from the second to the very weights and log of one that does not."""
    def run(folder: Path, fails: bool = False) -> Any:
        def note(line: dict[str, Any]) -> None:
            if fails and line["step"] == 3:
                raise _Boom
        return train(recipe_of(plugin), steps=4, folder=folder, seed=3, loop={"checkpoint_every": 2}, on_step=note)

    whole, place = run(new_folder()), new_folder()
    with pytest.raises(_Boom):
        run(place, fails=True)
    torch.manual_seed(99)  # nothing depends on what else was drawn meanwhile
    cut = run(place)
    left, right = weights(whole.subject), weights(cut.subject)
    assert [n for n in left if not torch.equal(left[n], right[n])] == []
    logs = [[{k: v for k, v in line.items() if k != "seconds"} for line in found.lines] for found in (whole, cut)]
    assert logs[0] == logs[1]
