"""Cross-entropy, KL and Jensen-Shannon divergence from a target distribution q to the model's distribution p.

Both are given as logits, or as what makes them. No gradient goes to the target.

Legend: N supervised tokens (flat), V vocabulary, K likeliest tokens.
"""

from __future__ import annotations

import math

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
    return _relative(raised(target_NV).log_softmax(-1), raised(logits_NV).log_softmax(-1))


def tempered(target_NV: Tensor, logits_NV: Tensor, temperature: float, *, reverse: bool = False) -> Tensor:
    """T^2 KL(q || p) of every row in nats at temperature T, or T^2 KL(p || q) with `reverse`; shape N.

    Both softened by T (Hinton et al. 2015); the factor keeps the gradient's size. No gradient goes to q.
    """
    log_q_NV = (raised(target_NV).detach() / temperature).log_softmax(-1)
    log_p_NV = (raised(logits_NV) / temperature).log_softmax(-1)
    first, second = (log_p_NV, log_q_NV) if reverse else (log_q_NV, log_p_NV)
    return temperature ** 2 * _relative(first, second)


def jensen_shannon(target: LogitSource, source: LogitSource) -> Tensor:
    """(KL(q || m) + KL(p || m)) / 2 with m = (q + p) / 2 of every row in nats, 0 to log 2; shape N."""
    # Impossible tokens are as unlikely as exp() can tell: log(0 + 0) has no derivative.
    log_q_NV, log_p_NV = (raised(all_logits(s)).log_softmax(-1).clamp_min(-1e4) for s in (target, source))
    log_q_NV = log_q_NV.detach()
    log_m_NV = torch.logaddexp(log_q_NV, log_p_NV) - math.log(2)
    return (_relative(log_q_NV, log_m_NV) + _relative(log_p_NV, log_m_NV)) / 2


def _relative(log_a_NV: Tensor, log_b_NV: Tensor) -> Tensor:
    """sum_v a_v (log a_v - log b_v), where 0 log 0 counts as 0; shape N."""
    a_NV = log_a_NV.exp()
    return (log_a_NV - log_b_NV).masked_fill(a_NV == 0, 0.0).mul(a_NV).sum(-1)


def jensen_shannon_to_token(logp_N: Tensor) -> Tensor:
    """The same towards a token for certain, from its log-probability: log 2 + (p log p - (1 + p) log(1 + p)) / 2.

    Nothing else of the distribution enters. The derivative by log p is p log(p / (1 + p)) / 2.
    """
    p_N = logp_N.exp()
    own_N = torch.where(p_N > 0, p_N * logp_N.clamp_min(-1e4), 0.0)
    return math.log(2) + (own_N - (1 + p_N) * torch.log1p(p_N)) / 2


def only_likeliest(logits_NV: Tensor, count: int | None) -> Tensor:
    """The logits with -inf below the `count` largest of each row; all of them with None."""
    if count is None or count >= logits_NV.shape[-1]:
        return logits_NV
    least_N1 = logits_NV.topk(count, dim=-1).values[..., -1:]
    return logits_NV.masked_fill(logits_NV < least_N1, -torch.inf)


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
