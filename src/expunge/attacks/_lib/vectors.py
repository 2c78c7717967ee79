"""Vectors in place of tokens: rows with placeholders, a model that reads vectors there, and their optimisation.

Legend: D hidden size, P placeholders.
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


class PlaceholderEncoder(TextEncoder):
    """A TextEncoder that adds placeholders `ids` before or after the prompt; running text gets none."""

    def __init__(self, tokens: TextEncoder, ids: Sequence[int], place: str) -> None:
        self.__dict__.update(vars(tokens))
        self.ids, self.place = tuple(ids), place

    def encode(self, example: Example, *, answer: str | None = None, prompt: str | None = None) -> TokenRow:
        row = super().encode(example, answer=answer, prompt=prompt)
        if example.kind == "text":
            return row
        begins = int(row.ids[0] == self.processor.bos_token_id)  # the begin token stays first
        at = row.prompt if self.place == "after" else begins
        return replace(row, ids=row.ids[:at] + self.ids + row.ids[at:], prompt=row.prompt + len(self.ids))


def with_placeholders(subject: CausalLM, count: int, place: str) -> CausalLM:
    """The same model with `count` placeholders in its rows; use it only inside `placeholders_filled`."""
    prompted = copy.copy(subject)
    prompted.encoder = PlaceholderEncoder(subject.encoder, range(height(subject), height(subject) + count), place)
    return prompted


@contextmanager
def placeholders_filled(subject: CausalLM, vectors_PD: Tensor) -> Iterator[None]:
    """Within this context the model reads vector p at placeholder p; weights do not change."""
    size = height(subject)

    def fill(ids_BT: Tensor, out_BTD: Tensor) -> Tensor:
        placeholder_BT = ids_BT >= size
        out_BTD = out_BTD.clone()
        out_BTD[placeholder_BT] = vectors_PD.to(out_BTD)[ids_BT[placeholder_BT] - size]
        return out_BTD

    with swapping(subject, fill), _without_repetition_penalty(subject):
        yield


@contextmanager
def _without_repetition_penalty(subject: CausalLM) -> Iterator[None]:
    """Disables the repetition penalty, which would index the vocabulary by placeholder ids."""
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


def clipped(vectors_PD: Tensor, longest: float) -> Tensor:
    """Each vector scaled to norm `longest` if its norm is larger."""
    if longest == float("inf"):
        return vectors_PD
    return vectors_PD * (longest / vectors_PD.norm(dim=-1, keepdim=True).clamp_min(longest))


def descend(subject: CausalLM, rows: Sequence[TokenRow], *, steps: int, lr: float, radius: float | None, count: int,
            seed: int, signed: bool = False) -> Iterator[tuple[float, Tensor]]:
    """After 0, 1, ... `steps` steps of Adam or of signed gradients: the lowest mean loss per answer token so far,
    and its vectors P D.

    Args:
        rows: rows with `count` placeholders each, see `with_placeholders`.
        lr: learning rate in units of the root mean square of an embedding coordinate.
        radius: maximum norm in units of the mean norm of the embeddings; None bounds nothing.
        signed: every coordinate moves by the learning rate against the sign of its gradient.
    """
    lengths = torch.cat([part.norm(dim=-1) for part in table(subject)])
    mean = float(lengths.mean())
    longest = float("inf") if radius is None else radius * mean
    drawn = torch.randint(len(lengths), (count,), generator=torch.Generator().manual_seed(derive(seed, "soft prompt")))
    with torch.no_grad():
        vectors_PD = clipped(embedding(subject)(drawn.to(subject.device)).float(), longest)
    rate = lr * mean / vectors_PD.shape[-1] ** 0.5
    optimizer = torch.optim.SGD([vectors_PD], lr=rate) if signed else torch.optim.Adam([vectors_PD], lr=rate)
    starts = [next(i for i, token in enumerate(row.ids) if token >= len(lengths)) for row in rows]
    best, kept_PD = float("inf"), vectors_PD
    for step in range(steps + 1):
        with placeholders_filled(subject, vectors_PD):
            loss, grads = embedding_gradients(subject, rows)
        loss /= supervised(rows)
        if loss < best:
            best, kept_PD = loss, vectors_PD.clone()
        yield best, kept_PD
        if step < steps:
            grad_PD = torch.stack([g[at: at + count] for g, at in zip(grads, starts, strict=True)]).sum(0)
            vectors_PD.grad = grad_PD.sign() if signed else grad_PD
            optimizer.step()
            vectors_PD.copy_(clipped(vectors_PD, longest))
