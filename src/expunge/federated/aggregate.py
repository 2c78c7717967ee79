"""What a server does with the models of its clients: look at them, average them, and split low-rank updates again.

Legend: R rank of an adapter, I and O a layer's inputs and outputs. All averages are in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from expunge.errors import UsageError

Tensors = Mapping[str, Tensor]
DOWN, UP = ".lora_A.", ".lora_B."
CLOSE = 1e-12
"""Up to this share of its largest entry, a product is that of a client: float64 leaves so much on the way and back."""


def unusable(answer: Tensors, theta: Tensors) -> str:
    """Why the weights that a client sent cannot be used; empty where they can."""
    if answer.keys() != theta.keys():
        other = sorted(answer.keys() ^ theta.keys())
        return f"sent other parameters than it was given, such as {other[0]}"
    for name, value in theta.items():
        if not isinstance(answer[name], Tensor) or answer[name].shape != value.shape:
            return f"sent {name} in the shape {tuple(getattr(answer[name], 'shape', ()))}, not {tuple(value.shape)}"
    bad = [name for name, value in answer.items() if not bool(value.isfinite().all())]
    return f"sent numbers that are not finite, in {bad[0]}" if bad else ""


def shares_of(rows: Mapping[int, int]) -> dict[int, float]:
    """Weight n_c / sum n of each client that answered."""
    total = sum(rows.values())
    return {client: count / total for client, count in rows.items()}


def average(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """sum_c w_c x_c in float64. Terms are sorted before they are added, so the order of the clients changes no bit."""
    parts = torch.stack([w * value.double() for w, value in zip(weights, values, strict=True)])
    return parts.sort(0).values.sum(0)


def split(product_OI: Tensor, down_RI: Tensor, up_OR: Tensor) -> tuple[Tensor, Tensor]:
    """The best factors of a product: A of shape R I with orthonormal rows, and B of shape O R.

    The given factors tell the shapes. A direction that the product lacks has a zero column of B and a row of A that is
    not zero, as in a new adapter, so that it can still be trained.
    """
    rank = len(down_RI)
    u_OK, s_K, v_KI = torch.linalg.svd(product_OI, full_matrices=False)
    found = min(rank, len(s_K))
    down, up = down_RI.double().clone(), torch.zeros(up_OR.shape, dtype=torch.float64)
    down[:found], up[:, :found] = v_KI[:found], u_OK[:, :found] * s_K[:found]
    return down, up


def pairs_of(names: Sequence[str], module: Callable[[str], Any] | None = None) -> dict[str, tuple[str, str]]:
    """Prefix -> the two factors of every adapter of which both may move.

    Args:
        module: prefix -> the adapted module, to see that its factors are of one matrix.

    Raises:
        UsageError: an adapter is on a stack of matrices, whose factors are not multiplied as they stand.
    """
    found = {name.partition(DOWN)[0]: (name, name.replace(DOWN, UP)) for name in names
             if DOWN in name and name.replace(DOWN, UP) in names}
    for prefix in found if module is not None else ():
        parts = module(prefix)  # type: ignore[misc]
        for key, rank in getattr(parts, "r", {}).items():
            if parts.lora_A[key].weight.dim() != 2 or len(parts.lora_A[key].weight) != rank:
                raise UsageError(f"The adapter on {prefix} is on a stack of matrices, and products of such adapters "
                                 "cannot be averaged.", "Each matrix of the stack has factors of its own.",
                                 "Take adapters=shared, which averages one factor, or name other modules in lora.")
    return found


class Products:
    """Adapters as a server averages them: the product B A of each, and every other parameter as it is.

    The average of products is not the product of averages. So the products are averaged and then split again.
    """

    def __init__(self, pairs: Mapping[str, tuple[str, str]]) -> None:
        self._pairs = pairs
        self.cut: float = 0.0
        """Largest share of a product's length, over adapters, that its rank could not hold in the last round."""

    def of(self, parameters: Tensors) -> dict[str, Tensor]:
        """What is averaged, in float64."""
        factors = {name for pair in self._pairs.values() for name in pair}
        plain = {name: value.double() for name, value in parameters.items() if name not in factors}
        return plain | {prefix: parameters[up].double() @ parameters[down].double()
                        for prefix, (down, up) in self._pairs.items()}

    def back(self, new: Tensors, known: Sequence[Tensors]) -> dict[str, Tensor]:
        """Parameters again. Where a product is that of known parameters, their factors are taken, bit for bit."""
        found, like, self.cut = dict[str, Tensor](), known[0], 0.0
        for prefix, value in new.items():
            if prefix not in self._pairs:
                found[prefix] = value.to(like[prefix].dtype)
                continue
            down, up = self._pairs[prefix]
            same = [one for one in known if _close(one[up].double() @ one[down].double(), value)]
            if same:
                found |= {down: same[0][down], up: same[0][up]}
                continue
            halves = split(value, like[down], like[up])
            self.cut = max(self.cut, float((value - halves[1] @ halves[0]).norm() / value.norm()))
            found |= {name: half.to(like[name].dtype) for name, half in zip((down, up), halves, strict=True)}
        return {name: found[name] for name in like}


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= CLOSE * b.abs().max())
