"""Linear layers that multiply with oneDNN, on processors that PyTorch's usual library leaves half idle.

PyTorch hands float32 products to MKL, which keeps AVX-512 to Intel's processors; on AMD's, oneDNN, which
PyTorch carries as well, is about twice as fast.

Legend: M positions, K inputs, N outputs of a layer.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

LEAST = 1 << 22
"""Multiplications of a product from which on a call of its own pays."""
MULTIPLE = 16
"""Positions are filled up to multiples of this: oneDNN writes code for every size it meets, quickest for even ones."""


class Linear(nn.Linear):
    """As its parent. The class is set on layers that exist, so it has no other state."""

    def forward(self, x: Tensor) -> Tensor:
        if not _pays(x, self.weight):
            return super().forward(x)
        found: Tensor = _Product.apply(x, self.weight)
        return found if self.bias is None else found + self.bias


def quicken(model: nn.Module) -> None:
    """Make every plain linear layer of a model a `Linear`, where that is quicker; weights and names stay."""
    if _is_quicker():
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = Linear


@cache
def _is_quicker() -> bool:
    try:
        maker = Path("/proc/cpuinfo").read_text(encoding="utf-8")[:200]
    except OSError:  # not Linux
        return False
    return ("AuthenticAMD" in maker and torch.backends.cpu.get_cpu_capability() == "AVX512"
            and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise"))


def _pays(x: Tensor, weight_NK: Tensor) -> bool:
    """Not for other types and devices, weights that stand for something else (quantised), or small products."""
    return (x.device.type == "cpu" and x.dtype is weight_NK.dtype is torch.float32
            and type(weight_NK) in (Tensor, nn.Parameter) and x.numel() * len(weight_NK) >= LEAST
            and not torch.is_autocast_enabled("cpu"))


class _Product(torch.autograd.Function):
    """x W^T, as `torch.nn.functional.linear` without a bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_NK: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight_NK)
        x_MK = x.flatten(0, -2)
        return _product(_filled(x_MK), weight_NK)[: len(x_MK)].view(*x.shape[:-1], len(weight_NK))

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight_NK = ctx.saved_tensors
        by_x, by_weight = ctx.needs_input_grad
        x_MK, slope_MN = x.flatten(0, -2), slope.flatten(0, -2)
        if torch.is_grad_enabled():  # somebody differentiates twice
            return slope @ weight_NK, slope_MN.T @ x_MK
        slope_MN = _filled(slope_MN)
        change_NK = None
        if by_weight:
            x_MK = _filled(x_MK)
            # Its first argument is copied to lie in rows, so the narrower one stands first.
            wide = slope_MN.shape[1] > x_MK.shape[1]
            change_NK = (_product(x_MK.T, slope_MN.T).T.contiguous() if wide else _product(slope_MN.T, x_MK.T))
        return _product(slope_MN, weight_NK.T)[: slope.shape[:-1].numel()].view(x.shape) if by_x else None, change_NK


def _product(a_MK: Tensor, b_NK: Tensor) -> Tensor:
    """a b^T."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(a_MK, b_NK, None, "none", [], "")
    return found


def _filled(rows_MK: Tensor) -> Tensor:
    """With rows of zeros behind, up to the next multiple."""
    over = -len(rows_MK) % MULTIPLE
    if not over:
        return rows_MK
    filled = rows_MK.new_empty(len(rows_MK) + over, rows_MK.shape[1])
    filled[: len(rows_MK)] = rows_MK
    filled[len(rows_MK):] = 0
    return filled
