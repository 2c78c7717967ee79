"""What the weights changed by over a window of optimizer steps, and which entries of it stay.

Legend: M entries that may change (flat).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from expunge.models.scope import Scope
from expunge.plugin import Plugin, Spec
from expunge.seeding import derive

Mode = Literal["keep_top", "drop_top", "random"]
Over = Literal["tensor", "model"]
Moments = Literal["keep", "drop", "reset"]


def staying(change_M: Tensor, share: float, mode: Mode, seed: int = 0) -> Tensor:
    """Mask of the round(share * M) entries that stay: the largest by size, all but the largest, or random ones.

    Returns:
        Bool, shape M. Of equal entries any may stay; the number of entries is exact.
    """
    count = round(share * change_M.numel())
    if mode == "random":
        size_M = torch.rand(change_M.shape, generator=torch.Generator().manual_seed(seed)).to(change_M.device)
    else:
        size_M = change_M.detach().abs().float()
    top = count if mode != "drop_top" else change_M.numel() - count
    chosen_M = torch.zeros_like(change_M, dtype=torch.bool)
    chosen_M[size_M.topk(top, sorted=False).indices] = True
    return ~chosen_M if mode == "drop_top" else chosen_M


def staying_over(changes: Sequence[Tensor], share: float, mode: Mode, over: Over, seed: int = 0) -> list[Tensor]:
    """The same of several flat changes: of each by itself, or of all together."""
    if over == "tensor":
        return [staying(change_M, share, mode, derive(seed, i)) for i, change_M in enumerate(changes)]
    sizes = [change_M.numel() for change_M in changes]
    return list(staying(torch.cat([c.float() for c in changes]), share, mode, seed).split(sizes))


class TrimSpec(Spec):
    """Options of every trim."""

    window: int = Field(20, ge=1, description="Optimizer steps of a window; the last one may be shorter.")
    over: Over = Field("tensor", description="Whether entries are ranked within their tensor or over the model.")
    moments: Moments = Field("keep", description="Moments of the optimizer at the end of a window: kept, dropped where "
                                                 "the change is, or reset to 0.")


class Trim(Plugin):
    """Decides which entries of a change stay; at the end of every window the others go back to where they were."""

    @property
    def window(self) -> int:
        """Optimizer steps of a window; the last one may be shorter."""
        return int(self.spec.window)

    @property
    def idle(self) -> bool:
        """Whether everything stays: then the run equals the run without it, bit for bit."""
        return False

    def stays(self, changes: Sequence[Tensor], seed: int) -> list[Tensor]:
        """Flat bool masks of flat changes, which hold the entries that the scope lets move."""
        raise NotImplementedError


class Window:
    """Applies a trim to the weights of a scope, window by window."""

    def __init__(self, trim: Trim) -> None:
        self.trim = trim
        self.start: dict[str, Tensor] = {}
        """Weights at the start of the window; empty between two windows."""
        self._figures: dict[str, float] = {}

    def open(self, scope: Scope) -> None:
        """Keep the weights, if none are kept."""
        self.start = self.start or {name: p.detach().clone() for name, p in scope.parameters.items()}

    @torch.no_grad()
    def close(self, scope: Scope, optimizer: torch.optim.Optimizer, seed: int) -> None:
        """Put what does not stay back to its very bits, and treat the optimizer's moments as the trim says."""
        free = {name: scope.masks.get(name, torch.ones_like(p, dtype=torch.bool))
                for name, p in scope.parameters.items()}
        before = {name: self.start[name].to(p.device) for name, p in scope.parameters.items()}
        changes = [(p - before[name])[free[name]] for name, p in scope.parameters.items()]
        kept = self.trim.stays(changes, seed)
        sizes = [sum(float(c.float().square().sum()) for c in part)
                 for part in (changes, [c[k] for c, k in zip(changes, kept, strict=True)])]
        self._figures = {"trim_share": sum(int(k.sum()) for k in kept) / max(sum(k.numel() for k in kept), 1),
                         "trim_norm_share": (sizes[1] / sizes[0]) ** 0.5 if sizes[0] > 0 else 1.0}
        for (name, parameter), stays_M in zip(scope.parameters.items(), kept, strict=True):
            stays = torch.zeros_like(free[name]).masked_scatter_(free[name], stays_M)
            parameter.copy_(torch.where(stays, parameter, before[name]))
            for value in optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor) and value.shape == parameter.shape and self.trim.spec.moments != "keep":
                    value.mul_(stays if self.trim.spec.moments == "drop" else 0)
        self.start = {}

    def figures(self) -> dict[str, float]:
        """Share of the entries that stayed, and the length of what stayed over that of the whole change."""
        found, self._figures = self._figures, {}
        return found
