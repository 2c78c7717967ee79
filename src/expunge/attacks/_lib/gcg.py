"""Greedy coordinate gradient: one token of a suffix swapped per step, and only for a suffix that can be typed.

Legend: B rows, D hidden size, V vocabulary, A ids that may be used, L places of the suffix, K best tokens per place,
C candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import torch
from torch import Tensor

from expunge.attacks._lib.search import embedding_gradients, height, row_losses, supervised, table
from expunge.attacks._lib.wording import reworded
from expunge.data.text_encoder import TokenRow
from expunge.errors import UsageError
from expunge.models.language import CausalLM
from expunge.records.task import Example
from expunge.seeding import derive, stream

ANCHOR = "a"
"""What suffixes are read back behind, so that their first token is one inside a text."""


@dataclass(frozen=True)
class Found:
    """The suffix as text and as the tokens it is read as."""

    text: str
    ids: tuple[int, ...]
    losses: list[float] = field(default_factory=list)
    """Mean loss per answer token at the start and after each step that was kept."""


class Reader:
    """Suffixes as text and back; those that a tokenizer reads differently cannot be asked."""

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
        said = self.processor.decode(list(ids), clean_up_tokenization_spaces=False)
        return " " + str(said).removeprefix(" ")

    def survive(self, suffixes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Those whose text is read as the same tokens."""
        back = self._encode([ANCHOR + self.text(s) for s in suffixes]) if suffixes else []
        return [s for s, ids in zip(suffixes, back, strict=True) if tuple(ids[self.lead:]) == s]

    def draw(self, length: int, seed: int) -> tuple[int, ...]:
        """A random suffix that survives."""
        random, ids = stream(seed, "suffix"), tuple[int, ...]()
        while len(ids) < length:
            ways = [(*ids, token) for token in random.sample(self.allowed, min(64, len(self.allowed)))]
            kept = self.survive(ways) or self.survive([(*ids, token) for token in self.allowed])
            if not kept:
                raise UsageError(f"No suffix of {length} tokens survives this tokenizer.", "", "Try a shorter one.")
            ids = kept[0]
        return ids


@dataclass(frozen=True)
class SuffixedRow:
    """A row with a suffix in it, and where."""

    example: Example
    row: TokenRow
    at: int

    def filled(self, ids: Sequence[int]) -> TokenRow:
        return replace(self.row, ids=(*self.row.ids[: self.at], *ids, *self.row.ids[self.at + len(ids):]))


def behind(example: Example, text: str) -> Example:
    """The row with `text` behind its question."""
    return reworded(example, example.prompt + text)


def slots(subject: CausalLM, rows: Sequence[Example], reader: Reader, ids: tuple[int, ...]) -> list[SuffixedRow]:
    """Where the suffix stands in each row; rows in which it is read differently are left out."""
    found = []
    for example in rows:
        row = subject.encoder.encode(behind(example, reader.text(ids)))
        starts = range(row.prompt - len(ids), -1, -1)
        at = next((i for i in starts if row.ids[i: i + len(ids)] == ids), None)
        if at is not None and not row.truncated:
            found.append(SuffixedRow(example, row, at))
    if not found:
        raise UsageError("The suffix cannot be placed behind any of the questions.",
                         "Rows are cut, or the chat template rewrites them.", "Use a larger --max-length.")
    return found


def token_gradient(subject: CausalLM, places: Sequence[SuffixedRow], ids: Sequence[int]) -> tuple[float, Tensor]:
    """The summed loss, and its gradient in the one-hot of each token of the suffix: shape L V."""
    total, grads = embedding_gradients(subject, [s.filled(ids) for s in places])
    grad_LD = torch.stack([g[s.at: s.at + len(ids)] for s, g in zip(places, grads, strict=True)]).sum(0)
    return total, torch.cat([grad_LD @ part_VD.T for part_VD in table(subject)], dim=-1).cpu()


def proposals(ids: tuple[int, ...], grad_LV: Tensor, allowed: Sequence[int], top_k: int,
              seed: int) -> Iterator[tuple[int, ...]]:
    """All swaps of one token for one of the `top_k` that the gradient likes best there, in random order."""
    grad_LA = grad_LV[:, torch.tensor(allowed)]
    best_LK = grad_LA.topk(min(top_k, len(allowed)), dim=-1, largest=False).indices
    order = torch.randperm(best_LK.numel(), generator=torch.Generator().manual_seed(seed))
    for n in order.tolist():
        place, rank = divmod(n, best_LK.shape[1])
        token = allowed[int(best_LK[place, rank])]
        if token != ids[place]:
            yield (*ids[:place], token, *ids[place + 1:])


def gcg(subject: CausalLM, rows: Sequence[Example], *, length: int, steps: int, top_k: int, batch: int, seed: int,
        tick: Callable[..., None] = lambda *_: None) -> Found:
    """Greedy coordinate gradient for one suffix of all rows.

    A step takes one gradient and the loss of `batch` swaps that survive the tokenizer; the best is kept if it
    lowers the loss and is read as scored behind every question.
    """
    reader = Reader(subject)
    ids = reader.draw(length, seed)
    places = slots(subject, rows, reader, ids) if steps else []
    count, losses = supervised([s.row for s in places]), list[float]()
    for step in range(steps):
        loss, grad_LV = token_gradient(subject, places, ids)
        losses = losses or [loss / count]
        swaps = proposals(ids, grad_LV, reader.allowed, top_k, derive(seed, "suffix", step))
        tried = list(_first(batch, swaps, reader))
        filled = [s.filled(swap) for swap in tried for s in places]
        loss_C = row_losses(subject, filled).view(len(tried), len(places)).sum(-1) / count
        for c in loss_C.argsort().tolist():
            if float(loss_C[c]) >= losses[-1]:
                break
            if _read_as_scored(subject, places, reader, tried[c]):
                ids = tried[c]
                losses.append(float(loss_C[c]))
                break
        tick(1)
    return Found(reader.text(ids), ids, losses)


def _first(count: int, swaps: Iterator[tuple[int, ...]], reader: Reader) -> list[tuple[int, ...]]:
    """The first `count` swaps that survive; fewer when there are no more."""
    found: list[tuple[int, ...]] = []
    while len(found) < count:
        some = list(islice(swaps, 2 * count))
        if not some:
            break
        found += reader.survive(some)
    return found[:count]


def _read_as_scored(subject: CausalLM, places: Sequence[SuffixedRow], reader: Reader, ids: tuple[int, ...]) -> bool:
    text = reader.text(ids)
    return all(subject.encoder.encode(behind(s.example, text)).ids == s.filled(ids).ids for s in places)
