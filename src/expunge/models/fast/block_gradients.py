"""One number for every token from its logits, with the gradient written over a block of logits.

Autograd keeps two to five arrays of the size of the logits for a log-prob or a divergence. With a large vocabulary
these are most of a step's memory. Here the logits of some hundred tokens are made at a time; while they are at hand,
the number of each token is taken and its gradient by the logits is written in their place, so that one such array is
kept. The backward pass multiplies it with the head's weight and the states. Second derivatives use the plain formula.

Legend: N supervised tokens (flat), D hidden size, V vocabulary, K likeliest tokens; q the target distribution, p the
model's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from expunge.models.fast.linear import linear, product
from expunge.models.head import LazyLogits, LogitSource, plain_token_logp, raised

if TYPE_CHECKING:
    from expunge.models.reference import Likeliest

CELLS = {"cpu": 1 << 17}
"""Logits in one block, by device: few enough for the caches of a processor, many for the launches of anything else."""
MIN_ROWS = 128
"""Rows of states that are multiplied at once, at the least: a product of fewer reads the head's weights too often."""
MAX_KEPT = 1 << 28
"""Numbers of a gradient that are kept for the backward pass; a larger gradient is made again block by block."""


class Formula(Protocol):
    """One number of every row of logits."""

    def block(self, logits_NV: Tensor, rows: slice, write: bool) -> Tensor:
        """Of the tokens `rows`, whose logits these are; called under no_grad.

        With `write` the gradient by the logits is left in their place.
        """

    def plain(self, logits_NV: Tensor) -> Tensor:
        """The same of all tokens, in operations that PyTorch can differentiate any number of times."""


@dataclass(frozen=True)
class TokenLogP:
    """log softmax(logits)[target], in float32 or finer. Its gradient is onehot(target) - p."""

    target_N: Tensor

    def block(self, logits_NV: Tensor, rows: slice, write: bool) -> Tensor:
        found = []
        for logits, target in by_cache(logits_NV, self.target_N[rows]):
            logp = raised(logits).log_softmax(-1)
            found.append(logp.gather(1, target[:, None])[:, 0])
            if write:
                logits.copy_(logp.exp_().neg_().scatter_add_(1, target[:, None], torch.ones_like(logp[:, :1])))
        return torch.cat(found)

    def plain(self, logits_NV: Tensor) -> Tensor:
        return plain_token_logp(logits_NV, self.target_N)


@dataclass(frozen=True)
class Divergence:
    """Cross-entropy or KL divergence towards a whole distribution. Both have the gradient p - q.

    Args:
        formula: (target logits, logits) -> values, as one would write it; for second derivatives.
        relative: KL rather than cross-entropy.
    """

    target: LogitSource
    formula: Any
    relative: bool

    def block(self, logits_NV: Tensor, rows: slice, write: bool) -> Tensor:
        values = []
        for logits, target in by_cache(logits_NV, self._target(rows)):
            log_q, log_p = raised(target).log_softmax(-1), raised(logits).log_softmax(-1)
            q = log_q.exp()
            if write:
                logits.copy_(log_p.exp().sub_(q))
            worth = log_q - log_p if self.relative else -log_p
            values.append(worth.masked_fill(q == 0, 0.0).mul(q).sum(-1))
        return torch.cat(values)

    def plain(self, logits_NV: Tensor) -> Tensor:
        found: Tensor = self.formula(self._target(slice(None)), logits_NV)
        return found

    def _target(self, rows: slice) -> Tensor:
        target = self.target
        return (target.logits(rows) if isinstance(target, LazyLogits) else target[rows]).detach()


@dataclass(frozen=True)
class CoarseDivergence:
    """KL divergence where all but the likeliest tokens of q count as one token.

    The gradient is p - q for the likeliest tokens, and p (1 - r / s) for the others, to which q gives r together and p
    gives s.

    Args:
        formula: (target, logits) -> values, as one would write it.
        of_parts: (log q, log r, log p, log s) -> values, of the likeliest tokens and of the rest.
        without: (log-probs N V, ids N K) -> log-probability of all other tokens together.
    """

    target: Likeliest
    formula: Any
    of_parts: Any
    without: Any

    def block(self, logits_NV: Tensor, rows: slice, write: bool) -> Tensor:
        values, target = [], self.target
        for logits, ids, log_q, log_r in by_cache(logits_NV, target.ids_NK[rows], target.logp_NK[rows],
                                                  target.rest_N[rows]):
            log_p = raised(logits).log_softmax(-1)
            top, log_s = log_p.gather(1, ids), self.without(log_p, ids)
            values.append(self.of_parts(log_q, log_r, top, log_s))
            if write:
                # In logs: r / s overflows where p has next to nothing left for the others.
                log_share = torch.where(log_r == -torch.inf, log_r, log_r - log_s)
                shared = (log_p + log_share[:, None]).masked_fill_(log_p == -torch.inf, -torch.inf).exp_()
                logits.copy_(log_p.exp().sub_(shared).scatter_(1, ids, top.exp() - log_q.exp()))
        return torch.cat(values)

    def plain(self, logits_NV: Tensor) -> Tensor:
        found: Tensor = self.formula(self.target, logits_NV)
        return found


