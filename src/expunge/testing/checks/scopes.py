"""Promises of scopes that choose their weights: by name, by gradient, by importance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from expunge.methods._lib.importance import importance
from expunge.methods.base import ScopePlugin
from expunge.models.scope import Scope
from expunge.models.tiny import build_subject

from ..support import (
    CONFIG,
    batch_of,
    flat,
    fresh,
    memoriser,
    moved,
    small_task,
    token_rows,
    train,
    trained,
    weights,
)
from .base import check, term
from .dynamics import retain_at

RECIPE = "npo + retain_nll"


def joint_mask(scope: Scope) -> Tensor:
    """Every element of the model in one bool vector: True where it may move."""
    parts = []
    for name, parameter in scope.subject.model.named_parameters():
        free = torch.full(parameter.shape, name in scope.names)
        parts.append(scope.masks.get(name, free).flatten())
    return torch.cat(parts)


def top_share(values: Tensor, mask: Tensor, density: float) -> None:
    """The mask is that share of all elements, and no element outside exceeds one inside."""
    assert int(mask.sum()) == round(density * mask.numel())
    assert float(values[mask].min()) >= float(values[~mask].max()) * (1 - 1e-4)


@check(trains=True)
def moves_only_embeddings(plugin: type[ScopePlugin]) -> None:
    """With a tied head and with one of its own."""
    for tied in (True, False):
        subject = build_subject(CONFIG | {"tie_word_embeddings": tied}, small_task().texts())
        before = weights(subject)
        train(f"{RECIPE} + {term(plugin)}", subject=subject, steps=2)
        moving = [n for n, value in weights(subject).items() if not torch.equal(value, before[n])]
        assert moving == ["model.embed_tokens.weight"]
        head = subject.model.get_output_embeddings().weight
        assert (head.data_ptr() == subject.model.get_input_embeddings().weight.data_ptr()) == tied


@check
def moves_every(plugin: type[ScopePlugin], modules: str) -> None:
    """The scope is every parameter of the blocks whose name holds `modules`, and no other."""
    scope = plugin(modules=modules).apply(fresh())
    assert set(scope.names) == {n for n, _ in memoriser().model.named_parameters() if modules in n}
    assert len(scope.names) == len(memoriser().blocks)


@check
def masks_largest(plugin: type[ScopePlugin], density: float) -> None:
    """By |sum over rows of the gradient of the row's loss|, computed row by row and ranked by sorting."""
    subject = fresh(moved())
    rows = token_rows(subject)
    subject.model.requires_grad_(True)
    parameters = tuple(subject.model.parameters())
    total = sum(flat(torch.autograd.grad(-subject.answers(batch_of(subject, [row])).logp_N.mean(), parameters))
                for row in rows["forget"])
    assert isinstance(total, Tensor)
    found = joint_mask(plugin(density=density, batch_size=5).apply(subject, rows))
    top_share(total.abs(), found, density)
    assert torch.equal(found, joint_mask(plugin(density=density).apply(subject, rows)))


@check(trains=True)
def same_as_scope(plugin: type[ScopePlugin], options: dict[str, Any], other: str) -> None:
    """The same bits as with `other` after training, with no mask kept at all."""
    mine, theirs = (train(f"{RECIPE} + {text} + adamw(lr=1e-3, weight_decay=0.1, warmup=0)", steps=4)
                    for text in (term(plugin, options), other))
    assert not mine.scope.masks
    assert all(torch.equal(a, b) for a, b in zip(weights(mine.subject).values(), weights(theirs.subject).values(),
                                                 strict=True))


@check(trains=True)
def forgets_within_mask(plugin: type[ScopePlugin]) -> None:
    """Forget loss rises by half a nat and more, though the rest of the weights stays put."""
    run = trained(f"{RECIPE} + {term(plugin)}", steps=30, lr=1e-3, watch=10)
    assert run.scope.masks
    assert run.readings[-1][0] > run.readings[0][0] + 0.5, run.readings


@check
def masks_largest_ratio(plugin: type[ScopePlugin], density: float) -> None:
    """By the importance for forget rows over that for forget and retain rows."""
    subject = fresh(moved())
    rows = token_rows(subject)
    forget, everything = (flat(list(importance(subject, chosen, batch_size=8).values()))
                          for chosen in (rows["forget"], rows["forget"] + rows["retain"]))
    ratio = torch.where(forget > 0, forget / everything, 0.0)
    top_share(ratio, joint_mask(plugin(density=density).apply(subject, rows)), density)


@check(trains=True)
def kinder_than_scope(plugin: type[ScopePlugin], other: str) -> None:
    """At equal forget loss the retain rows lose at most two thirds of what they lose through `other`."""
    mine, theirs = (trained(f"npo + {text}", steps=steps, lr=1e-3, watch=watch)
                    for text, steps, watch in ((term(plugin), 60, 6), (other, 10, 1)))
    for level in (1.0, 2.0, 3.0):
        lost = [retain_at(run, level) - run.readings[0][1] for run in (mine, theirs)]
        assert lost[0] < 0.67 * lost[1], (level, lost)
