"""Products of float32 matrices by the OpenBLAS that comes with numpy, on AMD processors.

PyTorch uses MKL, which does not use AVX-512 on processors of other makers than Intel; there OpenBLAS is about twice as
fast. It has threads of its own, which would compete with PyTorch's: so this is for processes of one thread
(OMP_NUM_THREADS=1). It is the trick `numpy_products`, off in a library (see `expunge.models.fast`).

Legend: M positions, K inputs, N outputs of a layer.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from expunge.models import fast

LEAST = 1 << 21
"""Multiplications from which on a product is worth the call."""
WIDE = {"skylakex", "cooperlake", "sapphirerapids"}
"""What OpenBLAS calls the kernels that use AVX-512."""


class Linear(nn.Linear):
    """A linear layer that multiplies with `linear`. It supports neither forward-mode nor batched gradients.

    The class is set on existing layers, so it has no state of its own.
    """

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
    """As `torch.nn.functional.linear`, by whichever library is faster."""
    if not _pays(x, weight_NK):
        return F.linear(x, weight_NK, bias_N)
    found: Tensor = _Product.apply(x, weight_NK)
    return found if bias_N is None else found + bias_N


def product(a: Tensor, b: Tensor, plus: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """a b of two matrices, and a vector added to every row; without gradient, by whichever library is faster."""
    if not _pays(a, b.T):
        return torch.mm(a, b, out=out) if plus is None else torch.addmm(plus, a, b, out=out)
    found = _product(a, b, out)
    return found if plus is None else found.add_(plus)


def use_numpy_products(model: nn.Module) -> None:
    """Set the class of a model's plain linear layers to `Linear`, where that is faster; weights and names stay."""
    if _is_faster():
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = Linear


def multiplies() -> str:
    """Which library multiplies float32 matrices on the processor, in words."""
    return "numpy's OpenBLAS" if _is_faster() and torch.get_num_threads() == 1 else "PyTorch's own"


@cache
def _is_faster() -> bool:
    if not _is_amd():
        return False
    from threadpoolctl import threadpool_info

    found = [lib for lib in threadpool_info() if lib["internal_api"] == "openblas"]
    return bool(found) and all(lib["num_threads"] == 1 and lib["architecture"].lower() in WIDE for lib in found)


def _is_amd() -> bool:
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return False


def _pays(x: Tensor, weight_NK: Tensor) -> bool:
    """Not for other types and devices, weights that stand for something else (quantised), or small products."""
    return (fast.enabled("numpy_products") and _is_faster() and x.device.type == "cpu"
            and x.dtype is weight_NK.dtype is torch.float32 and x.dim() > 1 and not x.is_neg()
            and type(weight_NK) in (Tensor, nn.Parameter)
            and x.numel() * len(weight_NK) >= LEAST and torch.get_num_threads() == 1
            and not torch.is_autocast_enabled("cpu") and not torch._C._are_functorch_transforms_active())


class _Product(torch.autograd.Function):
    """x W^T, as `torch.nn.functional.linear` without a bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_NK: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight_NK)
        found = x.new_empty(*x.shape[:-1], len(weight_NK))  # no view of another tensor: it may be written to
        _product(x.flatten(0, -2), weight_NK.T, found.flatten(0, -2))
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight_NK = ctx.saved_tensors
        by_x, by_weight = ctx.needs_input_grad
        x_MK, gradient_MN = x.flatten(0, -2), gradient.flatten(0, -2)
        if torch.is_grad_enabled():  # a second derivative is wanted
            return gradient @ weight_NK, gradient_MN.T @ x_MK
        return (_product(gradient_MN, weight_NK).view(x.shape) if by_x else None,
                _product(gradient_MN.T, x_MK) if by_weight else None)


def _product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """a b of two matrices."""
    found = a.new_empty(a.shape[0], b.shape[1]) if out is None else out
    with np.errstate(all="ignore"):  # the training loop reports numbers that are not finite
        np.matmul(_plain(a), _plain(b), out=found.numpy())
    return found


def _plain(matrix: Tensor) -> NDArray[np.float32]:
    """Its numbers, by rows or by columns; older numpy multiplies matrices of other strides element by element."""
    dense = 1 in matrix.stride() and 0 not in matrix.stride()
    return (matrix if dense else matrix.contiguous()).detach().numpy()
