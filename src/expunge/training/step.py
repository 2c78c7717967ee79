"""One micro-batch as methods see it, and the reduction of their terms to a loss.

Legend: B rows of one side, N supervised tokens (flat), T padded length, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from expunge.data.encoder import Batch, Count
from expunge.errors import ExpungeError
from expunge.models.answers import Answers
from expunge.models.reference import Reference
from expunge.models.sites import Site
from expunge.models.subject import AnySubject
from expunge.training.recomputing import without_checkpointing

Role = Literal["forget", "retain"]
Over = Count | Callable[[Batch], int]
"""Denominator of a mean: a named count, or a function that counts part of a batch."""


@dataclass(frozen=True)
class Term:
    """One named part of a loss: per-sample sums and their denominator.

    `over` counts supervised tokens, real positions or rows of `side`, or calls a function of a batch. It is
    summed over the whole optimizer step, not the micro-batch, so that 8 x 1 accumulation equals 1 x 8.
    """

    sum_B: Tensor
    over: Over
    side: str


class Step:
    """A read-only view of one micro-batch. Forward passes run once for any number of terms.

    Args:
        subject: the model being changed.
        batches: side ("forget", "retain", "refusal", ...) -> rows.
        reference: the original's outputs, if a term needs them.
        shared_pass: sides whose answers are computed in one forward pass.
    """

    def __init__(self, subject: AnySubject, batches: Mapping[str, Any], reference: Reference | None = None,
                 shared_pass: Iterable[str] = ()) -> None:
        self.subject = subject
        self.batches: dict[str, Any] = dict(batches)
        self._reference = reference
        self._shared_pass = tuple(s for s in shared_pass if s in self.batches)
        self._answers: dict[str, Answers] = {}
        self._hidden: dict[tuple[str, int], Tensor] = {}
        self._attention: dict[str, list[Tensor]] = {}
        self.during: dict[str, Callable[[], AbstractContextManager[object]]] = {}
        """Side -> context manager around its forward pass; see `inside`."""

    def inside(self, side: str, context: Callable[[], AbstractContextManager[object]]) -> None:
        """Run the side's forward pass inside `context` as well; used by perturbations of activations.

        Raises:
            UsageError: under gradient checkpointing, where blocks run again after the context has ended.
        """
        if self.subject.recomputes:
            raise without_checkpointing("A perturbation of activations")
        outer = self.during.get(side, nullcontext)

        @contextmanager
        def both() -> Iterator[None]:
            with outer(), context():
                yield

        self.during[side] = both

    def answers(self, side: str) -> Answers:
        """The current model's predictions on a side, with gradient."""
        if side not in self._answers:
            together = self._shared_pass if side in self._shared_pass else (side,)
            missing = {s: self.batches[s] for s in together if s not in self._answers}
            with self.during.get(side, nullcontext)():
                self._answers |= self.subject.answers_of(missing)
        return self._answers[side]

    def hidden(self, side: str, block: int) -> Tensor:
        """Output of a block on a side, with gradient, shape B T D; later blocks are not run."""
        if (side, block) not in self._hidden:
            with self.during.get(side, nullcontext)():
                self._hidden[side, block] = self.subject.hidden(self.batches[side], block)
        return self._hidden[side, block]

    def at(self, side: str, sites: Sequence[Site]) -> list[Tensor]:
        """Values at sites within blocks on a side, with gradient, shape B T ... each; not remembered."""
        with self.during.get(side, nullcontext)():
            found: list[Tensor] = self.subject.at(self.batches[side], sites)
        return found

    def attention(self, side: str) -> list[Tensor]:
        """Attention maps on a side, with gradient and without dropout: of each block that attends, shape B H T T."""
        if side not in self._attention:
            with self.during.get(side, nullcontext)():
                self._attention[side] = self.subject.attention(self.batches[side])
        return self._attention[side]

    def logp_sums(self) -> dict[str, Tensor]:
        """Summed answer log-prob of every side that a term used, for the log."""
        return {side: a.detached_logp().sum() for side, a in self._answers.items()}

    @property
    def reference(self) -> Reference:
        """The original; the card of a plug-in that uses it must name it in `needs`."""
        if self._reference is None:
            raise ExpungeError("This run has no reference model.", "A term uses one that its card does not name.")
        return self._reference


@dataclass(frozen=True)
class WeightedTerm:
    """A term with its logged name, its role and its coefficient."""

    name: str
    role: Role
    weight: float
    term: Term


class Totals(dict[tuple[str, Over], int]):
    """Denominators of one optimizer step: (side, over) -> count over all micro-batches, computed on access."""

    def __init__(self, micro: Sequence[Mapping[str, Batch]]) -> None:
        super().__init__()
        self._micro = micro

    def __missing__(self, key: tuple[str, Over]) -> int:
        side, over = key
        batches = [batches[side] for batches in self._micro if side in batches]
        self[key] = sum(over(b) if callable(over) else b.count(over) for b in batches)
        return self[key]


def totals(micro: Sequence[Mapping[str, Batch]]) -> Totals:
    """The denominators of an optimizer step over these micro-batches."""
    return Totals(micro)


def reduce_terms(terms: Sequence[WeightedTerm], counts: Mapping[tuple[str, Over], int]) -> dict[str, Tensor]:
    """Named scalars before their weights: sum over samples / global count (0 if the count is 0)."""
    return {t.name: t.term.sum_B.sum() / max(counts[t.term.side, t.term.over], 1) for t in terms}


def weighted_sum(terms: Sequence[WeightedTerm], values: Mapping[str, Tensor],
                 role: Role | None = None) -> Tensor | None:
    """The loss of one role, or of both; None if no term has that role."""
    parts = [t.weight * values[t.name] for t in terms if role in (None, t.role)]
    return torch.stack(parts).sum() if parts else None
