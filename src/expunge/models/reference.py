"""The original's outputs, served without a second model wherever possible.

Kinds, cheapest first: cached per-token log-probs (when nothing else is asked), the adapter switched
off (LoRA), a frozen copy (full fine-tuning that needs whole distributions or hidden states). Every
kind carries a checksum taken at the start; `verify` proves that the reference never moved.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor

from expunge.data.tokens import TokenBatch, TokenRow, collate
from expunge.errors import ExpungeError
from expunge.models.subject import Answers, Subject, checksum


class Reference(Protocol):
    """What a method may ask of the original. Nothing returned carries a gradient."""

    kind: str
    checksum: str

    def logp(self, batch: TokenBatch) -> Tensor:
        """log p0 of every supervised token, shape N."""

    def answers(self, batch: TokenBatch) -> Answers:
        """Full distributions at the supervised positions."""

    def hidden(self, batch: TokenBatch, block: int) -> Tensor:
        """Output of a decoder block, shape B T D."""

    def current_checksum(self) -> str:
        """Taken again now."""


class CachedLogProbs:
    """Per-token log-probs of every row a run will ask for, computed once before the first step."""

    kind = "cached log-probs"

    def __init__(self, subject: Subject, rows: Iterable[TokenRow], batch_size: int = 32,
                 progress: Callable[[int], None] | None = None) -> None:
        unique = {row.key: row for row in rows}
        ordered = sorted(unique.values(), key=lambda r: len(r.ids))
        self._logp: dict[str, Tensor] = {}
        with subject.evaluating():
            for start in range(0, len(ordered), batch_size):
                chosen = ordered[start: start + batch_size]
                batch = collate(chosen, subject.tokens.pad_id, subject.device)
                parts = subject.answers(batch).logp_N.split([r.answer + r.end for r in chosen])
                self._logp |= {row.key: part.clone() for row, part in zip(chosen, parts, strict=True)}
                if progress:
                    progress(len(chosen))
        self.checksum = self.current_checksum()

    def logp(self, batch: TokenBatch) -> Tensor:
        return torch.cat([self._logp[row.key] for row in batch.rows])

    def answers(self, batch: TokenBatch) -> Answers:
        raise ExpungeError("Cached log-probs hold no full distributions.", "The plan chose too small a reference.")

    def hidden(self, batch: TokenBatch, block: int) -> Tensor:
        raise ExpungeError("Cached log-probs hold no hidden states.", "The plan chose too small a reference.")

    def current_checksum(self) -> str:
        return checksum(self._logp)


class LiveReference:
    """The original weights run again: the base under a switched-off adapter, or a frozen copy."""

    def __init__(self, subject: Subject, *, adapter: bool) -> None:
        self.kind = "adapter off" if adapter else "frozen copy"
        self._adapter = adapter
        self._subject = subject if adapter else Subject(
            copy.deepcopy(subject.model).requires_grad_(False), subject.tokens, subject.path
        )
        self.checksum = self.current_checksum()

    def _asking(self) -> AbstractContextManager[object]:
        return self._subject.model.disable_adapter() if self._adapter else nullcontext()

    def logp(self, batch: TokenBatch) -> Tensor:
        return self.answers(batch).logp_N

    def answers(self, batch: TokenBatch) -> Answers:
        with self._subject.evaluating(), self._asking():
            return self._subject.answers(batch)

    def hidden(self, batch: TokenBatch, block: int) -> Tensor:
        with self._subject.evaluating(), self._asking():
            return self._subject.hidden(batch, block)

    def current_checksum(self) -> str:
        frozen = {k: p for k, p in self._subject.model.named_parameters() if not p.requires_grad}
        return checksum(frozen)


def build_reference(subject: Subject, needs: frozenset[str], rows: Sequence[TokenRow], *, adapter: bool,
                    progress: Callable[[int], None] | None = None) -> Reference | None:
    """The cheapest reference that serves `needs` (reference.logp, .logits, .hidden); None if none."""
    wanted = {n for n in needs if n.startswith("reference.")}
    if not wanted:
        return None
    if wanted == {"reference.logp"}:
        return CachedLogProbs(subject, rows, progress=progress)
    return LiveReference(subject, adapter=adapter)


def verify(reference: Reference | None) -> dict[str, str]:
    """Kind and checksum for the record. Raises when the reference moved: no number would hold."""
    if reference is None:
        return {}
    now = reference.current_checksum()
    if now != reference.checksum:
        raise ExpungeError("The reference model changed during the run.",
                           f"Checksum {reference.checksum} became {now}; a plug-in wrote to frozen weights.")
    return {"kind": reference.kind, "checksum": now}
