"""The original's outputs, served without a second model wherever possible.

Kinds, cheapest first: cached per-token log-probs (when nothing else is asked), cached log-probs of the
likeliest tokens, the adapter switched off (LoRA), cached final states under a copy of the output head
(whole distributions), a frozen copy (hidden states, attention maps). Every kind carries a checksum taken at the start;
`verify` proves that the reference never moved.

Legend: N supervised tokens (flat), K likeliest tokens, V vocabulary, D hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from expunge.data.encoder import Batch, Row
from expunge.errors import ExpungeError
from expunge.models.answers import Answers
from expunge.models.head import LazyLogits, LogitSource, blocks, raised
from expunge.models.sites import Site
from expunge.models.subject import AnySubject, Subject, checksum


class Reference(Protocol):
    """What a method may ask of the original. Nothing returned carries a gradient."""

    kind: str
    checksum: str
    notes: Mapping[str, str]
    """What else a record should say of it."""

    def logp(self, batch: Batch) -> Tensor:
        """log p0 of every supervised token, shape N."""

    def answers(self, batch: Batch) -> Answers:
        """Full distributions at the supervised positions."""

    def likeliest(self, batch: Batch, count: int) -> Likeliest:
        """Those distributions over the `count` likeliest tokens and the sum of the rest."""

    def hidden(self, batch: Batch, block: int) -> Tensor:
        """Output of a decoder block, shape B T D."""

    def at(self, batch: Batch, sites: Sequence[Site]) -> list[Tensor]:
        """Values at other sites within blocks, such as MLP outputs; shape B T ... each."""

    def attention(self, batch: Batch) -> list[Tensor]:
        """Attention maps of every block that attends, shape B H T T each."""

    def current_checksum(self) -> str:
        """Taken again now."""


@dataclass(frozen=True, eq=False)
class Likeliest:
    """Log-probs of the likeliest tokens, and of all others together (-inf where there are none)."""

    ids_NK: Tensor
    logp_NK: Tensor
    rest_N: Tensor

    @classmethod
    def of(cls, source: LogitSource, count: int) -> Likeliest:
        parts = []
        for logits_NV in blocks(source):
            logp_NV = raised(logits_NV).log_softmax(-1)
            logp_NK, ids_NK = logp_NV.topk(min(count, logp_NV.shape[-1]))
            parts.append((ids_NK, logp_NK, without(logp_NV, ids_NK)))
        return cls(*(torch.cat(column) for column in zip(*parts, strict=True)))


def without(logp_NV: Tensor, ids_NK: Tensor) -> Tensor:
    """Log-probability of all tokens but these together, shape N."""
    if ids_NK.shape[-1] == logp_NV.shape[-1]:
        return logp_NV.new_full((len(logp_NV),), -torch.inf)
    return logp_NV.scatter(1, ids_NK, -torch.inf).logsumexp(-1)


ROOM = 1 << 28
"""Bytes that cached states may take even where a second model would be smaller."""


class _Original:
    """What follows from whole distributions; what a kind cannot give is refused."""

    kind: str
    notes: Mapping[str, str] = {}

    def logp(self, batch: Batch) -> Tensor:
        return self.answers(batch).logp_N

    def answers(self, batch: Batch) -> Answers:
        raise self._lacks("full distributions")

    def likeliest(self, batch: Batch, count: int) -> Likeliest:
        return Likeliest.of(self.answers(batch).source, count)

    def hidden(self, batch: Batch, block: int) -> Tensor:
        raise self._lacks("hidden states of blocks")

    def at(self, batch: Batch, sites: Sequence[Site]) -> list[Tensor]:
        raise self._lacks("values inside blocks")

    def attention(self, batch: Batch) -> list[Tensor]:
        raise self._lacks("attention maps")

    def _lacks(self, what: str) -> ExpungeError:
        return ExpungeError(f"{self.kind.capitalize()} hold no {what}.", "The plan chose too small a reference.")


class CachedLogProbs(_Original):
    """Per-token log-probs of every row a run will ask for, computed once before the first step."""

    kind = "cached log-probs"

    def __init__(self, subject: Subject, rows: Iterable[Row],
                 progress: Callable[[int], None] | None = None) -> None:
        self._logp = _of_each(subject, rows, lambda batch: subject.answers(batch).logp_N, progress)
        self.checksum = self.current_checksum()

    def logp(self, batch: Batch) -> Tensor:
        return _joined(self._logp, batch)

    def current_checksum(self) -> str:
        return checksum(self._logp)


class CachedLikeliest(_Original):
    """Per-token log-probs of every row; of the `wide` ones those of the likeliest tokens and of all others as one."""

    kind = "cached likeliest tokens"

    def __init__(self, subject: Subject, rows: Iterable[Row], count: int, wide: Iterable[Row],
                 progress: Callable[[int], None] | None = None) -> None:
        self._count = count
        self._kept = _of_each(subject, wide, lambda batch: _told_apart(subject.answers(batch), count), progress)
        others = [row for row in rows if row.key not in self._kept]
        self._logp = {key: kept[:, -1] for key, kept in self._kept.items()} | _of_each(
            subject, others, lambda batch: subject.answers(batch).logp_N, progress)
        self.checksum = self.current_checksum()
        rest_N = torch.cat([kept[:, -2] for kept in self._kept.values()] or [torch.zeros(0)]).exp()
        if len(rest_N):
            self.notes = {"others": f"{rest_N.mean():.2g} of 1 on average, {rest_N.max():.2g} at most"}

    def logp(self, batch: Batch) -> Tensor:
        return _joined(self._logp, batch)

    def likeliest(self, batch: Batch, count: int) -> Likeliest:
        if count != self._count:
            raise ExpungeError(f"The {self._count} likeliest tokens were kept, and {count} are asked for.",
                               "Terms of one stage have to agree on how many.")
        kept = _joined(self._kept, batch)
        most = kept.shape[1] // 2 - 1
        return Likeliest(kept[:, :most].long(), kept[:, most: -2], kept[:, -2])

    def current_checksum(self) -> str:
        return checksum({f"likeliest {key}": kept for key, kept in self._kept.items()} | self._logp)


def _told_apart(answers: Answers, count: int) -> Tensor:
    """Ids and log-probs of the likeliest tokens, log-prob of the others, and of the token itself: shape N 2K+2."""
    top = Likeliest.of(answers.source, count)
    ids_NK = top.ids_NK.to(top.logp_NK.dtype)  # exact up to a vocabulary of 2^24
    return torch.cat([ids_NK, top.logp_NK, top.rest_N[:, None], answers.detached_logp()[:, None]], 1)


class CachedStates(_Original):
    """What the output head was given at every supervised position of every row a run will ask for, and the head.

    The same distributions as a second model would give, at the price of its last layer alone.
    """

    kind = "cached states"

    def __init__(self, subject: Subject, rows: Iterable[Row],
                 progress: Callable[[int], None] | None = None) -> None:
        head = subject.model.get_output_embeddings()
        self._head = {name: value.detach().clone() for name, value in head.named_parameters()}
        self._states = _of_each(subject, rows, lambda batch: _states(subject, batch), progress)
        self.checksum = self.current_checksum()

    def answers(self, batch: Batch) -> Answers:
        states_ND = _joined(self._states, batch)
        return Answers(batch, LazyLogits.from_states(states_ND, self._head["weight"], self._head.get("bias"),
                                                     requires_grad=False))

    def current_checksum(self) -> str:
        return checksum(self._states | self._head)

    @staticmethod
    def fits(subject: Subject, rows: Sequence[Row]) -> bool:
        """Whether the states are smaller than a second model, and the head alone makes logits of them."""
        tokens = sum(r.supervised for r in {row.key: row for row in rows}.values())
        size = tokens * subject.width * next(subject.model.parameters()).element_size()
        if not tokens or size > max(ROOM, subject.model.get_memory_footprint()):
            return False
        with subject.evaluating():
            answers = subject.answers(subject.collate(rows[:1]))
            return isinstance(answers.source, LazyLogits)


def _states(subject: Subject, batch: Batch) -> Tensor:
    source = subject.answers(batch).source
    assert isinstance(source, LazyLogits), "asked of a model that `fits`"
    return source.states_ND


def _of_each(subject: Subject, rows: Iterable[Row], values: Callable[[Batch], Tensor],
             progress: Callable[[int], None] | None) -> dict[str, Tensor]:
    """What `values` gives for the supervised tokens of every distinct row, by the row's content."""
    unique, found = list({row.key: row for row in rows}.values()), {}
    with subject.evaluating():
        for few in subject.encoder.batches(unique):
            chosen = [unique[i] for i in few]
            batch = subject.collate(chosen)
            parts = values(batch).split([r.supervised for r in chosen])
            found.update({row.key: part.clone() for row, part in zip(chosen, parts, strict=True)})
            if progress:
                progress(len(chosen))
    return found


