"""Promises of a scope that keeps weights in the null space of what retain rows give them.

Legend: N positions, K inputs of an MLP's output projection.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from expunge.data.text_encoder import TokenBatch
from expunge.methods._lib.output_projection import inputs_of, mlp_out
from expunge.methods._lib.tracing import best_window, effects
from expunge.methods.base import ScopePlugin
from expunge.models.language import CausalLM
from expunge.testing.families import small_model

from ..support import batch_of, fresh, memoriser, small_task, token_rows, train, weights
from .base import check, term


def retain_keys(subject: CausalLM, block: int, batch: TokenBatch) -> Tensor:
    """Inputs of a block's output projection at real positions, float64, shape N K."""
    with subject.evaluating():
        return inputs_of(subject, [block], batch)[block][batch.attention_BT.bool()].double()


@check
def gives_retain_inputs_nothing(plugin: type[ScopePlugin]) -> None:
    """The move times the retain inputs it was made from is 0, though Adam and weight decay would leave the space."""
    task = small_task()
    for subject in (fresh(), small_model("gpt2", task.texts())):
        few = task.retain[:2]
        rows = token_rows(subject, retain=few)
        keys_NK = retain_keys(subject, 1, batch_of(subject, few))
        scope = plugin(layers=[1], relaxation=0.0).apply(subject, rows)
        ((name, weight),) = scope.parameters.items()
        before = weight.detach().double().clone()
        optimizer = torch.optim.AdamW([weight], lr=1e-2, weight_decay=0.1)
        draw = torch.Generator().manual_seed(0)
        for _ in range(3):
            weight.grad = torch.randn(weight.shape, generator=draw)
            optimizer.step()
            scope.enforce()
        moved = weight.detach().double() - before
        turned = not isinstance(mlp_out(subject, 1)[1], torch.nn.Linear)
        given = keys_NK @ (moved if turned else moved.T)
        assert float(moved.norm()) > 1e-3 * float(before.norm()), f"{name} hardly moved"
        assert float(given.norm()) < 1e-5 * float(moved.norm() * keys_NK.norm()), name


@check(trains=True)
def relaxed_fully_is_free(plugin: type[ScopePlugin]) -> None:
    """With relaxation 1 the weights after three steps are those of the same layers without a projection."""
    recipe = "ga + retain_nll + "
    free, plain = (weights(train(recipe + scope, steps=3, lr=1e-2).subject) for scope in (
        term(plugin, {"layers": [1], "relaxation": 1.0}), "layers(index=1, modules='mlp_out')"))
    held = weights(train(recipe + term(plugin, {"layers": [1], "relaxation": 0.01}), steps=3, lr=1e-2).subject)
    assert all(torch.equal(free[name], plain[name]) for name in free)
    assert any(not torch.equal(free[name], held[name]) for name in free)


@cache
def taught_in(block: int) -> CausalLM:
    """A model that learned the forget answers in the MLP of one block."""
    subject = fresh()
    draw = torch.Generator().manual_seed(block)
    with torch.no_grad():
        for parameter in subject.model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=draw))
    train(f"retain_nll + layers(index={block}, modules='mlp')", subject=subject, forget=(), retain=small_task().forget,
          steps=80, lr=1e-2, batch_size=9)
    return subject


@check(trains=True)
def traces_planted_block(plugin: type[ScopePlugin]) -> None:
    """The block that learned has the largest effect, and the scope lets no other change."""
    for block in (0, 1):
        subject = taught_in(block)
        rows: Any = token_rows(subject)
        found = effects(subject, rows["forget"])
        assert block in best_window(found, 1), found
        scope = plugin(width=1).apply(subject, rows)
        assert [f".{block}." in name for name in scope.names] == [True]
    assert len(effects(memoriser(), rows["forget"][:2])) == len(memoriser().blocks)
