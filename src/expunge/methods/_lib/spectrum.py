"""Surgery on the spectrum of a gradient matrix: what most rows share is shrunk, what is special stays.

Source: RepSelect (arXiv 2606.17168) and its code. Legend: O outputs, I inputs, K components.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Sides = Literal["both", "input", "output"]
EXACT = 2048
"""Smaller side up to which the decomposition is exact; above it, randomised with two power iterations."""


def collapsed(gradient_OI: Tensor, components: int, sides: Sides = "both") -> Tensor:
    """The gradient with its first `components` singular directions divided by s_i / s_K, on one side or on both.

    On one side s_1..s_K become s_K; on both they become s_K^2 / s_i, so that the top of the spectrum is inverted. A
    stack of matrices (three dimensions) is treated one by one. 0 components change nothing.

    Shape O I, or a stack of them, in the precision given; random numbers of the randomised decomposition are torch's.
    """
    least = min(gradient_OI.shape[-2:])
    count = min(components, least)
    if count == 0:
        return gradient_OI
    if least <= EXACT:
        left, scale, right = torch.linalg.svd(gradient_OI, full_matrices=False)
        left_OK, scale_K, right_IK = left[..., :count], scale[..., :count], right[..., :count, :].mT
    else:
        left_OK, scale_K, right_IK = torch.svd_lowrank(gradient_OI, q=count, niter=2)
    # What is taken away of direction i: all but s_K / s_i. Directions of no length are left alone.
    last = scale_K[..., -1:]
    lost_K = 1 - torch.where(scale_K > 0, last / scale_K, 1.0)
    found = gradient_OI
    if sides in ("both", "input"):
        found = found - (found @ right_IK * lost_K[..., None, :]) @ right_IK.mT
    if sides in ("both", "output"):
        found = found - left_OK @ (lost_K[..., :, None] * (left_OK.mT @ found))
    return found
