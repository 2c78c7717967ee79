"""Cross-entropy and KL divergence from a target distribution q to the model's distribution p.

Both are given as logits, or as what makes them. No gradient goes to the target.

Legend: N supervised tokens (flat), V vocabulary, K likeliest tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from expunge.models import fast
from expunge.models.head import LogitSource, all_logits, raised
from expunge.models.reference import Likeliest, without


def cross_entropy(target: LogitSource, source: LogitSource) -> Tensor:
    """-sum_v q_v log p_v of every row in nats, where 0 * -inf counts as 0; shape N."""
    if fast.enabled("block_gradients"):
        from expunge.models.fast.block_gradients import Divergence, reduced

        return reduced(source, Divergence(target, _cross_entropy, relative=False))
    return _cross_entropy(all_logits(target).detach(), all_logits(source))


def _cross_entropy(target_NV: Tensor, logits_NV: Tensor) -> Tensor:
    q_NV = raised(target_NV).softmax(-1)
    log_p_NV = raised(logits_NV).log_softmax(-1)
    return (-log_p_NV).masked_fill(q_NV == 0, 0.0).mul(q_NV).sum(-1)


def kl(target: LogitSource, source: LogitSource) -> Tensor:
    """sum_v q_v (log q_v - log p_v) of every row in nats; shape N."""
    if fast.enabled("block_gradients"):
        from expunge.models.fast.block_gradients import Divergence, reduced

        return reduced(source, Divergence(target, _kl, relative=True))
    return _kl(all_logits(target).detach(), all_logits(source))


def _kl(target_NV: Tensor, logits_NV: Tensor) -> Tensor:
    log_q_NV, log_p_NV = raised(target_NV).log_softmax(-1), raised(logits_NV).log_softmax(-1)
    q_NV = log_q_NV.exp()
    return (log_q_NV - log_p_NV).masked_fill(q_NV == 0, 0.0).mul(q_NV).sum(-1)


def tempered(target_NV: Tensor, logits_NV: Tensor, temperature: float, *, reverse: bool = False) -> Tensor:
    """T^2 KL(q || p) of every row in nats at temperature T, or T^2 KL(p || q) with `reverse`; shape N.

    Both softened by T (Hinton et al. 2015); the factor keeps the gradient's size. No gradient goes to q.
    """
    log_q_NV = (raised(target_NV).detach() / temperature).log_softmax(-1)
    log_p_NV = (raised(logits_NV) / temperature).log_softmax(-1)
    first, second = (log_p_NV, log_q_NV) if reverse else (log_q_NV, log_p_NV)
    gap_NV = (first - second).masked_fill(first == -torch.inf, 0.0)  # 0 log 0 counts as 0
    return temperature ** 2 * (first.exp() * gap_NV).sum(-1)


def coarse_kl(target: Likeliest, source: LogitSource) -> Tensor:
    """KL divergence over the likeliest tokens of q and all other tokens as one event; shape N.

    At most the full divergence: smaller by r KL(q's others || p's others), each normalised, with r the probability
    that q gives to the others.
    """
    if fast.enabled("block_gradients"):
        from expunge.models.fast.block_gradients import CoarseDivergence, reduced

        return reduced(source, CoarseDivergence(target, _coarse_kl, _of_parts, without))
    return _coarse_kl(target, all_logits(source))


def _coarse_kl(target: Likeliest, logits_NV: Tensor) -> Tensor:
    log_p_NV = raised(logits_NV).log_softmax(-1)
    ids_NK = target.ids_NK
    return _of_parts(target.logp_NK, target.rest_N, log_p_NV.gather(1, ids_NK), without(log_p_NV, ids_NK))


def _of_parts(log_q_NK: Tensor, log_r_N: Tensor, log_p_NK: Tensor, log_s_N: Tensor) -> Tensor:
    """sum_k q_k (log q_k - log p_k) + r (log r - log s), where 0 log 0 counts as 0."""
    q_NK, r_N = log_q_NK.exp(), log_r_N.exp()
    return ((log_q_NK - log_p_NK).masked_fill(q_NK == 0, 0.0).mul(q_NK).sum(-1)
            + (log_r_N - log_s_N).masked_fill(r_N == 0, 0.0).mul(r_N))
