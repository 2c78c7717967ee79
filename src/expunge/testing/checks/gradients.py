"""Promises of the probe that looks at gradients."""

from __future__ import annotations

import copy

import pytest
import torch

from expunge.probes.base import Probe

from ..support import batch_of, fresh, hooks, moved, small_task, weights
from .base import check


@check
def equals_a_hand_made_loop(plugin: type[Probe]) -> None:
    """Row by row in float64: zero, backward, one norm per parameter, their mean. Also for other norms."""
    task, subject = small_task(), moved(8)
    slow = copy.deepcopy(subject.model).double().eval().requires_grad_(True)
    examples = [*task.forget[:3], *task.holdout[:2]]
    found = {p: plugin(p=p).observe(subject, examples, task) for p in (2.0, 1.0)}
    for i, example in enumerate(examples):
        row = batch_of(subject, [example]).rows[0]
        slow.zero_grad()
        logp_TV = torch.log_softmax(slow(input_ids=torch.tensor([row.ids])).logits[0], -1)
        (-sum(logp_TV[t - 1, row.ids[t]] for t in range(row.prompt, len(row.ids)))  # type: ignore[union-attr]
         / (len(row.ids) - row.prompt)).backward()
        for p, rows in found.items():
            norms = [float(w.grad.abs().pow(p).sum() ** (1 / p)) for w in slow.parameters() if w.grad is not None]
            assert rows[i]["id"] == example.id and rows[i]["form"] == "answer"
            assert rows[i]["norm"] == pytest.approx(sum(norms) / len(norms), rel=1e-3), (p, example.id)
            inside = [[float(w.grad.abs().pow(p).sum() ** (1 / p)) for w in block.parameters() if w.grad is not None]
                      for block in slow.model.layers]
            assert rows[i]["blocks"] == pytest.approx([sum(n) / len(n) for n in inside], rel=1e-3), (p, example.id)


@check
def asks_gradients_without_a_trace(plugin: type[Probe]) -> None:
    """Frozen, half frozen or in training with gradients pending: everything is left as it was found."""
    task, subject = small_task(), fresh()
    plain = plugin().observe(subject, task.forget[:2], task)
    for i, parameter in enumerate(subject.model.parameters()):
        parameter.requires_grad_(i % 2 == 0)
        parameter.grad = torch.full_like(parameter, 0.5) if i % 2 == 0 else None
    subject.model.train()
    flags = [p.requires_grad for p in subject.model.parameters()]
    before = weights(subject)
    assert plugin().observe(subject, task.forget[:2], task) == plain
    assert subject.model.training and flags == [p.requires_grad for p in subject.model.parameters()]
    assert all(torch.equal(p, before[n]) for n, p in weights(subject).items()) and not hooks(subject)
    for parameter in subject.model.parameters():
        assert parameter.grad is None or bool((parameter.grad == 0.5).all())
