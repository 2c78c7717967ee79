"""Greedy coordinate gradient: one token of a suffix swapped per step; the suffix must survive tokenisation of its text.

Legend: B rows, D hidden size, V vocabulary, A allowed ids, L positions of the suffix, K best tokens per position,
C candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import torch
from torch import Tensor

from expunge.attacks._lib.search import embedding_gradients, height, row_losses, supervised, table
from expunge.data.text_encoder import TokenRow
from expunge.errors import UsageError
from expunge.models.language import CausalLM
from expunge.models.prompt_words import reworded
from expunge.records.task import Example
from expunge.seeding import derive, stream

ANCHOR = "a"
"""Text before a suffix when it is tokenised again, so that its first token is not at the start of a text."""


@dataclass(frozen=True)
class SuffixResult:
    """The suffix as text and as tokens."""

    text: str
    ids: tuple[int, ...]
    losses: list[float] = field(default_factory=list)
    """Mean loss per answer token at the start and after each accepted step."""


class SuffixCodec:
    """Suffixes as text and back; those that the tokenizer reads differently cannot be used."""

    def __init__(self, subject: CausalLM) -> None:
        self.processor = subject.encoder.processor
        self.lead = len(self._encode([ANCHOR])[0])
        banned = set(self.processor.all_special_ids)
        banned |= {i for i, token in getattr(self.processor, "added_tokens_decoder", {}).items() if token.special}
        size = min(len(self.processor), height(subject))
        self.allowed = [i for i in range(size) if i not in banned]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return list(self.processor(texts, add_special_tokens=False)["input_ids"])

    def text(self, ids: Sequence[int]) -> str:
        decoded = self.processor.decode(list(ids), clean_up_tokenization_spaces=False)
        return " " + str(decoded).removeprefix(" ")

    def stable(self, suffixes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """The suffixes whose text is tokenised to the same tokens."""
        back = self._encode([ANCHOR + self.text(s) for s in suffixes]) if suffixes else []
        return [s for s, ids in zip(suffixes, back, strict=True) if tuple(ids[self.lead:]) == s]

    def draw(self, length: int, seed: int) -> tuple[int, ...]:
        """A random suffix whose text is tokenised to the same tokens."""
        random, ids = stream(seed, "suffix"), tuple[int, ...]()
        while len(ids) < length:
            candidates = [(*ids, token) for token in random.sample(self.allowed, min(64, len(self.allowed)))]
            kept = self.stable(candidates) or self.stable([(*ids, token) for token in self.allowed])
            if not kept:
                raise UsageError(f"No suffix of {length} tokens is stable under this tokenizer.", "", "Try a shorter "
                                                                                                      "one.")
            ids = kept[0]
        return ids


@dataclass(frozen=True)
class SuffixedRow:
    """A row with a suffix, and the suffix's position."""

    example: Example
    row: TokenRow
    at: int

    def filled(self, ids: Sequence[int]) -> TokenRow:
        return replace(self.row, ids=(*self.row.ids[: self.at], *ids, *self.row.ids[self.at + len(ids):]))


def with_suffix(example: Example, text: str) -> Example:
    """The row with `text` after its question."""
    return reworded(example, example.prompt + text)


def slots(subject: CausalLM, rows: Sequence[Example], codec: SuffixCodec, ids: tuple[int, ...]) -> list[SuffixedRow]:
    """The position of the suffix in each row; rows in which it is tokenised differently are excluded."""
    placed = []
    for example in rows:
        row = subject.encoder.encode(with_suffix(example, codec.text(ids)))
        starts = range(row.prompt - len(ids), -1, -1)
        at = next((i for i in starts if row.ids[i: i + len(ids)] == ids), None)
        if at is not None and not row.truncated:
            placed.append(SuffixedRow(example, row, at))
    if not placed:
        raise UsageError("The suffix cannot be placed after any of the questions.",
                         "Rows are cut, or the chat template rewrites them.", "Use a larger --max-length.")
    return placed


def token_gradient(subject: CausalLM, places: Sequence[SuffixedRow], ids: Sequence[int]) -> tuple[float, Tensor]:
    """The summed loss, and its gradient with respect to the one-hot of each suffix token, shape L V."""
    total, grads = embedding_gradients(subject, [s.filled(ids) for s in places])
    grad_LD = torch.stack([g[s.at: s.at + len(ids)] for s, g in zip(places, grads, strict=True)]).sum(0)
    return total, torch.cat([grad_LD @ part_VD.T for part_VD in table(subject)], dim=-1).cpu()


def proposals(ids: tuple[int, ...], grad_LV: Tensor, allowed: Sequence[int], top_k: int,
              seed: int) -> Iterator[tuple[int, ...]]:
    """All swaps of one token for one of the `top_k` tokens of lowest gradient at its position, in random order."""
    grad_LA = grad_LV[:, torch.tensor(allowed)]
    best_LK = grad_LA.topk(min(top_k, len(allowed)), dim=-1, largest=False).indices
    order = torch.randperm(best_LK.numel(), generator=torch.Generator().manual_seed(seed))
    for n in order.tolist():
        place, rank = divmod(n, best_LK.shape[1])
        token = allowed[int(best_LK[place, rank])]
        if token != ids[place]:
            yield (*ids[:place], token, *ids[place + 1:])


def gcg(subject: CausalLM, rows: Sequence[Example], *, length: int, steps: int, top_k: int, batch: int, seed: int,
        tick: Callable[..., None] = lambda *_: None) -> SuffixResult:
    """Greedy coordinate gradient for one suffix of all rows.

    A step computes one gradient and the losses of `batch` swaps that are stable under tokenisation; the best is
    accepted if it lowers the loss and is tokenised as scored after every question.
    """
    codec = SuffixCodec(subject)
    ids = codec.draw(length, seed)
    places = slots(subject, rows, codec, ids) if steps else []
    count, losses = supervised([s.row for s in places]), list[float]()
    for step in range(steps):
        loss, grad_LV = token_gradient(subject, places, ids)
        losses = losses or [loss / count]
        swaps = proposals(ids, grad_LV, codec.allowed, top_k, derive(seed, "suffix", step))
        tried = list(_first(batch, swaps, codec))
        filled = [s.filled(swap) for swap in tried for s in places]
        loss_C = row_losses(subject, filled).view(len(tried), len(places)).sum(-1) / count
        for c in loss_C.argsort().tolist():
            if float(loss_C[c]) >= losses[-1]:
                break
            if _read_as_scored(subject, places, codec, tried[c]):
                ids = tried[c]
                losses.append(float(loss_C[c]))
                break
        tick(1)
    return SuffixResult(codec.text(ids), ids, losses)


def _first(count: int, swaps: Iterator[tuple[int, ...]], codec: SuffixCodec) -> list[tuple[int, ...]]:
    """The first `count` stable swaps; fewer if there are no more."""
    kept: list[tuple[int, ...]] = []
    while len(kept) < count:
        some = list(islice(swaps, 2 * count))
        if not some:
            break
        kept += codec.stable(some)
    return kept[:count]


def _read_as_scored(subject: CausalLM, places: Sequence[SuffixedRow], codec: SuffixCodec, ids: tuple[int, ...]) -> bool:
    text = codec.text(ids)
    return all(subject.encoder.encode(with_suffix(s.example, text)).ids == s.filled(ids).ids for s in places)
