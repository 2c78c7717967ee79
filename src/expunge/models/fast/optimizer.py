"""`fused_adamw`: whether PyTorch's fused kernel may update these weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from expunge.models import fast


def may_fuse(parameters: Iterable[torch.nn.Parameter | dict[str, Any]]) -> bool:
    """The trick is on, and all weights, given one by one or in groups, are floating point numbers on a device that has
    the kernel."""
    every = [p for part in parameters for p in (part["params"] if isinstance(part, dict) else (part,))]
    return fast.enabled("fused_adamw") and all(
        p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in every)
