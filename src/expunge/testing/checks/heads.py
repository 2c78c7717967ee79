"""Promises of edits that prune attention heads: what a head does is measured as defined, and pruning turns answers.

Legend: D hidden size.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from expunge.methods._lib.attention_heads import attending, attention_out, columns, prune
from expunge.methods._lib.head_paths import ConflictPrompt, answered, asked, path_effects
from expunge.methods.base import Edit
from expunge.models.language import CausalLM

from .. import planted
from ..support import fresh, memoriser, small_task
from .base import check

READER = (planted.DEPTH - 1, 1)
"""The head that copies an answer stated in the prompt."""
STATED = 10.5
"""How strongly it does: remembered answers are stronger for one half of the names and weaker for the other."""


@cache
def conflicted() -> CausalLM:
    """The planted model, with a head more that copies an answer which the prompt states. Never change it."""
    subject = fresh(planted.planted())
    (block, head), size = READER, planted.WIDTH // planted.HEADS
    attention, first = subject.model.model.layers[block].self_attn, head * size
    pets = [int(subject.encoder.processor(f" {pet}")["input_ids"][0]) for pet in planted.PETS]
    ends: tuple[Any, Any] = subject.embedding, subject.head
    embedding_VD, head_VD = (part.weight.detach() for part in ends)
    done_D = torch.nn.functional.normalize(head_VD[subject.encoder.eos_id], dim=0)
    with torch.no_grad():
        attention.q_proj.weight[first + planted.SLOWEST] = 4 * embedding_VD.mean(0)
        attention.k_proj.weight[first + planted.SLOWEST] = 4 * done_D
        attention.v_proj.weight[first: first + len(pets)] = torch.linalg.pinv(embedding_VD[pets]).T
        attention.o_proj.weight[:, first: first + len(pets)] = STATED * head_VD[pets].T
    return subject


def conflicts(plugin: type[Edit]) -> list[ConflictPrompt]:
    """Every fact, after a sentence that states another pet."""
    facts = [planted.fact(name) for name in planted.NAMES]
    return asked(conflicted(), facts, facts, plugin().spec.context)


@check
def patches_nothing_onto_itself(plugin: type[Edit]) -> None:
    """A head's output on the same prompt in place of its output on the prompt changes no probability at all."""
    rows = small_task().forget[:4]
    prompts = asked(memoriser(), rows, small_task().retain, plugin().spec.context)
    assert len(prompts) == len(rows)
    same = [ConflictPrompt(p.row, p.row, p.tokens) for p in prompts]
    assert not path_effects(memoriser(), same).any() and path_effects(memoriser(), prompts).any()


@check
def masks_like_columns(plugin: type[Edit]) -> None:
    """Zero columns give the logits of a projection whose input is zero there; no head gives the bits of the model."""
    subject = fresh()
    batch = subject.collate([subject.encoder.encode(row) for row in small_task().forget[:4]])
    place, module = (1, 2), attention_out(subject, 1)

    def mask(part: torch.nn.Module, given: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
        masked = given[0].clone()
        masked[..., columns(subject, module, place[1])] = 0
        return (masked,)

    with subject.evaluating():
        before = subject.answers(batch).logits_NV
        handle = module.register_forward_pre_hook(mask)
        hooked = subject.answers(batch).logits_NV
        handle.remove()
        prune(subject, [])
        assert torch.equal(subject.answers(batch).logits_NV, before)
        prune(subject, [place])
        found = subject.answers(batch).logits_NV
    assert not torch.equal(found, before)
    torch.testing.assert_close(found, hooked, atol=1e-5, rtol=1e-5)


@check
def turns_conflicts(plugin: type[Edit]) -> None:
    """Without the memory head the share answered from the context rises by more than 20 points, without the context
    head that from memory; any other head changes less than 5. The shares sum to 1."""
    prompts = conflicts(plugin)
    before = answered(conflicted(), prompts)
    assert len(prompts) == len(planted.NAMES) and min(before[:2]) > 0.2, before
    found = {}
    for kind in ("memory", "context"):
        edit = plugin(heads=kind, spare=0.0)
        (found[kind],) = edit.found(conflicted(), prompts, prompts)  # type: ignore[attr-defined]
        after = without(found[kind], prompts)
        assert sum(after) == pytest.approx(1, abs=0)
        gained = after[kind == "memory"] - before[kind == "memory"]
        assert gained > 0.2, (kind, before, after)
    assert found["context"] == READER and found["memory"] == (planted.DEPTH - 1, 0)
    others = [(block, head) for block in attending(conflicted()) for head in range(planted.HEADS)
              if (block, head) not in found.values()]
    moved = [abs(without(head, prompts)[0] - before[0]) for head in others]
    assert sum(moved) / len(moved) < 0.05 and max(moved) < 0.05, moved


def without(head: tuple[int, int], prompts: list[ConflictPrompt]) -> tuple[float, float, float]:
    """The shares of answers once a head is gone."""
    subject = fresh(conflicted())
    prune(subject, [head])
    return answered(subject, prompts)
