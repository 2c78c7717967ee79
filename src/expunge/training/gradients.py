"""Gradients of one optimizer step over its micro-batches, and a check that weights change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from expunge import processes
from expunge.data.encoder import Batch
from expunge.models.reference import Reference
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.seeding import derive
from expunge.training.schedule import share
from expunge.training.step import Role, Step, reduce_terms, totals, weighted_sum

if TYPE_CHECKING:
    from expunge.training.method import Method

Gradient = Sequence[Tensor]
"""One tensor per parameter of the scope, in its order. May be computed lazily during iteration."""
Tamper = Callable[[Step], None]
"""Called on a micro-batch before its terms are computed."""
Estimate = Callable[..., "Gradients"]
BOTH: tuple[Role, ...] = ("forget", "retain")


def inner(a: Gradient, b: Gradient) -> float:
    """<a, b> over all parameters together, summed in float64."""
    parts = [(x.float() * y.float()).sum(dtype=torch.float64) for x, y in zip(a, b, strict=True)]
    return float(torch.stack(parts).sum()) if parts else 0.0


class Oracle(Protocol):
    """Returns the forget gradient at the current weights."""

    def __call__(self, tamper: Tamper | None = None) -> Gradient: ...


@dataclass
class Gradients:
    """Gradients of one optimizer step, by role if computed separately."""

    forget: Gradient
    retain: Gradient
    together: Gradient
    values: dict[str, float]
    losses: dict[str, float]
    """Weighted loss of each role; one entry "both" if only the sum was computed."""
    nll: dict[str, float] = field(default_factory=dict)
    positions: int = 0
    """Positions that gradients were taken at, over all passes and processes; a pass forward alone counts a third."""

    def total(self) -> Gradient:
        return self.together or [f + r for f, r in zip(self.forget, self.retain, strict=True)]

    def note(self, named: Mapping[str, Tensor], losses: Mapping[Any, Tensor | None], step: Step,
             counts: Mapping[Any, int]) -> None:
        """Add one micro-batch to the logged values, with one device synchronisation."""
        sums = step.logp_sums()
        reached = {role or "both": value for role, value in losses.items() if value is not None}
        scalars = [*named.values(), *sums.values(), *reached.values()]
        figures = iter(torch.stack([s.detach() for s in scalars]).tolist() if scalars else [])
        for name in named:
            self.values[name] = self.values.get(name, 0.0) + next(figures)
        for side in sums:
            self.nll[side] = self.nll.get(side, 0.0) - next(figures) / counts[side, "tokens"]
        for role in reached:
            self.losses[role] = self.losses.get(role, 0.0) + next(figures)

    def add_up(self) -> None:
        """Sum the logged values over all processes."""
        self.values, self.losses, self.nll = processes.add_figures(self.values, self.losses, self.nll)

    def describe(self) -> dict[str, Any]:
        line: dict[str, Any] = {"loss": sum(self.losses.values()), "terms": self.values}
        line |= {f"{side}_nll": value for side, value in self.nll.items()}
        if self.forget:
            pairs = [(inner([f], [r]), inner([f], [f]), inner([r], [r]))
                     for f, r in zip(self.forget, self.retain, strict=True)]  # iterated once, see Gradient
            dot, *squares = (sum(column) for column in zip(*pairs, strict=True))
            norms = [square ** 0.5 for square in squares]
            line |= {"grad_norm_forget": norms[0], "grad_norm_retain": norms[1],
                     "cosine": dot / (norms[0] * norms[1]) if norms[0] * norms[1] > 0 else None}
        return line


def gradients(method: Method, subject: Subject, scope: Scope, reference: Reference | None,
              micro: Sequence[Mapping[str, Batch]], separate: bool, accelerator: Accelerator, *,
              only: Role | None = None, tamper: Tamper | None = None) -> Gradients:
    """Sum gradients over micro-batches and processes; every term is divided by its count over the whole step.

    Roles that read different sides are computed one after the other, so that the activations of one are freed before
    the other runs; except on an accelerator if their rows share a forward pass.

    Args:
        micro: micro-batches of the whole step; each of several processes computes its share.
        separate: one gradient per role instead of that of the summed loss.
        only: compute only the terms and gradient of this role.
        tamper: called on every micro-batch before its terms.
    """
    parameters = list(scope.parameters.values())
    counts = totals(micro)
    roles: tuple[Any, ...] = (only,) if only else BOTH if separate else (None,)
    one_by_one = _one_by_one(method, subject.device)
    turns: tuple[Role | None, ...] = (only,) if only else BOTH if one_by_one else (None,)
    sums: dict[Any, list[Tensor]] = {}
    total, asked = Gradients([], [], [], {}, {}), set[str]()
    subject.train()
    try:
        for batches, turn in product(share(micro, subject.encoder), turns):
            step = make_step(method, subject, reference, batches, tamper, share_pass=not one_by_one)
            with accelerator.autocast():
                terms = method.terms(step, turn)
                named = reduce_terms(terms, counts)
            asked |= {t.term.side for t in terms}
            losses = {role: weighted_sum(terms, named, role) for role in roles if turn is None or role in (turn, None)}
            _differentiate(losses, parameters, sums)
            total.note(named, losses, step, counts)
            del step, terms, named, losses  # logits too: the next turn needs the memory
    finally:
        subject.model.eval()
    for role_sums in sums.values():
        scope.mask(role_sums)
    zeros = {role: sums.get(role) or [torch.zeros_like(p) for p in parameters] for role in roles}
    processes.add([total for parts in zeros.values() for total in parts])
    total.add_up()
    total.positions = sum(counts[side, "positions"] for side in asked | total.nll.keys())
    total.forget, total.retain, total.together = (zeros.get(r, []) for r in ("forget", "retain", None))
    return total


def retain_loss(method: Method, subject: Subject, reference: Reference | None, accelerator: Accelerator,
                micro: Sequence[Mapping[str, Batch]]) -> float:
    """The weighted loss of the retain role at the current weights: evaluation mode, no gradient, all processes."""
    counts, losses = totals(micro), {"retain": 0.0}
    with subject.evaluating():
        for batches in share(micro, subject.encoder):
            step = make_step(method, subject, reference, batches, None, share_pass=False)
            with accelerator.autocast():
                terms = method.terms(step, "retain")
                loss = weighted_sum(terms, reduce_terms(terms, counts), "retain")
            losses["retain"] += 0.0 if loss is None else float(loss)
    return processes.add_figures(losses)[0]["retain"]


def perturbed(method: Method, scope: Scope, estimate: Estimate, step: int, total: int) -> Gradients:
    """Gradients of a step with perturbations: only the forget side is perturbed."""
    retain = estimate(only="retain")
    seen: list[Gradients] = []

    def plain(tamper: Tamper | None = None) -> Gradient:
        seen.append(estimate(only="forget", tamper=tamper))
        return seen[-1].forget

    forget = method.perturb(scope, plain, step, total)
    first = seen[0] if seen else retain
    return Gradients(forget, retain.retain, [], first.values | retain.values, first.losses | retain.losses,
                     first.nll | retain.nll, retain.positions + sum(one.positions for one in seen))


def _one_by_one(method: Method, device: torch.device) -> bool:
    """Whether roles are computed one after the other: always on a CPU, where a shared pass is not faster."""
    return method.disjoint and (device.type == "cpu" or not method.shared_pass)


def make_step(method: Method, subject: Subject, reference: Reference | None, batches: Mapping[str, Batch],
              tamper: Tamper | None, share_pass: bool = True) -> Step:
    """One micro-batch on the subject's device, after `tamper` if given.

    Args:
        share_pass: run the method's `shared_pass` sides in one forward pass.
    """
    on_device = {side: batch.to(subject.device) for side, batch in batches.items()}
    step = Step(subject, on_device, reference, method.shared_pass if share_pass and not tamper else ())
    if tamper:
        tamper(step)
    return step


def _differentiate(losses: Mapping[Any, Tensor | None], parameters: Sequence[Tensor],
                   sums: dict[Any, list[Tensor]]) -> None:
    """Add the gradient of the loss of every role to its sum."""
    pending = {role: value for role, value in losses.items() if value is not None and value.requires_grad}
    for left, (role, value) in zip(range(len(pending))[::-1], pending.items(), strict=True):
        parts = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=left > 0)
        if role not in sums:
            sums[role] = _owned(parameters, parts)
            continue
        for total, part in zip(sums[role], parts, strict=True):
            if part is not None:
                total += part


def _owned(parameters: Sequence[Tensor], parts: Sequence[Tensor | None]) -> list[Tensor]:
    """The first micro-batch's gradients as the initial sum; tensors that autograd returned twice are copied."""
    seen: set[int] = set()
    owned = []
    for parameter, part in zip(parameters, parts, strict=True):
        if part is None:
            owned.append(torch.zeros_like(parameter))
            continue
        whole = part.is_contiguous() and part.data_ptr() not in seen
        owned.append(part if whole else part.clone(memory_format=torch.contiguous_format))
        seen.add(part.data_ptr())
    return owned


