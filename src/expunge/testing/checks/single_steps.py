"""Promises of an edit that takes one step."""

from __future__ import annotations

import sys

import torch

from expunge.methods._lib.importance import summed_gradient
from expunge.methods.base import Edit

from ..support import fresh, memoriser, small_task, weights
from .base import check


@check
def is_one_step(plugin: type[Edit]) -> None:
    """Beside gradients taken apart: lr (g_f - g_r) exactly, the counts of rows if asked for, and torch's own Adam."""
    task, start = small_task(), weights(memoriser())
    means = [{n: g / len(side) for n, g in summed_gradient(
        fresh(), [memoriser().encoder.encode(r) for r in side]).items()} for side in (task.forget, task.retain)]
    share = len(task.forget) / (len(task.forget) + len(task.retain))
    for scale, count in (("means", 1.0), ("counts", share)):
        subject = fresh()
        plugin(lr=0.1, rule="sgd", scale=scale).apply(subject, task, 0)
        for name, value in weights(subject).items():
            expected = start[name] + 0.1 * (count * means[0][name] - means[1][name])
            torch.testing.assert_close(value, expected, atol=1e-7, rtol=1e-6)
    subject = fresh()
    plugin(lr=1e-3).apply(subject, task, 0)
    other = fresh()
    for name, parameter in other.model.named_parameters():
        parameter.requires_grad_(True).grad = means[1][name] - means[0][name]
    torch.optim.Adam(other.model.parameters(), lr=1e-3).step()
    for name, value in weights(other).items():
        torch.testing.assert_close(weights(subject)[name], value, atol=1e-6, rtol=1e-4)


@check
def points_to_retraining(plugin: type[Edit]) -> None:
    """Logistic regression fitted to all rows and to those that stay: the step has a positive cosine with the change."""
    step = sys.modules[plugin.__module__].single_step
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(120, 6, generator=generator).double()
        truth = torch.randn(6, generator=generator).double()
        labels = (rows @ truth + torch.randn(120, generator=generator) > 0).double()

        def slope(w: torch.Tensor, chosen: slice, rows: torch.Tensor = rows,
                  labels: torch.Tensor = labels) -> torch.Tensor:
            return rows[chosen].T @ (torch.sigmoid(rows[chosen] @ w) - labels[chosen]) / len(rows[chosen])

        ends = []
        for chosen in (slice(0, 120), slice(12, 120)):
            w = torch.zeros(6).double()
            for _ in range(2000):
                w = w - slope(w, chosen) - 0.01 * w
            ends.append(w)
        found = step(ends[0], slope(ends[0], slice(0, 12)), slope(ends[0], slice(12, 120)), 1.0, "sgd") - ends[0]
        assert float(torch.cosine_similarity(found, ends[1] - ends[0], dim=0)) > 0.3, seed
