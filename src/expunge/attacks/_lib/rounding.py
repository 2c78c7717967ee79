"""Rounding of weights to few bits, and the share of codes that a change leaves equal.

Legend: O outputs, I inputs of a matrix; G groups that share a scale, K weights of a group.
"""

from __future__ import annotations

import importlib
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from expunge.errors import UsageError, install_line

NF4_BLOCK = 64
_TAIL = 1 - (1 / 30 + 1 / 32) / 2
"""Probability below the outermost level: the mean over halves of 7 and 8 levels."""


def _nf4_levels() -> tuple[float, ...]:
    """Normal quantiles at even steps of probability, 8 of them up and 7 down, with an exact 0, within [-1, 1]."""
    def half(count: int) -> list[float]:
        return [NormalDist().inv_cdf(_TAIL + (0.5 - _TAIL) * i / count) for i in range(count)]

    up, down = half(8), half(7)
    return tuple(sorted([0.0, *(x / up[0] for x in up), *(-x / up[0] for x in down)]))


NF4 = _nf4_levels()


def default_group(bits: int) -> int:
    """Weights that share a scale: a whole row (0) from 8 bits on, 128 below."""
    return 0 if bits >= 8 else 128


def groups_of(weight_OI: Tensor, group: int) -> Tensor:
    """Rows cut into groups, float32, shape (G, K); 0 or a larger size means whole rows.

    The last group of a row may be shorter: it is padded with zeros, which change no scale.
    """
    inputs = weight_OI.shape[1]
    group = min(group, inputs) or inputs
    return F.pad(weight_OI.float(), (0, -inputs % group)).reshape(-1, group)


def ungrouped(value_GK: Tensor, like_OI: Tensor) -> Tensor:
    """Groups joined to rows again, without the padding, in the dtype of `like_OI`."""
    return value_GK.reshape(len(like_OI), -1)[:, : like_OI.shape[1]].to(like_OI.dtype)


def scales(weight_GK: Tensor, bits: int) -> Tensor:
    """s = max|w| / (2^(bits-1) - 1) of every group, shape (G, 1); 1 where all weights are zero."""
    scale_G1 = weight_GK.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    return torch.where(scale_G1 > 0, scale_G1, 1.0)


def codes(weight_OI: Tensor, bits: int, group: int = 0) -> Tensor:
    """The stored integers round(w / s), shape (O, I); ties go to the even one."""
    weight_GK = groups_of(weight_OI, group)
    return ungrouped((weight_GK / scales(weight_GK, bits)).round(), weight_OI.float()).to(torch.int32)


def round_to_nearest(weight_OI: Tensor, bits: int, group: int = 0) -> Tensor:
    """s * round(w / s): the weights rounded to `bits` bits, in their own dtype.

    Args:
        weight_OI: one row per output.
        bits: 2 to 15 round; 16 and more return the weights unchanged.
        group: weights of a row that share a scale; 0 is the whole row.
    """
    if bits >= 16:
        return weight_OI
    weight_GK = groups_of(weight_OI, group)
    scale_G1 = scales(weight_GK, bits)
    return ungrouped((weight_GK / scale_G1).round() * scale_G1, weight_OI)


def nf4(weight: Tensor, block: int = NF4_BLOCK) -> Tensor:
    """Every weight to the nearest of the 16 levels times the largest |w| of its block; any shape, in flat blocks."""
    blocks_GK = groups_of(weight.reshape(1, -1), block)
    largest_G1 = blocks_GK.abs().amax(1, keepdim=True)
    level = torch.tensor(NF4, device=weight.device)
    share_GK = blocks_GK / torch.where(largest_G1 > 0, largest_G1, 1.0)
    nearest_GK = level[torch.bucketize(share_GK, (level[1:] + level[:-1]) / 2)]
    return ungrouped(nearest_GK * largest_G1, weight.reshape(1, -1)).reshape(weight.shape)


def code_identity(before_OI: Tensor, after_OI: Tensor, bits: int, group: int = 0) -> float:
    """Share of weights with the same code before and after unlearning, each with its own scale; 1 without change."""
    return float((codes(before_OI, bits, group) == codes(after_OI, bits, group)).float().mean())


def torchao_rounded(weight_OI: Tensor, bits: int, group: int = 0) -> Tensor:
    """`round_to_nearest` by torchao: symmetric weight-only integers, one scale per group, dequantised.

    Its scale is max|w| / (2^(bits-1) - 1/2), so the largest positive weight of a group is clipped a little.

    Raises:
        UsageError: torchao is not installed, or has no integers of this bit width.
    """
    try:
        torchao: Any = importlib.import_module("torchao.quantization")
        config = torchao.IntxWeightOnlyConfig(weight_dtype=getattr(torch, f"int{bits}"), granularity=torchao.PerAxis(0))
    except (ImportError, OSError) as error:
        raise UsageError("quantise(backend='torchao') needs torchao.", f"{type(error).__name__}: {error}"[:200],
                         f"Install it with: {install_line('torchao')}; or use backend='own'.") from None
    except (AttributeError, ValueError, AssertionError) as error:
        raise UsageError(f"This torchao cannot round to {bits} bits.", f"{type(error).__name__}: {error}"[:200],
                         "Use 8, 4, 3 or 2 bits and a recent torchao, or backend='own'.") from None
    weight_GK = groups_of(weight_OI, group)
    layer = torch.nn.Linear(weight_GK.shape[1], len(weight_GK), bias=False, device="meta")
    layer.weight = torch.nn.Parameter(weight_GK, requires_grad=False)
    torchao.quantize_(layer, config)
    return ungrouped(layer.weight.dequantize(), weight_OI)
