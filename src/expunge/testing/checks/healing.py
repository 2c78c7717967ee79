"""Promises of neural healing (ROKA): which rows are healed, and where an update leads."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch

from expunge.methods.base import Objective
from expunge.models.contributions import contributions
from expunge.models.language import CausalLM
from expunge.records.task import Example

from ..support import batch_of, batches_of, draws_of, flat, fresh, gradient, moved, small_task, stage_of, train
from .base import check, term


@check
def reallocates_by_hand(plugin: type[Objective]) -> None:
    """The weight of a removed component goes to its siblings: the total and their ratios stay to 1e-12."""
    reallocated = sys.modules[plugin.__module__].reallocated
    weights_P = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    torch.testing.assert_close(reallocated(weights_P, 0), torch.tensor([0.0, 0.4, 0.6], dtype=torch.float64))
    drawn_P = torch.rand(9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for removed in range(9):
        found_P, left = reallocated(drawn_P, removed), [i for i in range(9) if i != removed]
        assert abs(float(found_P.sum() - drawn_P.sum())) < 1e-12 and not found_P[removed]
        ratios = found_P[left] / drawn_P[left]
        assert float(ratios.max() - ratios.min()) < 1e-12


@check(trains=True)
def heals_while_it_forgets(plugin: type[Objective]) -> None:
    """To first order an update raises the forget loss and lowers the healing loss, for alpha 1 and 3."""
    rises, falls = [], []
    for steps in (1, 2, 3):  # later nothing that could be healed is left
        subject = moved(steps)
        batches = [batches_of(subject, draws_of(term(plugin), subject, 6))]
        ascent, both = (flat(gradient(term(plugin, {"alpha": alpha}), subject, batches=batches).total()).double()
                        for alpha in (0.0, 1.0))
        healing = both - ascent
        for alpha in (1.0, 3.0):
            update = -(ascent + alpha * healing)
            rises.append(float(-ascent @ update / ascent.norm()))
            falls.append(float(healing @ update / healing.norm()))
    assert max(falls) < 0, falls
    assert min(rises) > 0, rises


@check
def chooses_siblings(plugin: type[Objective]) -> None:
    """Healed rows are the nearest retain rows of the step by contribution, nearest first; not one has the answer that
    is forgotten, and nothing else of the draw changes."""
    subject, task = moved(), small_task()
    objective = plugin(siblings=2, pool=4)
    stage = stage_of(term(plugin, {"siblings": 2, "pool": 4}) + " + retain_nll")
    assert stage.objective is not None and stage.objective.spec == objective.spec
    before: list[Any] = []
    rollout = type(objective).rollout

    def note(self: Objective, *given: Any) -> Any:
        before.append(given[1])
        return rollout(self, *given)

    type(objective).rollout = note  # type: ignore[method-assign,assignment]
    try:
        after = draws_of(stage, subject, 6)
    finally:
        type(objective).rollout = rollout  # type: ignore[method-assign]
    (draws,) = before
    pool = {row.id: row for draw in draws for side, row in draw.items() if side.startswith("candidate")}
    kept = {row.id for row in task.retain}
    encode = subject.encoder.encode
    with subject.evaluating():
        for drawn, made in zip(draws, after, strict=True):
            assert set(made) == {"forget", "sibling_1", "sibling_2", "retain"} and made["retain"] == drawn["retain"]
            assert made["forget"] in [draw["forget"] for draw in draws]
            found = contributions(subject, [encode(made["forget"]), *map(encode, pool.values())])
            alike = dict(zip(pool, (found[1:] @ found[0]).tolist(), strict=True))
            right = sorted((name for name in pool if pool[name].answer != made["forget"].answer),
                           key=lambda name: -alike[name])
            assert [made["sibling_1"].id, made["sibling_2"].id] == right[:2] and set(right) <= kept


@check(trains=True)
def spares_siblings(plugin: type[Objective], options: dict[str, Any], level: float = 0.8) -> None:
    """Where `level` of the forget tokens are still right, plain ascent has cost retain rows of the same form more than
    10 points, and healing less than 3."""
    lost = {}
    for recipe, steps in (("ga", 16), (term(plugin, options), 32)):
        subject, seen = fresh(), list[tuple[float, float]]()

        def note(line: dict[str, Any], subject: CausalLM = subject, seen: list[tuple[float, float]] = seen) -> None:
            seen.append((right(subject, small_task().forget), right(subject, small_task().retain)))

        train(recipe, subject=subject, steps=steps, lr=3e-4, batch_size=9, on_step=note)
        lost[recipe] = right(fresh(), small_task().retain) - next(kept for gone, kept in seen if gone < level)
    assert lost["ga"] > 0.1 and lost[term(plugin, options)] < 0.03, lost


def right(subject: CausalLM, rows: Sequence[Example]) -> float:
    """Share of an answer's tokens that are likeliest in their place, mean over the rows."""
    batch = batch_of(subject, rows)
    with subject.evaluating():
        answers = subject.answers(batch)
        return float(answers.row_means((answers.logits_NV.argmax(-1) == batch.target_N).double()).mean())
