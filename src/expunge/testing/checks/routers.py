"""Promises of a scope that holds the choices of routers."""

from __future__ import annotations

from typing import Any

import torch

from expunge.methods._lib.routing import chosen
from expunge.methods.base import ScopePlugin
from expunge.models.language import CausalLM
from expunge.models.tiny import build_subject

from ..families import BASE, FAMILIES
from ..support import fresh, small_task, train
from .base import check, term


def _mixture(family: str) -> CausalLM:
    config = BASE | FAMILIES[family] | {"model_type": family}
    subject = build_subject(config, list(small_task().texts())[:20])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # as made, routers hardly tell experts apart
        for parameter in subject.model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return subject


@check(trains=True)
def choices_stay(plugin: type[ScopePlugin]) -> None:
    """After large random moves and after training: no choice differs, closed directions stay, and weights move."""
    for family in ("mixtral", "qwen3_moe", "olmoe"):
        made, subject = plugin(rows=1, tokens=12), _mixture(family)
        rows = {"retain": [subject.encoder.encode(small_task().retain[0])]}
        scope: Any = made.apply(subject, rows)
        assert len(scope.held) == 2, family
        generator = torch.Generator().manual_seed(1)
        for size in (1e-3, 0.1, 10.0):
            flipped = []
            for router in scope.held:
                with torch.no_grad():
                    router.weight.add_(size * torch.randn(router.weight.shape, generator=generator))
                flipped.append(router.same_choices())
            scope.enforce()
            for router in scope.held:
                move_ED = router.weight.detach().double() - router.start_ED
                assert router.same_choices() and float(move_ED.norm()) > 0, (family, size)
                scores_NE = router.inputs_ND @ router.weight.detach().double().T
                assert torch.equal(chosen(scores_NE, router.count), router.chosen_NE)
                for row_D, basis in zip(move_ED, router.closed, strict=True):
                    assert float((row_D @ basis).norm()) < 1e-5 * max(float(move_ED.norm()), 1.0)
            assert size < 1 or not all(flipped), "the moves would have changed nothing"
    _in_training(plugin)


def _in_training(plugin: type[ScopePlugin]) -> None:
    """Steps of ascent: the choices that a plain run changes stay under the scope."""
    kept: dict[str, bool] = {}
    for scope_term in (term(plugin, {"rows": 1, "tokens": 12}), "all"):
        subject = _mixture("mixtral")
        held: Any = plugin(rows=1, tokens=12).apply(fresh(subject), {
            "retain": [subject.encoder.encode(r) for r in small_task().retain]})
        run = train(f"ga + {scope_term}", steps=2, lr=0.05, subject=subject)
        named = dict(run.subject.model.named_parameters())
        same = []
        for router in held.held:
            name = next(n for n, p in held.subject.model.named_parameters() if p is router.weight)
            router.weight = named[name]
            same.append(router.same_choices())
        kept[scope_term] = all(same)
    assert list(kept.values()) == [True, False], kept
