"""What FIT asks of a request: how like it is to earlier ones, how much it matters, and which blocks hold it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from expunge.methods._lib.calibrate import mean_loss
from expunge.methods._lib.importance import differentiable
from expunge.methods.scopes.embedding import names_within
from expunge.models.language import CausalLM
from expunge.models.sites import Site, write
from expunge.models.slots import slots_of
from expunge.records.task import Example

Choice = Literal["npo + retain_kl", "npo", "random labels"]


def requests_of(rows: Sequence[Example], by: Literal["entity", "row"]) -> list[list[Example]]:
    """Rows that are deleted together, in the order of the first of each; a row without an entity is its own."""
    found: dict[str, list[Example]] = {}
    for row in rows:
        found.setdefault((row.entity if by == "entity" else "") or row.id, []).append(row)
    return list(found.values())


def text_of(row: Example) -> str:
    return f"{row.prompt} {row.answer}".strip()


def trigrams(text: str) -> Counter[str]:
    """How often each run of three characters occurs, case aside."""
    padded = f"  {' '.join(text.lower().split())} "
    return Counter(padded[i: i + 3] for i in range(len(padded) - 2))


def similarity(a: Counter[str], b: Counter[str]) -> float:
    """Cosine of two counts."""
    lengths = [sum(n * n for n in c.values()) ** 0.5 for c in (a, b)]
    return sum(n * b[gram] for gram, n in a.items()) / (lengths[0] * lengths[1]) if all(lengths) else 0.0


def new_rows(subject: CausalLM, request: Sequence[Example], memory: Sequence[str], threshold: float,
             epsilon: float) -> list[Example]:
    """The rows of a request that earlier ones do not already cover.

    A row goes if it is in the memory word for word; or if it is similar to a text there and the request's mean loss
    moves by at most `epsilon` without it.
    """
    if not memory:
        return list(request)
    seen, kept = [trigrams(text) for text in memory], []
    encoded = [subject.encoder.encode(row) for row in request]
    whole: float | None = None
    for i, row in enumerate(request):
        text = text_of(row)
        if text in memory:
            continue
        if max(similarity(trigrams(text), other) for other in seen) >= threshold:
            whole = mean_loss(subject, encoded) if whole is None else whole
            rest = encoded[:i] + encoded[i + 1:]
            if abs(whole - (mean_loss(subject, rest) if rest else 0.0)) <= epsilon:
                continue
        kept.append(row)
    return kept


def sensitivity(subject: CausalLM, rows: Sequence[Example]) -> float:
    """Length of the gradient of the mean loss over all answer tokens by all input embeddings."""
    encoded, square = [subject.encoder.encode(row) for row in rows], 0.0
    total = sum(row.supervised for row in encoded)
    with differentiable(subject, []):
        for few in subject.encoder.batches(encoded):
            moves: list[Tensor] = []

            def moved(given: object, value: Tensor, moves: list[Tensor] = moves) -> Tensor:
                moves.append(torch.zeros_like(value).requires_grad_(True))
                return value + moves[-1]

            with write(subject, Site(None, "embedding"), moved):
                loss = -subject.answers(subject.collate([encoded[i] for i in few])).logp_N.sum() / total
            square += sum(float(g.square().sum()) for g in torch.autograd.grad(loss, moves))
    return square ** 0.5


@torch.no_grad()
def attributions(subject: CausalLM, rows: Sequence[Example]) -> list[float]:
    """By how much the mean loss changes where all parameters of a block are 0, block by block; all bits come back."""
    encoded = [subject.encoder.encode(row) for row in rows]
    base, found = mean_loss(subject, encoded), []
    for block in subject.blocks.values():
        kept = [(p, p.detach().clone()) for p in block.parameters()]
        try:
            for parameter, _ in kept:
                parameter.zero_()
            found.append(abs(mean_loss(subject, encoded) - base))
        finally:
            for parameter, before in kept:
                parameter.copy_(before)
    return found


def names_in(subject: CausalLM, blocks: Sequence[int]) -> tuple[str, ...]:
    """Parameters of the attention and the MLP of these blocks; of a block that has neither, all of them."""
    names: dict[str, None] = {}
    for block in blocks:
        slots = [slot for slot in ("attention", "mlp") if slot in slots_of(subject, block)]
        for slot in slots or ("block",):
            module = Site(block, slot).place(subject).module  # type: ignore[arg-type]
            names |= dict.fromkeys(names_within(subject, module))
    return tuple(names)


def chosen(share: float, low: float, high: float) -> Choice:
    """The method of a request by its rank among those so far: the heavier, the more is done for the rest."""
    return "npo + retain_kl" if share >= high else "npo" if share >= low else "random labels"


def rank_share(values: Sequence[float]) -> float:
    """Share of the values so far that the last one reaches; 1 for the first."""
    return sum(value <= values[-1] for value in values) / len(values)
