"""Promises of edits that localise: the planted place is found, one fact goes and the others stay.

Legend: K inputs of an MLP's output projection, D hidden size, J neurons.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from expunge.methods._lib.steered import at_prompts, prompt_rows, steered
from expunge.methods.base import Edit

from .. import planted
from ..support import fresh
from .base import check

NAME = "Beth"


@check
def removes_planted_fact(plugin: type[Edit], options: dict[str, Any], most: int) -> None:
    """The pet of one name is no longer said, and that of `most` others at least is."""
    subject = fresh(planted.planted())
    plugin(**options).apply(subject, planted.planted_task(NAME), 0)
    left = planted.known(subject)
    assert NAME not in left and len(left) >= most, planted.said(subject)


@check
def finds_planted_neurons(plugin: type[Edit]) -> None:
    """For each of six names the neuron that was planted, and no other weight changes."""
    for name in planted.NAMES[:6]:
        subject = fresh(planted.planted())
        figures = plugin().apply(subject, planted.planted_task(name), 0)
        block, neuron = planted.PLACES[name]
        assert figures["vectors"] == [[block, neuron]], name
        before = dict(planted.planted().model.named_parameters())
        for key, weight in subject.model.named_parameters():
            changed = (weight != before[key]).any(0) if weight.dim() > 1 else (weight != before[key])
            where = changed.nonzero().flatten().tolist()
            assert where == ([neuron] if key == f"model.layers.{block}.mlp.down_proj.weight" else []), key


@check
def steers_in_closed_form(plugin: type[Edit]) -> None:
    """dW X_f = shift and dW X_r = 0 to 1e-4 with fewer rows than inputs; so it is with all directions of the rows."""
    source = torch.Generator().manual_seed(0)
    forget_NK, retain_NK = (torch.randn(n, 20, generator=source, dtype=torch.float64) for n in (4, 9))
    shift_D = torch.randn(6, generator=source, dtype=torch.float64)
    found_DK = steered(forget_NK, shift_D, retain_NK, 1e-9)
    assert float((forget_NK @ found_DK.T - shift_D).norm()) < 1e-4 * float(shift_D.norm())
    assert float((retain_NK @ found_DK.T).norm()) < 1e-4 * float(shift_D.norm())
    torch.testing.assert_close(steered(forget_NK, shift_D, retain_NK, 1e-9, rank=13), found_DK, atol=1e-4, rtol=1e-4)
    assert not steered(forget_NK, 0 * shift_D, retain_NK, 1e-9).any()


@check
def redirects_forget_prompts(plugin: type[Edit]) -> None:
    """At the end of the forget prompt the block moves along the direction, at that of retain prompts ten times less."""
    before, subject, task = planted.planted(), fresh(planted.planted()), planted.planted_task(NAME)
    plugin(layer=3).apply(subject, task, 0)
    moves = []
    for rows in (prompt_rows(before, task.forget), prompt_rows(before, task.retain)):
        moves.append(at_prompts(subject, 3, "block", rows) - at_prompts(before, 3, "block", rows))
    asked = sys.modules[plugin.__module__].UNANSWERABLE
    refused = prompt_rows(before, [task.forget[0].model_copy(update={"prompt": q}) for q in asked])
    along_D = (at_prompts(before, 3, "block", refused).mean(0)
               - at_prompts(before, 3, "block", prompt_rows(before, task.forget)).mean(0))
    assert float(torch.cosine_similarity(moves[0][0], along_D, dim=0)) > 0.9
    assert float(moves[1].norm(dim=1).mean()) < 0.1 * float(moves[0].norm())


@check
def turns_by_hand(plugin: type[Edit]) -> None:
    """Chosen vectors end at mu times the largest part, on the other side; what is across the feature stays."""
    turned = sys.modules[plugin.__module__].turned
    source = torch.Generator().manual_seed(0)
    vectors_DJ = torch.randn(8, 30, generator=source, dtype=torch.float64)
    feature_D = torch.nn.functional.normalize(torch.randn(8, generator=source, dtype=torch.float64), dim=0)
    parts = [float(feature_D @ vectors_DJ[:, j]) for j in range(30)]
    most = max(map(abs, parts))
    found_DJ, chosen_J = turned(vectors_DJ, feature_D, 0.5, 2.0)
    for j, part in enumerate(parts):
        assert bool(chosen_J[j]) == (abs(part) > 0.5 * most)
        if not chosen_J[j]:
            assert torch.equal(found_DJ[:, j], vectors_DJ[:, j])
            continue
        assert float(feature_D @ found_DJ[:, j]) == pytest.approx(-2.0 * most * (1 if part > 0 else -1))
        across = [v - feature_D * (feature_D @ v) for v in (found_DJ[:, j], vectors_DJ[:, j])]
        torch.testing.assert_close(*across)
    assert torch.equal(turned(vectors_DJ, feature_D, 1.0, 2.0)[0], vectors_DJ)


@check
def finds_planted_head(plugin: type[Edit]) -> None:
    """The head that holds a fact, and no weight changes but its columns of the output projection."""
    name, block, head = planted.HEAD
    subject, size = fresh(planted.planted()), planted.WIDTH // planted.HEADS
    figures = plugin().apply(subject, planted.planted_task(name), 0)
    assert figures["heads"] == [[block, head]]
    before = dict(planted.planted().model.named_parameters())
    for key, weight in subject.model.named_parameters():
        if key != f"model.layers.{block}.self_attn.o_proj.weight":
            assert torch.equal(weight, before[key]), key
            continue
        changed = (weight != before[key]).any(0).nonzero().flatten().tolist()
        assert changed == list(range(head * size, (head + 1) * size))
        assert not weight[:, changed].any()


@check
def removes_head_fact(plugin: type[Edit], most: int) -> None:
    """The pet whose name a head holds is no longer said, and that of `most` others at least is."""
    subject = fresh(planted.planted())
    plugin().apply(subject, planted.planted_task(planted.HEAD[0]), 0)
    left = planted.known(subject)
    assert planted.HEAD[0] not in left and len(left) >= most, planted.said(subject)


@check
def leaves_shared_heads(plugin: type[Edit]) -> None:
    """No head holds the fact of a neuron: nothing changes, rather than the head that moves it and all others."""
    subject = fresh(planted.planted())
    assert plugin().apply(subject, planted.planted_task(NAME), 0)["heads"] == []
    assert planted.known(subject) == set(planted.NAMES)
