"""Cross-entropy and KL divergence towards a whole distribution, without more than one array of their size.

Legend: N supervised tokens (flat), V vocabulary, K likeliest tokens; q the target and p the model, both given as logits
or as what a head makes them of.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.models.head import Found, LazyLogits, by_cache, raised, rowwise, whole
from expunge.models.reference import Likeliest, without


def cross_entropy(target: Found, found: Found) -> Tensor:
    """-sum_v q_v log p_v of every row in nats, where 0 * -inf counts as 0; shape N. No gradient goes to the target."""
    return rowwise(found, _Towards(target, relative=False))


def kl(target: Found, found: Found) -> Tensor:
    """sum_v q_v (log q_v - log p_v) of every row in nats; shape N. No gradient goes to the target."""
    return rowwise(found, _Towards(target, relative=True))


def coarse_kl(target: Likeliest, found: Found) -> Tensor:
    """The same where only the likeliest tokens of q are told apart and all others count as one; shape N.

    At most the whole divergence, and short of it by r KL(q's others || p's others), each made to sum to 1, where r is
    what q gives them together.
    """
    return rowwise(found, _Coarsely(target))


@dataclass(frozen=True)
class _Towards:
    """Both have one gradient by the logits of p, which is p - q."""

    target: Found
    relative: bool

    def __call__(self, logits_NV: Tensor, few: slice, write: bool) -> Tensor:
        values = []
        for logits, target in by_cache(logits_NV, self._target(few)):
            log_q, log_p = raised(target).log_softmax(-1), raised(logits).log_softmax(-1)
            q = log_q.exp()
            if write:
                logits.copy_(log_p.exp().sub_(q))
            values.append(self._value(log_q, q, log_p))
        return torch.cat(values)

    def plain(self, logits_NV: Tensor) -> Tensor:
        log_q = raised(self._target(slice(None))).log_softmax(-1)
        return self._value(log_q, log_q.exp(), raised(logits_NV).log_softmax(-1))

    def _value(self, log_q: Tensor, q: Tensor, log_p: Tensor) -> Tensor:
        worth = log_q - log_p if self.relative else -log_p
        return worth.masked_fill(q == 0, 0.0).mul(q).sum(-1)

    def _target(self, few: slice) -> Tensor:
        return (self.target.logits(few) if isinstance(self.target, LazyLogits) else whole(self.target)[few]).detach()


@dataclass(frozen=True)
class _Coarsely:
    """The gradient by the logits of p: p - q for the likeliest tokens, and p (1 - r / s) for others that p gives s."""

    target: Likeliest

    def __call__(self, logits_NV: Tensor, few: slice, write: bool) -> Tensor:
        values, target = [], self.target
        for logits, ids, log_q, log_r in by_cache(logits_NV, target.ids_NK[few], target.logp_NK[few],
                                                  target.rest_N[few]):
            log_p = raised(logits).log_softmax(-1)
            top, log_s = log_p.gather(1, ids), without(log_p, ids)
            values.append(_coarse(log_q, log_r, top, log_s))
            if write:
                # In logs: r / s overflows where p has next to nothing left for the others.
                log_share = torch.where(log_r == -torch.inf, log_r, log_r - log_s)
                shared = (log_p + log_share[:, None]).masked_fill_(log_p == -torch.inf, -torch.inf).exp_()
                logits.copy_(log_p.exp().sub_(shared).scatter_(1, ids, top.exp() - log_q.exp()))
        return torch.cat(values)

    def plain(self, logits_NV: Tensor) -> Tensor:
        log_p = raised(logits_NV).log_softmax(-1)
        ids = self.target.ids_NK
        return _coarse(self.target.logp_NK, self.target.rest_N, log_p.gather(1, ids), without(log_p, ids))


def _coarse(log_q: Tensor, log_r: Tensor, log_p: Tensor, log_s: Tensor) -> Tensor:
    q, r = log_q.exp(), log_r.exp()
    return (log_q - log_p).masked_fill(q == 0, 0.0).mul(q).sum(-1) + (log_r - log_s).masked_fill(r == 0, 0.0).mul(r)
