"""Gradients of one optimizer step over its micro-batches, and whether the weights move at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch import Tensor

from expunge.data.tokens import TokenBatch
from expunge.models.reference import Reference
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.seeding import derive
from expunge.training.step import Step, reduce_terms, totals, weighted_sum

if TYPE_CHECKING:
    from expunge.training.loop import Method

Gradient = list[Tensor]


@dataclass
class Gradients:
    """Gradients of one optimizer step, by role when they were asked for apart."""

    forget: Gradient
    retain: Gradient
    together: Gradient
    values: dict[str, float]
    loss: float
    nll: dict[str, float]

    def total(self) -> Gradient:
        return self.together or [f + r for f, r in zip(self.forget, self.retain, strict=True)]

    def describe(self) -> dict[str, Any]:
        found: dict[str, Any] = {"loss": self.loss, "terms": self.values}
        found |= {f"{side}_nll": value for side, value in self.nll.items()}
        if self.forget:
            dot = sum(float((f * r).sum()) for f, r in zip(self.forget, self.retain, strict=True))
            norms = [float(torch.stack([g.norm() for g in side]).norm()) for side in (self.forget, self.retain)]
            found |= {"grad_norm_forget": norms[0], "grad_norm_retain": norms[1],
                      "cosine": dot / (norms[0] * norms[1]) if norms[0] * norms[1] > 0 else None}
        return found


def gradients(method: Method, subject: Subject, scope: Scope, reference: Reference | None,
               micro: Sequence[Mapping[str, TokenBatch]], separate: bool, accelerator: Accelerator) -> Gradients:
    """Sum gradients over micro-batches; every term is divided by its count over the whole step."""
    parameters = list(scope.parameters.values())
    counts = totals(micro)
    roles: tuple[Any, ...] = ("forget", "retain") if separate else (None,)
    sums: dict[Any, Gradient] = {}
    values: dict[str, float] = {}
    nll: dict[str, float] = {}
    loss = 0.0
    subject.model.train()
    try:
        for batches in micro:
            on_device = {side: batch.to(subject.device) for side, batch in batches.items()}
            step = Step(subject, on_device, reference, method.joint)
            with accelerator.autocast():
                terms = method.terms(step)
                named = reduce_terms(terms, counts)
            losses = {role: weighted_sum(terms, named, role) for role in roles}
            pending = [role for role, value in losses.items() if value is not None and value.requires_grad]
            for role in pending:
                value = losses[role]
                assert value is not None
                parts = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=role != pending[-1])
                if role not in sums:  # the first micro-batch's gradients are the sum so far: no second buffer
                    sums[role] = [torch.zeros_like(p) if g is None else g.contiguous()
                                  for p, g in zip(parameters, parts, strict=True)]
                    continue
                for total, part in zip(sums[role], parts, strict=True):
                    if part is not None:
                        total += part
            for name, scalar in named.items():
                values[name] = values.get(name, 0.0) + scalar.item()
            for side, total_logp in step.logp_sums().items():
                nll[side] = nll.get(side, 0.0) - total_logp / counts[side, "tokens"]
            loss += sum(v.item() for v in losses.values() if v is not None)
    finally:
        subject.model.eval()
    for role in roles:
        sums.setdefault(role, [torch.zeros_like(p) for p in parameters])
    return Gradients(sums.get("forget", []), sums.get("retain", []), sums.get(None, []), values, loss, nll)


class Movement:
    """Watches a few thousand trainable elements, to notice when nothing moves."""

    def __init__(self, scope: Scope, seed: int) -> None:
        generator = torch.Generator().manual_seed(derive(seed, "movement"))
        self._watched = [(p, torch.randint(p.numel(), (256,), generator=generator).to(p.device))
                         for p in list(scope.parameters.values())[:64]]
        self._start = [self._read(p, i) for p, i in self._watched]

    @staticmethod
    def _read(parameter: Tensor, index: Tensor) -> Tensor:
        return parameter.detach().flatten()[index].clone()

    def mean(self) -> float:
        """Mean absolute movement over mean absolute starting value."""
        moved = torch.cat([(self._read(p, i) - s).abs() for (p, i), s in zip(self._watched, self._start, strict=True)])
        return float(moved.mean() / (torch.cat(self._start).abs().mean() + 1e-12))
