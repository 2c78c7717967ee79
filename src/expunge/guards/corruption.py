"""Changes of the embedding vectors of a prompt (ECO), as pure functions, and the search for their strength.

Legend: T tokens, D size of a vector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Corruption = Literal["zero_top", "zero_first", "flip_top", "flip_first", "noise_first", "noise_random", "noise_top",
                     "add_first", "subtract_first", "add_least", "subtract_top", "reverse", "shuffle"]
"""What is done to the dims of each token: zero, flip of the sign, Gaussian noise, or a value added; `top` are the
largest of the token (by absolute value; `subtract_top` by value, as in the public code), `first` the first ones.
`reverse` and `shuffle` change the order of the tokens."""
CORRUPTIONS: tuple[Corruption, ...] = get_args(Corruption)
COUNTED: tuple[Corruption, ...] = ("zero_top", "zero_first", "flip_top", "flip_first")
"""Their strength is the share of the dims; that of the others is the size of what is added."""
ORDERS: tuple[Corruption, ...] = ("reverse", "shuffle")
"""Without a strength."""


def corrupt(vectors_TD: Tensor, how: Corruption, dims: int, strength: float, generator: torch.Generator) -> Tensor:
    """The vectors of some tokens, corrupted; the tensor that is given stays as it is.

    Args:
        dims: how many of the D dims change, where it is by dims.
        strength: standard deviation of the noise, or the value added; 0 changes nothing.
        generator: noise and orders are drawn from it, on the CPU; the first rows are the same for any T.
    """
    length, size = vectors_TD.shape
    dims = min(dims, size)
    if how == "reverse":
        return vectors_TD.flip(0)
    if how == "shuffle":
        return vectors_TD[torch.randperm(length, generator=generator).to(vectors_TD.device)]
    chosen_TK = _chosen(vectors_TD, how, dims, generator)
    old_TK = vectors_TD.gather(1, chosen_TK)
    if how in ("zero_top", "zero_first"):
        new_TK = torch.zeros_like(old_TK)
    elif how in ("flip_top", "flip_first"):
        new_TK = -old_TK
    elif how in ("noise_first", "noise_random", "noise_top"):
        noise_TK = torch.stack([torch.randn(dims, generator=generator) for _ in range(length)])  # for any T the same
        new_TK = old_TK + strength * noise_TK.to(old_TK)
    else:
        new_TK = old_TK + (strength if how.startswith("add") else -strength)
    return vectors_TD.scatter(1, chosen_TK, new_TK)


def _chosen(vectors_TD: Tensor, how: Corruption, dims: int, generator: torch.Generator) -> Tensor:
    """The dims of each token that change, shape T dims."""
    length, size = vectors_TD.shape
    if how == "subtract_top":
        return vectors_TD.topk(dims, 1).indices
    if how == "add_least":
        return vectors_TD.topk(dims, 1, largest=False).indices
    if how.endswith("top"):
        return vectors_TD.abs().topk(dims, 1).indices
    first = torch.randperm(size, generator=generator)[:dims] if how == "noise_random" else torch.arange(dims)
    return first.to(vectors_TD.device).expand(length, dims)


@dataclass(frozen=True)
class Search:
    """How the search went: the strengths it stood at and their losses, the first one included."""

    strengths: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def best(self) -> int:
        """The place of the least loss; the weakest of several."""
        return min(range(len(self.losses)), key=lambda i: (self.losses[i], self.strengths[i]))


def search(loss: Callable[[float], float], start: float, *, rate: float, width: float, least: float, most: float,
           steps: int, enough: float) -> Search:
    """Zeroth-order descent: beta <- clip(beta - rate (f(beta + e) - f(max(beta - e, 0))) / 2e).

    Args:
        width: e.
        enough: it ends at a loss of at most this.
    """
    strengths, losses = [start], [loss(start)]
    while len(strengths) <= steps and losses[-1] > enough:
        at = strengths[-1]
        slope = (loss(at + width) - loss(max(at - width, 1e-8))) / (2 * width)
        beta = min(max(at - rate * slope, least), most)
        if beta == at:
            break
        strengths.append(beta)
        losses.append(loss(beta))
    return Search(tuple(strengths), tuple(losses))
