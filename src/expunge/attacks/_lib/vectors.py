"""Vectors in the place of tokens: rows with placeholders, a model that reads them, and descent on what they are.

Legend: D hidden size, P places of the vectors.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from expunge.attacks._lib.search import embedding, embedding_gradients, height, supervised, swapping, table
from expunge.data.text_encoder import TextEncoder, TokenRow
from expunge.models.language import CausalLM
from expunge.records.task import Example
from expunge.seeding import derive


class Placed(TextEncoder):
    """TextEncoder whose rows hold placeholders `ids` beside the prompt; running text has no prompt and none of them."""

    def __init__(self, tokens: TextEncoder, ids: Sequence[int], place: str) -> None:
        self.__dict__.update(vars(tokens))
        self.ids, self.place = tuple(ids), place

    def encode(self, example: Example, *, answer: str | None = None, prompt: str | None = None) -> TokenRow:
        row = super().encode(example, answer=answer, prompt=prompt)
        if example.kind == "text":
            return row
        begins = int(row.ids[0] == self.processor.bos_token_id)  # nothing comes before the beginning
        at = row.prompt if self.place == "after" else begins
        return replace(row, ids=row.ids[:at] + self.ids + row.ids[at:], prompt=row.prompt + len(self.ids))


def beside(subject: CausalLM, count: int, place: str) -> CausalLM:
    """The same model, whose rows have `count` placeholders; only to be asked while vectors are `placed`."""
    prompted = copy.copy(subject)
    prompted.encoder = Placed(subject.encoder, range(height(subject), height(subject) + count), place)
    return prompted


@contextmanager
def placed(subject: CausalLM, vectors_PD: Tensor) -> Iterator[None]:
    """While it lasts, the model reads vector p wherever placeholder p stands in a row; weights stay as they are."""
    size = height(subject)

    def fill(ids_BT: Tensor, out_BTD: Tensor) -> Tensor:
        here_BT = ids_BT >= size
        out_BTD = out_BTD.clone()
        out_BTD[here_BT] = vectors_PD.to(out_BTD)[ids_BT[here_BT] - size]
        return out_BTD

    with swapping(subject, fill), _unpenalised(subject):
        yield


@contextmanager
def _unpenalised(subject: CausalLM) -> Iterator[None]:
    """Repetition goes unpunished: the penalty looks up every id of the prompt among the tokens."""
    config = getattr(subject.model, "generation_config", None)
    penalty = getattr(config, "repetition_penalty", None)
    if penalty in (None, 1.0):
        yield
        return
    assert config is not None
    config.repetition_penalty = 1.0
    try:
        yield
    finally:
        config.repetition_penalty = penalty


def within(vectors_PD: Tensor, longest: float) -> Tensor:
    """Each vector, shortened to `longest` where it is longer."""
    return vectors_PD * (longest / vectors_PD.norm(dim=-1, keepdim=True).clamp_min(longest))


def descend(subject: CausalLM, rows: Sequence[TokenRow], *, steps: int, lr: float, radius: float, count: int,
            seed: int) -> Iterator[tuple[float, Tensor]]:
    """After 0, 1, ... `steps` steps of Adam: the lowest mean loss per answer token so far, and its vectors P D.

    Args:
        rows: with `count` placeholders each, as `beside` makes them.
        lr: in units of the root mean square of a coordinate of the embeddings.
        radius: no vector is longer than this many times the mean length of the embeddings.
    """
    lengths = torch.cat([part.norm(dim=-1) for part in table(subject)])
    mean = float(lengths.mean())
    drawn = torch.randint(len(lengths), (count,), generator=torch.Generator().manual_seed(derive(seed, "soft prompt")))
    with torch.no_grad():
        vectors_PD = within(embedding(subject)(drawn.to(subject.device)).float(), radius * mean)
    optimizer = torch.optim.Adam([vectors_PD], lr=lr * mean / vectors_PD.shape[-1] ** 0.5)
    starts = [next(i for i, token in enumerate(row.ids) if token >= len(lengths)) for row in rows]
    best, kept_PD = float("inf"), vectors_PD
    for step in range(steps + 1):
        with placed(subject, vectors_PD):
            loss, grads = embedding_gradients(subject, rows)
        loss /= supervised(rows)
        if loss < best:
            best, kept_PD = loss, vectors_PD.clone()
        yield best, kept_PD
        if step < steps:
            vectors_PD.grad = torch.stack([g[at: at + count] for g, at in zip(grads, starts, strict=True)]).sum(0)
            optimizer.step()
            vectors_PD.copy_(within(vectors_PD, radius * mean))
