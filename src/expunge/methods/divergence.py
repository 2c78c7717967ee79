"""Cross-entropy and KL divergence towards a whole distribution, without more than one array of their size.

Legend: N supervised tokens (flat), V vocabulary; q the target and p the model, both given as logits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CELLS = {"cpu": 1 << 17}
"""Logits looked at at once: few enough for a processor's caches, many for the launches of anything else."""


def cross_entropy(target_NV: Tensor, logits_NV: Tensor) -> Tensor:
    """-sum_v q_v log p_v of every row in nats, where 0 * -inf counts as 0; shape N. No gradient goes to the target."""
    value: Tensor = _Towards.apply(target_NV.detach(), logits_NV, False)
    return value


def kl(target_NV: Tensor, logits_NV: Tensor) -> Tensor:
    """sum_v q_v (log q_v - log p_v) of every row in nats; shape N. No gradient goes to the target."""
    value: Tensor = _Towards.apply(target_NV.detach(), logits_NV, True)
    return value


def raised(logits_NV: Tensor) -> Tensor:
    """In float32, or float64 where they are: bfloat16 logits are too coarse for a softmax."""
    return logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()


class _Towards(torch.autograd.Function):
    """Both have one gradient by the logits of p, which is p - q: it is written down on the way forward."""

    @staticmethod
    def forward(ctx: Any, target_NV: Tensor, logits_NV: Tensor, relative: bool) -> Tensor:
        rows = max(CELLS.get(logits_NV.device.type, 1 << 26) // logits_NV.shape[-1], 1)
        slope_NV, values = torch.empty_like(logits_NV), []
        for target, logits, slope in zip(target_NV.split(rows), logits_NV.split(rows), slope_NV.split(rows),
                                         strict=True):
            log_q, log_p = raised(target).log_softmax(-1), raised(logits).log_softmax(-1)
            q = log_q.exp()
            torch.sub(log_p.exp(), q, out=slope) if slope.dtype == q.dtype else slope.copy_(log_p.exp() - q)
            worth = log_q.sub_(log_p) if relative else log_p.neg_()
            values.append(worth.masked_fill_(q == 0, 0.0).mul_(q).sum(-1))
        ctx.save_for_backward(slope_NV)
        return torch.cat(values) if values else logits_NV.new_zeros(0)

    @staticmethod
    def backward(ctx: Any, weight_N: Tensor) -> tuple[None, Tensor, None]:
        if torch.is_grad_enabled():  # the slope was written down as a number
            raise RuntimeError("These divergences have no second derivative. Write log-softmaxes out to have one.")
        (slope_NV,) = ctx.saved_tensors
        return None, slope_NV * weight_N[:, None].to(slope_NV.dtype), None
