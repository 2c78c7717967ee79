"""What searches through gradients share: rows to learn from, losses in bounded batches, embeddings that can be swapped.

Legend: B rows, T padded length, D hidden size, V vocabulary, L places of a suffix, P places of a soft prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from expunge.attacks.base import AttackContext, Rows
from expunge.data.text_encoder import TokenRow
from expunge.errors import UsageError
from expunge.models.answers import Answers
from expunge.models.language import CausalLM
from expunge.models.sites import Site, write
from expunge.records.task import Example, Split
from expunge.seeding import stream

Scope = Literal["people", "questions", "all"]
SCOPES = ("people: learned on rows of half the forget entities, asked about the others; questions: learned on half of "
          "each entity's rows, asked about the other half; all: learned on the very rows it is asked about")


def divided(context: AttackContext, scope: str, most: int) -> tuple[list[Example], AttackContext]:
    """Rows with a prompt to learn from, at most `most` of them, and the context whose rows are asked."""
    rows, asked = _divided(context, scope)
    if len(rows) > most:
        rows = [rows[i] for i in sorted(stream(context.seed, "rows to learn").sample(range(len(rows)), most))]
    return rows, replace(context, rows=asked)


def _divided(context: AttackContext, scope: str) -> tuple[list[Example], Rows]:
    if scope == "people":
        return _prompted(context.learned), context.tested
    rows = _prompted(context.task.probe_rows(context.split))
    if scope != "questions":
        return rows, context.rows
    known: set[str] = set()
    for entity in dict.fromkeys(r.entity or r.id for r in rows):
        ids = [r.id for r in rows if (r.entity or r.id) == entity]
        stream(0, "questions", entity).shuffle(ids)  # not by seed: the same rows are asked in every audit
        known.update(ids[: len(ids) // 2])
    return [r for r in rows if r.id in known], partial(_without, context, frozenset(known))


def _prompted(rows: Sequence[Example]) -> list[Example]:
    return [r for r in rows if r.kind != "text"]


def _without(context: AttackContext, known: frozenset[str], split: Split) -> list[Example]:
    return [r for r in context.rows(split) if split != context.split or r.id not in known]


def nothing_to_learn(context: AttackContext, scope: str) -> str | None:
    """Why such a search cannot begin on this context."""
    rows, _ = divided(context, scope, 1)
    return None if rows else f"there are no {context.split} rows with a prompt for it to learn from"


def answered(subject: CausalLM, rows: Sequence[TokenRow]) -> Answers:
    return subject.answers(subject.collate(rows))


def row_losses(subject: CausalLM, rows: Sequence[TokenRow]) -> Tensor:
    """-log p(answer | prompt) of each row, summed over its tokens: shape B, float64, on the CPU."""
    found_B = torch.zeros(len(rows), dtype=torch.float64)
    with subject.evaluating():
        for chosen in subject.encoder.batches(rows):
            answers = answered(subject, [rows[i] for i in chosen])
            found_B[chosen] = -answers.per_row(answers.logp_N.double()).cpu()
    return found_B


def supervised(rows: Sequence[TokenRow]) -> int:
    """Number of tokens whose loss is taken."""
    return sum(r.answer + r.end for r in rows)


def embedding(subject: CausalLM) -> nn.Module:
    """The module that turns ids into vectors; UsageError where the model has none."""
    try:
        module = subject.model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        module = None
    weight = getattr(module, "weight", None)
    if not isinstance(module, nn.Module) or not isinstance(weight, Tensor) or weight.dim() != 2:
        raise UsageError("This model has no separate token embeddings.",
                         "A search through gradients needs the vectors that tokens are turned into.",
                         "Use an attack on prompts instead, such as prefix.")
    return module


def height(subject: CausalLM) -> int:
    """How many ids the model has a vector for."""
    weight: Any = embedding(subject).weight
    return int(weight.shape[0])


def table(subject: CausalLM, size: int = 8192) -> Iterator[Tensor]:
    """The vectors of all ids in order, as the model gets them, in parts of at most `size` D, float32."""
    module = embedding(subject)
    with torch.no_grad():
        for ids in torch.arange(height(subject), device=subject.device).split(size):
            yield module(ids).float()


@contextmanager
def swapping(subject: CausalLM, swap: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
    """While it lasts, the model gets `swap(ids_BT, vectors_BTD)` instead of its embeddings.

    Ids from the size of the table on are allowed in rows: they are placeholders, looked up as id 0 and left to
    `swap`. As they stand in the rows themselves, padding and key-value caches need no care. Weights stay.
    """
    size = height(subject)
    with write(subject, Site(slot="embedding"), swap, inputs=lambda ids_BT: ids_BT.where(ids_BT < size, 0)):
        yield


def embedding_gradients(subject: CausalLM, rows: Sequence[TokenRow]) -> tuple[float, list[Tensor]]:
    """The summed loss of all rows, and for each row its gradient in the token vectors, T D, float32."""
    total, found = 0.0, [torch.empty(0)] * len(rows)
    for chosen in subject.encoder.batches(rows):
        leaves: list[Tensor] = []

        def leaf(ids_BT: Tensor, vectors_BTD: Tensor, leaves: list[Tensor] = leaves) -> Tensor:
            leaves.append(vectors_BTD.detach().requires_grad_())
            return leaves[-1].clone()

        with subject.evaluating(), torch.enable_grad(), swapping(subject, leaf):
            loss = -answered(subject, [rows[i] for i in chosen]).logp_N.double().sum()
            if not leaves:
                raise UsageError("This model does not look its tokens up in its embeddings.",
                                 "No gradient can be taken there.", "Use an attack on prompts, such as prefix.")
            # An ensemble may repeat the batch, and a guard may look it up twice: every use counts.
            parts = torch.autograd.grad(loss, leaves)
        grad_BTD = sum(g.float().unflatten(0, (-1, len(chosen))).sum(0) for g in parts)
        assert isinstance(grad_BTD, Tensor)
        total += float(loss.detach())
        for b, i in enumerate(chosen):
            found[i] = grad_BTD[b, : len(rows[i].ids)]
    return total, found
