"""An edit that several blocks share.

Legend: K inputs of an MLP's output projection, D hidden size, M places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from expunge.methods._lib.key_value import Mentions
from expunge.methods._lib.output_projection import add_to_weight, mlp_out
from expunge.models.language import CausalLM

Solve = Callable[[int, Tensor, Tensor], Tensor]
"""(block, keys K M, residual D M) -> the update of its matrix, D K."""


def spread(subject: CausalLM, layers: Sequence[int], places: Sequence[Mentions], targets_DM: Tensor,
           solve: Solve) -> dict[str, Any]:
    """Edit one block after the other until the last one's output at the places is the target; figures by block.

    Each block takes an equal share of what is still missing.
    """
    figures: dict[str, Any] = {}
    for i, layer in enumerate(layers):
        module = mlp_out(subject, layer)[1]
        keys_KM = torch.stack([place.keys(subject, layer) for place in places], 1)
        current_DM = torch.stack([place.value(subject, layers[-1]) for place in places], 1)
        change_DK = solve(layer, keys_KM, (targets_DM - current_DM) / (len(layers) - i))
        size = float(module.weight.detach().norm())  # type: ignore[operator]
        add_to_weight(module, change_DK)
        figures[str(layer)] = {"change": float(change_DK.norm()) / size,
                               "rank": int(torch.linalg.matrix_rank(change_DK, rtol=1e-6))}
    return figures
