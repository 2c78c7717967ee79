"""Promises of a sampler that weighs forget rows."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from expunge.methods._lib.importance import summed_gradient
from expunge.methods.base import Sampler
from expunge.methods.run_context import RunContext
from expunge.records.settings import RunSettings

from ..support import batches_of, distance, draws_of, fresh, gradient, loss, memoriser, moved, small_task, stage_of
from .base import check, term


@check
def weights_fall_in_attribution(plugin: type[Sampler]) -> None:
    """By hand at tau 1; the larger tau, the more equal; equal attributions have equal weights."""
    weights = sys.modules[plugin.__module__].unlearning_weights
    found = weights([3.0, -1.0, 1.0], 1.0)
    powers = np.exp(-(np.array([3.0, -1.0, 1.0]) - 1.0) / np.std([3.0, -1.0, 1.0]))
    assert found == pytest.approx(list(3 * powers / powers.sum())) and found[1] > found[2] > found[0]
    assert sum(found) / 3 == pytest.approx(1)
    assert weights([3.0, -1.0, 1.0], 1e9) == pytest.approx([1.0] * 3, abs=1e-6)
    assert weights([2.0, 2.0], 1.0) == [1.0, 1.0]


def _ascended(ids: dict[str, float], size: float) -> float:
    """The retain loss after one step of ascent on forget rows with these weights."""
    subject, rows = fresh(moved()), [r for r in small_task().forget if r.id in ids]
    parts = [summed_gradient(subject, [subject.encoder.encode(r)]) for r in rows]
    with torch.no_grad():
        for name, parameter in subject.model.named_parameters():
            for row, part in zip(rows, parts, strict=True):
                parameter.add_(part[name], alpha=size * ids[row.id] / len(rows))
    return loss(subject, small_task().retain)


@check
def attribution_ranks_damage(plugin: type[Sampler]) -> None:
    """Spearman correlation above 0.5 with the rise after each row; less rise under the weights than without."""
    made: Any = plugin()
    made.made = made.prepare(moved(), small_task(), RunContext(settings=RunSettings()))
    attribution = made.made["attribution"]
    assert attribution.keys() == {row.id for row in small_task().forget}
    start = loss(moved(), small_task().retain)
    rises = [_ascended({row: 1.0}, 1e-3) - start for row in attribution]
    ranks = [np.argsort(np.argsort(values)) for values in (list(attribution.values()), rises)]
    assert float(np.corrcoef(ranks[0], ranks[1])[0, 1]) > 0.5, (attribution, rises)
    weighed, plain = (_ascended(w, 1e-3) - start for w in (made.factors(), dict.fromkeys(attribution, 1.0)))
    assert weighed < plain, (weighed, plain)


@check
def weighs_forget_terms(plugin: type[Sampler]) -> None:
    """Beside gradients of single rows, weighted and divided by the number of rows; the retain gradient is as it was."""
    recipe = f"simnpo + retain_nll + {term(plugin)}"
    stage = stage_of(recipe)
    factors = stage.sampler.factors()  # type: ignore[attr-defined]
    draws = draws_of(stage, moved(), 4)
    found = gradient(stage, moved(), original=memoriser(), batches=[batches_of(moved(), draws)], separate=True)
    plain = replace(stage, sampler=stage_of("simnpo + retain_nll").sampler)
    each = [gradient(plain, moved(), original=memoriser(), batches=[batches_of(moved(), [d])], separate=True)
            for d in draws]
    weights = [factors[d["forget"].id] / len(draws) for d in draws]
    expected = [sum(w * part for w, part in zip(weights, parts, strict=True))
                for parts in zip(*(list(one.forget) for one in each), strict=True)]
    assert max(weights) > 1.2 * min(weights) and distance(list(found.forget), expected) < 1e-4
    whole = gradient(plain, moved(), original=memoriser(), batches=[batches_of(moved(), draws)], separate=True)
    assert distance(list(found.retain), list(whole.retain)) < 1e-6
