"""Which parameters may move, enforced on the update rather than hoped for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from expunge.models.subject import Subject


@dataclass
class Scope:
    """Names of the parameters that may move, and masks for those of which only some elements may.

    Args:
        subject: the model; every other parameter is frozen here and now.
        names: full parameter names.
        masks: name -> bool tensor of the parameter's shape, True where it may move.
        adapter: whether the names belong to an adapter that can be switched off.
    """

    subject: Subject
    names: tuple[str, ...]
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    adapter: bool = False

    def __post_init__(self) -> None:
        chosen = set(self.names)
        for name, parameter in self.subject.model.named_parameters():
            parameter.requires_grad_(name in chosen)
        named = dict(self.subject.model.named_parameters())
        self.parameters: dict[str, nn.Parameter] = {n: named[n] for n in self.names}
        # Weight decay moves an element whose gradient is zero, so masked elements are put back.
        self._before = {n: self.parameters[n].detach().clone() for n in self.masks}

    def norms_and_biases(self) -> set[str]:
        """Names of those parameters that are biases or belong to a normalisation layer."""
        owners = dict(self.subject.model.named_modules())
        return {name for name in self.names if "bias" in name
                or "norm" in type(owners[name.rpartition(".")[0]]).__name__.lower()}

    @torch.no_grad()
    def enforce(self) -> None:
        """Put every element outside its mask back to its bits of the start."""
        for name, mask in self.masks.items():
            parameter = self.parameters[name]
            parameter.copy_(torch.where(mask, parameter, self._before[name]))

    @torch.no_grad()
    def mask(self, parts: Sequence[Tensor]) -> None:
        """Zero the elements of a gradient that may not move, in place: lengths and products are of what moves."""
        for name, part in zip(self.parameters, parts, strict=True):
            if name in self.masks:
                part.mul_(self.masks[name])

    def penalty(self) -> Tensor | None:
        """A loss on these parameters alone, with gradient, which the loop adds; None where there is none."""
        return None

    @contextmanager
    def shifted(self, shift: Iterable[Tensor], scale: float = 1.0) -> Iterator[None]:
        """Parameters moved by scale * shift (masked elements stay); the very bits come back on the way out."""
        kept = {n: p.detach().clone() for n, p in self.parameters.items()}
        try:
            with torch.no_grad():
                for (name, parameter), part in zip(self.parameters.items(), shift, strict=True):
                    parameter.add_(part.where(self.masks[name], 0.0) if name in self.masks else part, alpha=scale)
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(kept[name])

    def counts(self) -> dict[str, int]:
        """total and trainable numbers of elements."""
        total = sum(p.numel() for p in self.subject.model.parameters())
        free = sum(int(self.masks[n].sum()) if n in self.masks else p.numel()
                   for n, p in self.parameters.items())
        return {"total": total, "trainable": free}
