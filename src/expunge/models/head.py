"""The output head: from final hidden states to logits, and from logits to log-probabilities.

Legend: N supervised tokens (flat), D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from expunge.errors import ExpungeError
from expunge.models import fast
from expunge.models.fast.linear import Linear, linear


def raised(logits_NV: Tensor) -> Tensor:
    """In float32, or float64 where they are: bfloat16 logits are too coarse for a softmax."""
    return logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()


def is_plain(head: Any, device: torch.device) -> bool:
    """Whether a head is one product with its own weights, in the type they have."""
    return (type(head) in (nn.Linear, Linear) and type(head.weight) is nn.Parameter and "forward" not in vars(head)
            and not torch.is_autocast_enabled(device.type))


@dataclass(frozen=True, eq=False)
class LazyLogits:
    """Hidden states and a plain output head: the head runs when logits are asked for.

    The result is that of running the head at once: with a gradient if gradients were on, and with the same weights.
    If the weights have changed since, `check` raises an error; it does not see writes to `.data`. Build with
    `from_states`.
    """

    states_ND: Tensor
    weight_VD: Tensor
    bias_V: Tensor | None
    requires_grad: bool
    version: tuple[int, ...]

    @classmethod
    def from_states(cls, states_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None,
                    requires_grad: bool | None = None) -> LazyLogits:
        """`requires_grad` says whether logits carry a gradient; by default whether gradients are on now."""
        requires_grad = torch.is_grad_enabled() if requires_grad is None else requires_grad
        return cls(states_ND, weight_VD, bias_V, requires_grad, _version(weight_VD, bias_V))

    def logits(self, rows: slice = slice(None)) -> Tensor:
        """Of all tokens or of some, shape N V."""
        self.check()
        with torch.set_grad_enabled(self.requires_grad):
            return linear(self.states_ND[rows], self.weight_VD, self.bias_V)

    def check(self) -> None:
        """Raises ExpungeError where the weights are no longer those the model ran with."""
        if _version(self.weight_VD, self.bias_V) != self.version:
            raise ExpungeError("The output head has changed since the model was run.",
                               "Its logits would be those of other weights.", "Ask for them before weights change.")


def _version(*weights: Tensor | None) -> tuple[int, ...]:
    return tuple(n for weight in weights if weight is not None for n in (weight._version, weight.data_ptr()))


LogitSource = Tensor | LazyLogits
"""Logits, shape N V, or what makes them."""


def all_logits(source: LogitSource) -> Tensor:
    """Logits of all tokens, shape N V."""
    return source if isinstance(source, Tensor) else source.logits()


def token_logp(source: LogitSource, target_N: Tensor) -> Tensor:
    """log softmax(logits)[target] of every token in nats, in float32 or finer; shape N."""
    if fast.enabled("block_gradients"):
        from expunge.models.fast.block_gradients import TokenLogP, reduced

        return reduced(source, TokenLogP(target_N))
    return plain_token_logp(all_logits(source), target_N)


def plain_token_logp(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    """The same of logits that exist."""
    return raised(logits_NV).log_softmax(-1).gather(1, target_N[:, None])[:, 0]


@torch.no_grad()
def blocks(source: LogitSource) -> Iterator[Tensor]:
    """Logits of a few tokens at a time, in order and without gradient; all of them at once where tricks are off."""
    if not fast.enabled("late_head"):
        yield all_logits(source).detach()
        return
    from expunge.models.fast.block_gradients import slices

    if isinstance(source, LazyLogits):
        for rows in slices(source.states_ND, source.weight_VD):
            yield source.logits(rows).detach()
    else:
        for rows in slices(source, None):
            yield source.detach()[rows]