def _joined(kept: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """What was kept of every supervised token of a batch, which may have no row."""
    nothing = next(iter(kept.values()))[:0]
    return torch.cat([nothing, *(kept[row.key] for row in batch.rows)])


class LiveReference(_Original):
    """The original weights run again: the base under a switched-off adapter, or a frozen copy."""

    def __init__(self, subject: Subject, *, adapter: bool, apart: bool = False) -> None:
        self.kind = "adapter off" if adapter else "frozen copy"
        self._adapter = adapter
        model = subject.model if adapter or apart else copy.deepcopy(subject.model)
        self._subject: AnySubject = subject if adapter else subject.around(model.requires_grad_(False))
        self.checksum = self.current_checksum()

    def _asking(self) -> AbstractContextManager[object]:
        return self._subject.model.disable_adapter() if self._adapter else nullcontext()

    def answers(self, batch: Batch) -> Answers:
        with self._subject.evaluating(), self._asking():
            return self._subject.answers_of({"": batch})[""]

    def hidden(self, batch: Batch, block: int) -> Tensor:
        with self._subject.evaluating(), self._asking():
            return self._subject.hidden(batch, block)

    def at(self, batch: Batch, sites: Sequence[Site]) -> list[Tensor]:
        with self._subject.evaluating(), self._asking():
            found: list[Tensor] = self._subject.at(batch, sites)
        return found

    def attention(self, batch: Batch) -> list[Tensor]:
        with self._subject.evaluating(), self._asking():
            found: list[Tensor] = self._subject.attention(batch)
        return found

    def current_checksum(self) -> str:
        frozen = {k: p for k, p in self._subject.model.named_parameters() if not p.requires_grad}
        return checksum(frozen)


ReferenceKind = Literal["none needed", "cached log-probs", "cached likeliest tokens",
                        "cached states, or a frozen copy where they are larger", "adapter off", "frozen copy"]
"""How the original's outputs are served, in words that a plan and a page can print."""


def choose_reference(needs: Collection[str], *, adapter: bool, live: bool = False) -> ReferenceKind:
    """The cheapest kind that serves `needs` (reference.logp, .likeliest, .logits, .hidden, .attention).

    Args:
        adapter: whether what is trained is an adapter, which can be switched off.
        live: whether rows are made during training, which no cache can hold.
    """
    wanted = {need for need in needs if need.startswith("reference.")}
    if not wanted:
        return "none needed"
    if live:
        return "adapter off" if adapter else "frozen copy"
    if wanted == {"reference.logp"}:
        return "cached log-probs"
    if wanted <= {"reference.logp", "reference.likeliest"}:
        return "cached likeliest tokens"
    if adapter:
        return "adapter off"
    inside = wanted & {"reference.hidden", "reference.attention"}
    return "frozen copy" if inside else "cached states, or a frozen copy where they are larger"


def build_reference(subject: Subject, kind: ReferenceKind, rows: Sequence[Row], *,
                    likeliest: tuple[int, Sequence[Row]] = (0, ()), apart: bool = False,
                    progress: Callable[[int], None] | None = None) -> Reference | None:
    """The reference of a kind that `choose_reference` chose; None when none is needed.

    Args:
        apart: whether `subject` is another model than the one that is trained, so that no copy is needed.
        rows: all that will be asked about, for kinds that keep what the original says.
        likeliest: how many of the likeliest tokens reference.likeliest keeps, and in which rows.
    """
    if kind == "none needed":
        return None
    if kind == "cached log-probs":
        return CachedLogProbs(subject, rows, progress)
    if kind == "cached likeliest tokens":
        return CachedLikeliest(subject, rows, *likeliest, progress)
    if kind.startswith("cached states") and CachedStates.fits(subject, rows):
        return CachedStates(subject, rows, progress)
    return LiveReference(subject, adapter=kind == "adapter off", apart=apart)


def verify(reference: Reference | None) -> dict[str, str]:
    """Kind and checksum for the record. Raises when the reference moved: no number would hold."""
    if reference is None:
        return {}
    now = reference.current_checksum()
    if now != reference.checksum:
        raise ExpungeError("The reference model changed during the run.",
                           f"Checksum {reference.checksum} became {now}; a plug-in wrote to frozen weights.")
    return {"kind": reference.kind, "checksum": now, **reference.notes}