def reduced(source: LogitSource, formula: Formula) -> Tensor:
    """The number of every token, shape N: one array of the size of the logits for a gradient, none without.

    Logits that exist already are left as they are, and the gradient is that array. Going back twice from one value
    makes the gradient again.
    """
    if isinstance(source, Tensor):
        value: Tensor = _Reduced.apply(source, None, None, formula, torch.is_grad_enabled())
        return value
    source.check()
    with torch.set_grad_enabled(source.requires_grad):
        value = _Reduced.apply(source.states_ND, source.weight_VD, source.bias_V, formula, source.requires_grad)
        return value


def by_cache(logits_NV: Tensor, *others_N: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Logits, and what belongs to each token, in parts that fit the caches."""
    rows = max(_cells(logits_NV) // logits_NV.shape[-1], 1)
    return zip(*(x.split(rows) for x in (logits_NV, *others_N)), strict=True)


def slices(x: Tensor, weight_VD: Tensor | None) -> list[slice]:
    """Tokens whose logits are made at once, from states `x` and a weight, or from logits `x`."""
    rows = max(_cells(x) // _vocabulary(x, weight_VD), MIN_ROWS)
    return [slice(at, min(at + rows, len(x))) for at in range(0, max(len(x), 1), rows)]


def _cells(x: Tensor) -> int:
    return CELLS.get(x.device.type, 1 << 26)


def _vocabulary(x: Tensor, weight_VD: Tensor | None) -> int:
    return x.shape[-1] if weight_VD is None else len(weight_VD)


class _Reduced(torch.autograd.Function):
    """Values and their gradient by the logits are taken together, block by block."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_VD: Tensor | None, bias_V: Tensor | None, formula: Formula,
                requires_grad: bool) -> Tensor:
        ctx.save_for_backward(x, weight_VD, bias_V)
        vocabulary = _vocabulary(x, weight_VD)
        keep = requires_grad and any(ctx.needs_input_grad[:3]) and len(x) * vocabulary <= MAX_KEPT
        ctx.formula, ctx.gradient_NV, found = formula, x.new_empty(len(x), vocabulary) if keep else None, []
        for rows in slices(x, weight_VD):
            logits_NV = _logits(x[rows], weight_VD, bias_V, ctx.gradient_NV[rows] if keep else None)
            found.append(formula.block(logits_NV, rows, write=keep))
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, by_N: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_VD, bias_V = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # a second derivative is wanted
            value_N = ctx.formula.plain(x if weight_VD is None else linear(x, weight_VD, bias_V))
            inputs = [part for part, wants in zip((x, weight_VD, bias_V), wanted, strict=True) if wants]
            found = iter(torch.autograd.grad(value_N, inputs, by_N, create_graph=True))
            return (*(next(found) if wants else None for wants in wanted), None, None)
        by_x, by_weight, by_bias = [], None, None
        for rows, gradient_NV in _gradient(ctx, x, weight_VD, bias_V):
            by_N1 = by_N[rows, None]
            if weight_VD is None:
                by_x.append(gradient_NV.mul_(by_N1))
                continue
            if wanted[0]:
                by_x.append(product(gradient_NV, weight_VD).mul_(by_N1))
            if wanted[1]:
                part = product(gradient_NV.T, (x[rows] * by_N1).to(x.dtype))
                by_weight = part if by_weight is None else by_weight.float().add_(part)
            if wanted[2]:
                part = (gradient_NV.T @ by_N1.to(gradient_NV.dtype))[:, 0]
                by_bias = part if by_bias is None else by_bias.float().add_(part)
        return (torch.cat(by_x) if wanted[0] else None, None if by_weight is None else by_weight.to(x.dtype),
                None if by_bias is None else by_bias.to(x.dtype), None, None)


def _gradient(ctx: Any, x: Tensor, weight_VD: Tensor | None, bias_V: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
    """The one that was kept, once; after that, or where it was too large, it is made again block by block."""
    kept, ctx.gradient_NV = ctx.gradient_NV, None
    if kept is not None:
        yield slice(None), kept
        return
    for rows in slices(x, weight_VD):
        block_NV = _logits(x[rows], weight_VD, bias_V, None)
        block_NV = block_NV.clone() if weight_VD is None else block_NV
        ctx.formula.block(block_NV, rows, write=True)
        yield rows, block_NV


def _logits(x: Tensor, weight_VD: Tensor | None, bias_V: Tensor | None, out: Tensor | None) -> Tensor:
    if weight_VD is None:
        return x if out is None else out.copy_(x)
    return product(x, weight_VD.T, bias_V, out)
