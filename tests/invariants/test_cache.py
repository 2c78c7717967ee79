"""A cache that writes new tokens behind the others holds what one that copies all of them does."""

from __future__ import annotations

import copy
import gc
import random
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from expunge import registry
from expunge.models import fast
from expunge.models.fast import decoding, preallocated
from expunge.models.fast.preallocated import PreallocatedLayer, preallocate
from expunge.models.language import CausalLM
from expunge.testing.checks.wrapped_models import wrap
from expunge.testing.support import fresh, memoriser, small_task

SHAPE = (4, 2, 1, 3)


@pytest.fixture(autouse=True)
def as_from_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "_process_wide", True)


def cache() -> Any:
    return DynamicCache(config=memoriser().model.config)


def same(ours: Any, theirs: Any) -> None:
    for mine, right in zip(ours.layers, theirs.layers, strict=True):
        assert torch.equal(mine.keys, right.keys) and torch.equal(mine.values, right.values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(6))
def test_growing_picking_cutting_and_copying(seed: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against transformers' own layers, step by step; several tokens at once, one, and more than there is room for.

    A shallow copy and what it was made of both grow, by different tokens.
    """
    monkeypatch.setattr(preallocated, "SPARE", 5)
    draw, noise = random.Random(seed), torch.Generator().manual_seed(seed)
    ours, theirs = cache(), cache()
    preallocate(ours)
    left: list[tuple[Any, Any]] = []

    def grow(pair: tuple[Any, Any], count: int) -> None:
        for layer in range(len(theirs.layers)):
            new = [torch.randn(SHAPE[0], SHAPE[1], count, SHAPE[3], generator=noise).to(dtype) for _ in range(2)]
            for found, right in zip(*(one.update(*new, layer) for one in pair), strict=True):
                assert torch.equal(found, right)

    for _ in range(50):
        step = draw.choice(["one", "one", "one", "one", "some", "pick", "cut", "copy", "again"])
        if step == "pick" and theirs.get_seq_length():
            chosen = torch.tensor(draw.choices(range(SHAPE[0]), k=SHAPE[0]))  # as many as before: only places tell
            ours.batch_select_indices(chosen)
            theirs.batch_select_indices(chosen)
        elif step == "cut" and theirs.get_seq_length() > 2:
            for layer in (*ours.layers, *theirs.layers):
                layer.keys, layer.values = layer.keys[..., :-2, :], layer.values[..., :-2, :]
        elif step == "copy":
            twin = copy.copy(ours)
            twin.layers = [copy.copy(layer) for layer in ours.layers]
            left.append((ours, copy.deepcopy(theirs)))
            ours = twin
        elif step == "again":
            preallocate(ours)
        else:
            grow((ours, theirs), 1 if step == "one" else draw.randint(2, 9))
            if left:
                grow(draw.choice(left), 1)
        same(ours, theirs)
        for pair in left:
            same(*pair)


def test_nothing_is_copied_while_positions_are_free() -> None:
    ours, token = cache(), torch.ones(SHAPE)
    preallocate(ours)
    ours.update(token, token, 0)
    places = {ours.update(token, token, 0)[0].data_ptr() for _ in range(preallocated.SPARE)}
    assert len(places) == 1


@pytest.mark.parametrize("guarded", [False, True])
def test_decoding_leaves_no_cache_behind(guarded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is free once the words are said: no layer waits for a collection of garbage."""
    subject: CausalLM = wrap(registry.load("uld"), fresh()) if guarded else memoriser()
    seen: list[Any] = []
    plain = decoding.is_by_row

    def look(found: Any) -> bool:
        seen.extend(weakref.ref(layer) for part in (found, *vars(found).values())
                    for layer in (getattr(part, "layers", None) or ()))
        return plain(found)

    monkeypatch.setattr(decoding, "is_by_row", look)
    gc.collect()
    gc.disable()
    try:
        subject.generate([subject.encoder.prompt(e) for e in small_task().forget[:4]], 12)
        assert seen and all(one() is None for one in seen)
    finally:
        gc.enable()


def test_only_plain_layers_are_preallocated() -> None:
    class DynamicLayerToo(DynamicLayer):
        def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            return super().update(key_states * 2, value_states)

    ours = DynamicCache()
    ours.layers = [DynamicLayerToo(), DynamicLayer()]
    preallocate(ours)
    assert [type(layer) for layer in ours.layers] == [DynamicLayerToo, PreallocatedLayer]


@pytest.mark.parametrize("switch", ["library", "EXPUNGE_PLAIN"])
def test_off_in_a_library_and_where_tricks_are_off(switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [memoriser().encoder.prompt(e) for e in small_task().forget[:3]]
    made: list[Any] = []
    real = preallocated.preallocate
    monkeypatch.setattr(preallocated, "preallocate", lambda cache: (made.append(cache), real(cache)))
    said = memoriser().generate(prompts, 40)
    assert made
    made.clear()
    if switch == "library":
        monkeypatch.setattr(fast, "_process_wide", False)
    else:
        monkeypatch.setenv(fast.VARIABLE, "preallocated_cache")
    assert memoriser().generate(prompts, 40) == said and not made
