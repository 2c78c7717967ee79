"""A cache that writes new tokens behind the others holds what one that copies all of them does."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import DynamicCache

from expunge.models import decoding
from expunge.models.decoding import with_room

from ..support import memoriser


@pytest.mark.parametrize("seed", range(6))
def test_growing_picking_and_cutting(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against transformers' own layers, step by step; several tokens at once, one, and more than there is room for."""
    monkeypatch.setattr(decoding, "STRETCH", 5)
    draw, noise = random.Random(seed), torch.Generator().manual_seed(seed)
    ours, theirs = (DynamicCache(config=memoriser().model.config) for _ in range(2))
    with_room(ours)
    rows = 4
    for _ in range(40):
        step = draw.choice(["one", "one", "one", "one", "some", "pick", "cut", "again"])
        if step == "pick" and theirs.get_seq_length():
            chosen = torch.tensor(draw.choices(range(rows), k=rows))  # as many as before: only their places tell
            ours.batch_select_indices(chosen)
            theirs.batch_select_indices(chosen)
        elif step == "cut" and theirs.get_seq_length() > 2:
            for layer in (*ours.layers, *theirs.layers):
                layer.keys, layer.values = layer.keys[..., :-2, :], layer.values[..., :-2, :]
        elif step == "again":
            with_room(ours)
        else:
            count = 1 if step == "one" else draw.randint(2, 9)
            for layer in range(len(theirs.layers)):
                new = [torch.randn(rows, 2, count, 3, generator=noise) for _ in range(2)]
                for found, right in zip(ours.update(*new, layer), theirs.update(*new, layer), strict=True):
                    assert torch.equal(found, right)
        assert ours.get_seq_length() == theirs.get_seq_length()


def test_nothing_is_copied_while_there_is_room() -> None:
    cache = DynamicCache(config=memoriser().model.config)
    with_room(cache)
    token = torch.ones(2, 2, 1, 3)
    cache.update(token, token, 0)
    places = {cache.update(token, token, 0)[0].data_ptr() for _ in range(decoding.STRETCH)}
    assert len(places) == 1
    with_room(None)
