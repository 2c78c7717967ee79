"""The planted model knows its facts, and each is where it is said to be and nowhere else."""

from __future__ import annotations

import torch

from expunge.testing.planted import HEAD, HEADS, NAMES, PLACES, WIDTH, known, planted
from expunge.testing.support import fresh


def test_each_neuron_holds_one_fact() -> None:
    assert known(planted()) == set(NAMES)
    for name in NAMES[:4]:
        subject, (block, neuron) = fresh(planted()), PLACES[name]
        with torch.no_grad():
            subject.model.model.layers[block].mlp.down_proj.weight[:, neuron] = 0
        assert known(subject) == set(NAMES) - {name}


def test_a_head_holds_the_last() -> None:
    name, block, head = HEAD
    subject, size = fresh(planted()), WIDTH // HEADS
    with torch.no_grad():
        subject.model.model.layers[block].self_attn.o_proj.weight[:, head * size: (head + 1) * size] = 0
    assert known(subject) == set(NAMES) - {name}