def penalised(scope: Scope, update: Gradient) -> tuple[Gradient, dict[str, float]]:
    """The combined gradient with that of the scope's penalty, if it has one, and the penalty for the log."""
    penalty = scope.penalty()
    if penalty is None:
        return update, {}
    parts = torch.autograd.grad(penalty, list(scope.parameters.values()), allow_unused=True)
    return [g if part is None else g + part for g, part in zip(update, parts, strict=True)], {
        "penalty": float(penalty.detach())}


def apply(optimizer: torch.optim.Optimizer, scope: Scope, update: Gradient, scale: float) -> None:
    """One optimizer step. A lazily computed gradient is applied parameter by parameter, never stored as a whole."""
    whole = isinstance(update, list)
    for parameter, part in zip(scope.parameters.values(), update, strict=True):
        parameter.grad = part.mul_(scale)
        if not whole:
            optimizer.step()
            parameter.grad = None
    if whole:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)


class Movement:
    """Watches a few elements of every trainable tensor, to detect when no weight changes.

    Args:
        start: their values at the start of training, if it began earlier.
    """

    def __init__(self, scope: Scope, seed: int, start: Sequence[Tensor] = ()) -> None:
        generator = torch.Generator().manual_seed(derive(seed, "movement"))
        self._watched = [(p, torch.randint(p.numel(), (16,), generator=generator).to(p.device))
                         for p in scope.parameters.values()]
        self.start = list(start) or [self._read(p, i) for p, i in self._watched]

    @staticmethod
    def _read(parameter: Tensor, index: Tensor) -> Tensor:
        return parameter.detach().flatten()[index].clone()

    def mean(self) -> float:
        """Mean absolute change over mean absolute starting value."""
        moved = torch.cat([(self._read(p, i) - s).abs() for (p, i), s in zip(self._watched, self.start, strict=True)])
        return float(moved.mean() / (torch.cat(self.start).abs().mean() + 1e-12))
