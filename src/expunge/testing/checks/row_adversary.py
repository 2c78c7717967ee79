"""Promises of a perturbation of one block's input, row by row.

Legend: B rows, T padded length, D hidden size.
"""

from __future__ import annotations

from typing import Any

import torch

from expunge.methods._lib.latent import pushed
from expunge.methods.base import Perturb

from ..support import batch_of, fresh, hooks, loss, moved, small_task, trained, weights
from .base import check, term


@check(trains=True)
def brings_answers_back(plugin: type[Perturb]) -> None:
    """On a model that has forgotten the loss falls by a fifth; norms stay within kappa and weights as they were."""
    subject = fresh(trained("npo + retain_nll", steps=15, lr=1e-3, watch=15).subject)
    rows, before = small_task().forget[:4], weights(subject)
    batch = batch_of(subject, rows)
    tried: tuple[dict[str, Any], ...] = ({"kappa": 4.0}, {"kappa": 4.0, "layer": 0, "random": False},
                                         {"kappa": 8.0, "layer": 2})
    for options in tried:
        made: Any = plugin(**options)
        delta_BTD = made.worst(subject, batch, 0)
        assert float(delta_BTD.norm(dim=(1, 2)).max()) <= made.spec.kappa + 1e-4
        assert float((delta_BTD.norm(dim=-1) * (1 - batch.attention_BT)).max()) == 0, "padding is perturbed"
        with pushed(subject, [made.site(subject)], [delta_BTD]):
            pressed = loss(subject, rows)
        assert pressed < 0.8 * loss(subject, rows), (options, pressed, loss(subject, rows))
    assert hooks(subject) == [] and all(torch.equal(p, before[n]) for n, p in weights(subject).items())


@check
def row_by_row(plugin: type[Perturb]) -> None:
    """Each row's perturbation is the same alone and among others, for the same seed; another seed changes it."""
    subject, rows = moved(), sorted(small_task().forget[:3], key=lambda r: len(r.answer))
    made: Any = plugin(steps=3)
    together = batch_of(subject, rows)
    crowd_BTD = made.worst(subject, together, 1)
    for b, row in enumerate(together.rows):
        alone_BTD = made.worst(subject, batch_of(subject, [row]), 1)
        torch.testing.assert_close(alone_BTD[0], crowd_BTD[b, : len(row.ids)], atol=2e-3, rtol=1e-2)
    assert not torch.equal(crowd_BTD, made.worst(subject, together, 2))


@check(trains=True)
def stands_this_attack(plugin: type[Perturb], options: dict[str, Any]) -> None:
    """After as many steps, forget answers under a fresh attack are less likely than without it in training."""
    mine, plain = (trained(r, steps=15, lr=1e-3, watch=15)
                   for r in (f"npo + retain_nll + {term(plugin, options)}", "npo + retain_nll"))
    made, rows, pressed = plugin(**options), small_task().forget, []
    for run in (mine, plain):
        delta_BTD = made.worst(run.subject, batch_of(run.subject, rows), 7)  # type: ignore[attr-defined]
        with pushed(run.subject, [made.site(run.subject)], [delta_BTD]):  # type: ignore[attr-defined]
            pressed.append(loss(run.subject, rows))
    assert pressed[1] < 0.9 * plain.readings[-1][0], "the attack has no effect on the plain model"
    assert pressed[0] > 1.05 * pressed[1], (pressed, mine.readings, plain.readings)
