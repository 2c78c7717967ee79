"""The output head: final hidden states to logits, and to one number a token in one array of logits' size.

Legend: N supervised tokens (flat), D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from expunge.errors import ExpungeError
from expunge.models.fast.linear import Linear, linear, product

CELLS = {"cpu": 1 << 17}
"""Logits looked at at once: few enough for a processor's caches, many for the launches of anything else."""
LEAST = 128
"""Rows of states that are multiplied at once, at the least: a product of fewer reads the head's weights too often."""
KEPT = 1 << 28
"""Slopes kept for the way back; of more, each block is made again from its states."""


def raised(logits_NV: Tensor) -> Tensor:
    """In float32, or float64 where they are: bfloat16 logits are too coarse for a softmax."""
    return logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()


def by_cache(logits_NV: Tensor, *others_N: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Logits, and what else there is of every token, of as many tokens as are looked at at once."""
    rows = max(_cells(logits_NV) // logits_NV.shape[-1], 1)
    return zip(*(x.split(rows) for x in (logits_NV, *others_N)), strict=True)


def is_plain(head: Any, device: torch.device) -> bool:
    """Whether a head is one product with its own weights, in the type they have."""
    return (type(head) in (nn.Linear, Linear) and type(head.weight) is nn.Parameter and "forward" not in vars(head)
            and not torch.is_autocast_enabled(device.type))


@dataclass(frozen=True, eq=False)
class LazyLogits:
    """What a plain head is given to predict every supervised token, and that head; it runs when it is asked.

    It runs as it would have at once: with a gradient if there was to be one, and with the weights there were. Weights
    that change meanwhile are noticed, unless somebody writes to their `.data`.
    """

    states_ND: Tensor
    weight_VD: Tensor
    bias_V: Tensor | None
    graded: bool
    version: tuple[int, ...]

    @classmethod
    def under(cls, weight_VD: Tensor, bias_V: Tensor | None, states_ND: Tensor,
              graded: bool | None = None) -> LazyLogits:
        graded = torch.is_grad_enabled() if graded is None else graded
        return cls(states_ND, weight_VD, bias_V, graded, _version(weight_VD, bias_V))

    def logits(self, few: slice = slice(None)) -> Tensor:
        """Of all tokens or of some, shape N V."""
        self.check()
        with torch.set_grad_enabled(self.graded):
            return linear(self.states_ND[few], self.weight_VD, self.bias_V)

    def check(self) -> None:
        """Raises ExpungeError where the weights are no longer those the model ran with."""
        if _version(self.weight_VD, self.bias_V) != self.version:
            raise ExpungeError("The output head has changed since the model was run.",
                               "Its logits would be those of other weights.", "Ask for them before weights change.")


def _version(*weights: Tensor | None) -> tuple[int, ...]:
    return tuple(n for weight in weights if weight is not None for n in (weight._version, weight.data_ptr()))


Found = Tensor | LazyLogits
"""Logits, or what they can be made of."""


def whole(found: Found) -> Tensor:
    """Logits of all tokens, shape N V."""
    return found if isinstance(found, Tensor) else found.logits()


class Rowwise(Protocol):
    """One number of every row of logits."""

    def __call__(self, logits_NV: Tensor, few: slice, write: bool) -> Tensor:
        """Of the tokens `few`, whose logits these are. With `write` its gradient by the logits is left in their place.

        Nothing here is differentiated.
        """

    def plain(self, logits_NV: Tensor) -> Tensor:
        """The same of all tokens in terms that PyTorch can differentiate, any number of times."""


@dataclass(frozen=True)
class TokenLogP:
    """log softmax(logits)[target], in float32 or finer."""

    target_N: Tensor

    def __call__(self, logits_NV: Tensor, few: slice, write: bool) -> Tensor:
        found = []
        for logits, target in by_cache(logits_NV, self.target_N[few]):
            logp = raised(logits).log_softmax(-1)
            found.append(logp.gather(1, target[:, None])[:, 0])
            if write:
                logits.copy_(logp.exp_().neg_().scatter_add_(1, target[:, None], torch.ones_like(logp[:, :1])))
        return torch.cat(found)

    def plain(self, logits_NV: Tensor) -> Tensor:
        return raised(logits_NV).log_softmax(-1).gather(1, self.target_N[:, None])[:, 0]


def rowwise(found: Found, values: Rowwise) -> Tensor:
    """One number a token, shape N: in one array of logits' size where a gradient is wanted, in none if not.

    Logits that exist already are left as they are, and their slopes are that array. Going back twice from one value
    makes its slopes anew the second time.
    """
    if isinstance(found, Tensor):
        value: Tensor = _Rowwise.apply(found, None, None, values, torch.is_grad_enabled())
        return value
    found.check()
    with torch.set_grad_enabled(found.graded):
        value = _Rowwise.apply(found.states_ND, found.weight_VD, found.bias_V, values, found.graded)
        return value


@torch.no_grad()
def blocks(found: Found) -> Iterator[Tensor]:
    """Logits of a few tokens at a time, in order and without gradient."""
    if isinstance(found, LazyLogits):
        for few in _slices(found.states_ND, found.weight_VD):
            yield found.logits(few).detach()
    else:
        logits_NV = whole(found).detach()
        for few in _slices(logits_NV, None):
            yield logits_NV[few]


def likeliest(logits_NV: Tensor) -> Tensor:
    """The first of the largest. On a processor numpy's search is ten times faster than PyTorch's."""
    if logits_NV.device.type == "cpu" and logits_NV.dtype in (torch.float32, torch.float64):
        return torch.from_numpy(logits_NV.numpy().argmax(-1))
    return logits_NV.argmax(-1)


def _cells(x: Tensor) -> int:
    return CELLS.get(x.device.type, 1 << 26)


def _vocabulary(x: Tensor, weight_VD: Tensor | None) -> int:
    return x.shape[-1] if weight_VD is None else len(weight_VD)


def _slices(x: Tensor, weight_VD: Tensor | None) -> list[slice]:
    """Tokens whose logits are made at once."""
    rows = max(_cells(x) // _vocabulary(x, weight_VD), LEAST)
    return [slice(at, min(at + rows, len(x))) for at in range(0, max(len(x), 1), rows)]


class _Rowwise(torch.autograd.Function):
    """Values and their slopes are found together while a block of logits is at hand; slopes lie where logits lay."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_VD: Tensor | None, bias_V: Tensor | None, values: Rowwise,
                graded: bool) -> Tensor:
        ctx.save_for_backward(x, weight_VD, bias_V)
        vocabulary = _vocabulary(x, weight_VD)
        fits = graded and any(ctx.needs_input_grad[:3]) and len(x) * vocabulary <= KEPT
        ctx.values, ctx.slope_NV, found = values, x.new_empty(len(x), vocabulary) if fits else None, []
        for few in _slices(x, weight_VD):
            logits_NV = _logits(x[few], weight_VD, bias_V, ctx.slope_NV[few] if fits else None)
            found.append(values(logits_NV, few, write=fits))
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, by_N: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_VD, bias_V = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # somebody differentiates twice
            value_N = ctx.values.plain(x if weight_VD is None else linear(x, weight_VD, bias_V))
            inputs = [part for part, wants in zip((x, weight_VD, bias_V), wanted, strict=True) if wants]
            found = iter(torch.autograd.grad(value_N, inputs, by_N, create_graph=True))
            return (*(next(found) if wants else None for wants in wanted), None, None)
        by_x, by_weight, by_bias = [], None, None
        for few, slope_NV in _slopes(ctx, x, weight_VD, bias_V):
            by_N1 = by_N[few, None]
            if weight_VD is None:
                by_x.append(slope_NV.mul_(by_N1))
                continue
            if wanted[0]:
                by_x.append(product(slope_NV, weight_VD).mul_(by_N1))
            if wanted[1]:
                part = product(slope_NV.T, (x[few] * by_N1).to(x.dtype))
                by_weight = part if by_weight is None else by_weight.float().add_(part)
            if wanted[2]:
                part = (slope_NV.T @ by_N1.to(slope_NV.dtype))[:, 0]
                by_bias = part if by_bias is None else by_bias.float().add_(part)
        return (torch.cat(by_x) if wanted[0] else None, None if by_weight is None else by_weight.to(x.dtype),
                None if by_bias is None else by_bias.to(x.dtype), None, None)


def _slopes(ctx: Any, x: Tensor, weight_VD: Tensor | None, bias_V: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
    """Those that were kept, once; after that, or where they were too many, made again block by block."""
    kept, ctx.slope_NV = ctx.slope_NV, None
    if kept is not None:
        yield slice(None), kept
        return
    for few in _slices(x, weight_VD):
        block_NV = _logits(x[few], weight_VD, bias_V, None)
        block_NV = block_NV.clone() if weight_VD is None else block_NV
        ctx.values(block_NV, few, write=True)
        yield few, block_NV


def _logits(x: Tensor, weight_VD: Tensor | None, bias_V: Tensor | None, out: Tensor | None) -> Tensor:
    if weight_VD is None:
        return x if out is None else out.copy_(x)
    return product(x, weight_VD.T, bias_V, out)
