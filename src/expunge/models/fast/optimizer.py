"""`fused_adamw`: whether PyTorch's fused kernel may update these weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from expunge.models import fast


def may_fuse(parameters: Iterable[torch.nn.Parameter]) -> bool:
    """The trick is on, and all weights are floating point numbers on a device that has the kernel."""
    return fast.enabled("fused_adamw") and all(
        p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
