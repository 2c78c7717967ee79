"""Directions in which a layer's outputs vary, and an adapter that begins in them (RILA, arXiv 2604.17396).

Legend: N rows, O outputs and I inputs of a layer, P positions, R rank, K directions of retain outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from expunge.data.encoder import Row
from expunge.models.sites import watch_calls
from expunge.models.subject import Subject

SHRINKAGE = 1e-4
"""Added to the diagonal of both second moments, as in the authors' code."""


def second_moment(outputs_NO: Tensor) -> Tensor:
    """H^T H / N + 1e-4 I, not centred, in float64; shape O O."""
    outputs_NO = outputs_NO.double()
    eye_OO = torch.eye(outputs_NO.shape[1], dtype=torch.float64, device=outputs_NO.device)
    return outputs_NO.T @ outputs_NO / max(len(outputs_NO), 1) + SHRINKAGE * eye_OO


def leading(moment_OO: Tensor, count: int) -> Tensor:
    """Eigenvectors of the `count` largest eigenvalues of a symmetric matrix, as columns; at most O of them."""
    return torch.linalg.eigh(moment_OO).eigenvectors[:, max(len(moment_OO) - count, 0):]


def contrast(forget_OO: Tensor, retain_OO: Tensor, balance: float) -> Tensor:
    """C_delta = (1 - b) C_F - b C_R."""
    return (1 - balance) * forget_OO - balance * retain_OO


def overlap(up_OR: Tensor, retain_OK: Tensor) -> Tensor:
    """||B^T P||_F^2, with gradient by B."""
    return (up_OR.T @ retain_OK).square().sum()


@torch.no_grad()
def begin_at(layer: Any, up_OR: Tensor) -> None:
    """B <- Q, A <- Q^T W_0 and W_0 <- W_0 - s B A, so that the layer gives what it gave."""
    found = up_OR.shape[1]
    up, down = layer.lora_B["default"].weight.zero_(), layer.lora_A["default"].weight.zero_()
    up[:, :found] = up_OR
    down[:found] = up_OR.T @ plain_weight(layer).double()
    layer.base_layer.weight.sub_(layer.get_delta_weight("default"))


def plain_weight(layer: Any) -> Tensor:
    """The weight below an adapter, shape O I, also of a family that holds it transposed."""
    weight: Tensor = layer.base_layer.weight.detach()
    return weight.T if layer.fan_in_fan_out else weight


def outputs_of(subject: Subject, layers: dict[str, Any], rows: Sequence[Row]) -> dict[str, Tensor]:
    """Output of every layer summed over a row's positions, shape N O, on its device."""
    names = {layer.base_layer: name for name, layer in layers.items()}
    found = {name: torch.zeros(len(rows), layer.out_features, dtype=torch.float64, device=subject.device)
             for name, layer in layers.items()}

    def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given_PI = args[0].detach().flatten(0, -2).double()
        name, bias = names[module], module.bias
        found[name][at] += plain_weight(layers[name]).double() @ given_PI.sum(0)
        found[name][at] += 0 if bias is None else bias.detach().double() * len(given_PI)  # type: ignore[operator]

    with subject.evaluating(), watch_calls(list(names), see):
        for at, row in enumerate(rows):  # noqa: B007 - one by one: no padding is added up
            subject.answers(subject.collate([row]))
    return found
