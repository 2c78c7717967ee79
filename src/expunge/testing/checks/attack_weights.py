"""Promises of attacks on weights, and three more models to attack: each hides where one of them looks."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from expunge.attacks._lib.matrices import input_norms, matrices
from expunge.attacks._lib.rounding import NF4, code_identity, codes, nf4, round_to_nearest, scales, torchao_rounded
from expunge.attacks.base import Attack, AttackContext, View
from expunge.attacks.interpolate import mixed
from expunge.attacks.prune import Prune, set_difference, smallest
from expunge.attacks.quantise import Quantise
from expunge.attacks.refit_head import RefitHead, head_scope
from expunge.errors import UsageError
from expunge.methods.stage import StageMethod
from expunge.models.adapter import add_adapter
from expunge.models.language import CausalLM
from expunge.models.scope import Scope
from expunge.models.subject import checksum
from expunge.models.tiny import build_subject
from expunge.records.task import Example

from .. import attack_bed as bed
from .. import support
from .base import check

SMALL = {"steps": 60, "lr": 1e-4}
"""Steps of unlearning that are small beside the steps of 4-bit weights."""
IDLE = 8
"""Idle neurons per block of the gated model."""
PUBLISHED_NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)
"""QLoRA (arXiv 2305.14314), appendix E."""


def forgot(subject: CausalLM, recipe: str = "npo + retain_nll", **options: Any) -> CausalLM:
    """A copy that unlearned the forget people."""
    copy = support.fresh(subject)
    support.train(recipe, subject=copy, forget=bed.task().forget, retain=bed.task().retain, **(SMALL | options))
    copy.model.requires_grad_(False)
    return copy


@cache
def coarse() -> CausalLM:
    """The original with its matrices on the grid of 4 bits, as models released in few bits have them."""
    return attacked(Quantise(bits=4), bed.original())


@cache
def on_the_grid() -> CausalLM:
    """Unlearned from the coarse one, in steps smaller than half a step of the grid."""
    return forgot(coarse(), steps=100)


@cache
def sparse() -> CausalLM:
    """Unlearned from the original without the smaller half of its weights, in steps smaller than what is left."""
    return forgot(attacked(Prune(share=0.5), bed.original()))


@cache
def gated() -> CausalLM:
    """The original with idle neurons beside it, and only they have learned to keep the forget people back."""
    width = support.CONFIG["intermediate_size"]
    assert isinstance(width, int)
    wide = build_subject(support.CONFIG | {"intermediate_size": width + IDLE}, bed.task().texts())
    known, free = support.weights(bed.original()), {}
    with torch.no_grad():
        for name, weight in wide.model.named_parameters():
            old = known[name]
            free[name] = torch.ones_like(weight, dtype=torch.bool)
            inside = tuple(slice(n) for n in old.shape)
            free[name][inside] = False
            if "down_proj" in name:
                weight.zero_()  # idle: no weight reads the outputs of the new neurons
            weight[inside] = old

    def only_idle(scope: Scope, method: StageMethod) -> None:
        scope.__dict__.update(Scope(scope.subject, scope.names, free).__dict__)

    support.train("npo + retain_nll(weight=3)", subject=wide, forget=bed.task().forget, retain=bed.task().retain,
                  steps=90, lr=1e-2, prepare=only_idle)
    wide.model.requires_grad_(False)
    return wide


@cache
def head_suppressed() -> CausalLM:
    """Unlearned by its output head alone, so that its features are the original's."""
    copy = support.fresh(bed.original())
    head_scope(copy)  # the head gets weights of its own before the loop looks

    def only_head(scope: Scope, method: StageMethod) -> None:
        scope.__dict__.update(head_scope(scope.subject).__dict__)

    support.train("npo + retain_nll", subject=copy, forget=bed.task().forget, retain=bed.task().retain,
                  steps=60, lr=3e-3, prepare=only_head)
    copy.model.requires_grad_(False)
    return copy


HIDING: dict[str, Callable[[], CausalLM]] = {
    "on the grid": on_the_grid, "sparse": sparse, "gated": gated, "head suppressed": head_suppressed}
bed.MODELS.update(HIDING)


def attacked(attack: Attack, subject: CausalLM) -> CausalLM:
    """The one subject an attack hands out, kept beyond it."""
    found: list[View] = []
    attack.run(subject, bed.context(), found.append)
    (view,) = found
    return view.subject


def loss(subject: CausalLM) -> float:
    return support.loss(subject, bed.task().forget)


def logits(subject: CausalLM, rows: Sequence[Example] | None = None) -> Tensor:
    with subject.evaluating():
        return subject.answers(support.batch_of(subject, rows or bed.task().forget[:6])).logits_NV


@check
def rounds_by_hand(plugin: type[Quantise]) -> None:
    """Even steps and their codes, a short last group, zeros, a worst error of half a step; the published levels."""
    row_OI = torch.tensor([[0.7, -0.34, 0.05, 0.26, 0.0], [0.0, 0.0, 0.0, 0.0, 3.0]])
    assert codes(row_OI, 4).tolist() == [[7, -3, 0, 3, 0], [0, 0, 0, 0, 7]]
    assert codes(row_OI, 4, group=2).tolist() == [[7, -3, 1, 7, 0], [0, 0, 0, 0, 7]], "0.05 of 0.26, in sevenths"
    assert codes(row_OI, 2).tolist() == [[1, 0, 0, 0, 0], [0, 0, 0, 0, 1]]
    torch.testing.assert_close(round_to_nearest(row_OI, 4)[0], torch.tensor([0.7, -0.3, 0.0, 0.3, 0.0]))
    weight_OI = torch.randn(6, 200, generator=torch.Generator().manual_seed(0))
    for bits, group in ((8, 0), (4, 128), (3, 64)):
        rounded_OI = round_to_nearest(weight_OI, bits, group)
        step = scales(weight_OI, bits)  # the row's; no group's is larger
        assert bool(((rounded_OI - weight_OI).abs() <= step / 2 + 1e-6).all()) and not rounded_OI.equal(weight_OI)
        torch.testing.assert_close(round_to_nearest(rounded_OI, bits, group), rounded_OI)
        assert round_to_nearest(weight_OI.bfloat16(), bits, group).dtype == torch.bfloat16
    assert round_to_nearest(weight_OI, 16) is weight_OI
    assert code_identity(weight_OI, weight_OI, 4) == 1.0 and code_identity(weight_OI, -weight_OI, 8) < 0.1
    torch.testing.assert_close(torch.tensor(NF4), torch.tensor(PUBLISHED_NF4), rtol=0, atol=1e-6)
    levels = 2.0 * torch.tensor(NF4)
    assert nf4(levels[None].repeat(2, 4)).equal(levels[None].repeat(2, 4)), "levels stay, also in blocks cut short"
    torch.testing.assert_close(nf4(torch.tensor([[0.14, -2.0, 0.15, 0.0]])),
                               torch.tensor([[2 * NF4[8], -2.0, 2 * NF4[8], 0.0]]))
    nearest = weight_OI.flatten()[:64]
    slow = [min(NF4, key=lambda v: abs(v - float(w / nearest.abs().max()))) for w in nearest]
    torch.testing.assert_close(nf4(weight_OI).flatten()[:64], torch.tensor(slow) * nearest.abs().max())
    with pytest.raises(UsageError, match="nf4 has 4 bits"):
        plugin(form="nf4", bits=8)


@check
def rounds_blocks_only(plugin: type[Quantise]) -> None:
    """Every matrix of a block has few values in each output row, and everything else has the bits it had."""
    gpt2 = build_subject({"model_type": "gpt2", "vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 2},
                         bed.task().texts())
    for subject in (bed.original(), gpt2):
        before, found = support.weights(subject), attacked(plugin(bits=3), subject)
        rounded = {m.name: m for m in matrices(found)}
        assert len(rounded) == (7 * support.DEPTH if subject is not gpt2 else 4 * 2)
        for name, weight in found.model.named_parameters():
            if name not in rounded:
                assert weight.equal(before[name]), name
                continue
            rows = rounded[name].rows
            assert not weight.equal(before[name]) and rows.shape[1] in (32, 64, 160, 128)
            assert max(len(row.unique()) for row in rows[:, :128]) <= 7, name
    conv = dict(gpt2.model.named_modules())["transformer.h.0.attn.c_attn"]
    assert conv.weight.shape == (32, 96) and matrices(gpt2)[0].rows.shape == (96, 32), "rows are outputs"
    linear = nn.Linear(2, 2).requires_grad_(False)
    linear.weight = nn.Parameter(torch.ones(2, 2, dtype=torch.uint8), requires_grad=False)
    packed = support.fresh(gpt2)
    packed.model.transformer.h[1].mlp.c_fc = linear
    with pytest.raises(UsageError, match="quantised already"):
        attacked(plugin(), packed)


@check(trains=True)
def identity_rises_as_lr_falls(plugin: type[Quantise], rates: Sequence[float]) -> None:
    """The share of 4-bit codes that unlearning leaves as they were, in runs of as many steps."""
    before = {m.name: m.rows for m in matrices(bed.original())}
    shares = []
    for rate in rates:
        after = matrices(forgot(bed.original(), lr=rate, steps=10))
        same = [(code_identity(before[m.name], m.rows, plugin().spec.bits, 128), m.rows.numel()) for m in after]
        shares.append(sum(s * n for s, n in same) / sum(n for _, n in same))
    assert all(b > a + 0.02 for a, b in pairwise(shares)) and shares[-1] < 1, shares


@check(trains=True)
def undoes_small_steps(plugin: type[Quantise]) -> None:
    """From weights on the grid: 4 bits go nearly all the way back, 8 bits nowhere, a retrained model stays."""
    origin, moved = coarse(), on_the_grid()
    far = {n: (p - dict(origin.model.named_parameters())[n]).abs().max() for n, p in moved.model.named_parameters()}
    known, lost = loss(origin), loss(moved)
    assert lost > known + 1.5 and max(far.values()) < 0.02, (known, lost)
    back, fine = loss(attacked(plugin(bits=4), moved)), loss(attacked(plugin(bits=8), moved))
    assert back < known + 0.2 * (lost - known), (known, back, lost)
    assert abs(fine - lost) < 0.02 * (lost - known)
    never = bed.retrained()
    assert abs(loss(attacked(plugin(bits=4), never)) - loss(never)) < 0.1


@check
def rounds_adapters(plugin: type[Quantise]) -> None:
    """A large entry that does nothing makes 4 bits zero the rest of an adapter: only `rounded` falls for it."""
    subject = support.fresh(bed.original())
    scope = add_adapter(subject, rank=3, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in scope.parameters.items():
            if "lora_A" in name:
                weight[0] = 0.0  # what the first column of B says is never heard
            else:
                weight.copy_(torch.rand(weight.shape, generator=generator) * 1.2 - 0.6)
                weight[:, 0] = 10.0
    assert loss(subject) > loss(bed.original()) + 1
    bare = attacked(plugin(bits=4), bed.original())
    ways = {way: attacked(plugin(bits=4, adapter=way), subject) for way in ("rounded", "merged", "kept")}
    assert logits(ways["rounded"]).equal(logits(bare)), "all that the adapter said was rounded away"
    assert all(loss(ways[way]) > loss(bed.original()) + 1 for way in ("merged", "kept"))
    assert not logits(ways["merged"]).equal(logits(ways["kept"]))
    assert abs(loss(attacked(plugin(bits=8), subject)) - loss(subject)) < 0.1


@check
def needs_torchao(plugin: type[Quantise]) -> None:
    """Not installed, it says what to install; installed, no weight is farther off than its other scale explains."""
    with patch.dict(sys.modules, {"torchao": None, "torchao.quantization": None}), \
            pytest.raises(UsageError, match="needs torchao") as refused:
        attacked(plugin(backend="torchao"), bed.original())
    assert "'.[torchao]'" in refused.value.fix
    if importlib.util.find_spec("torchao") is not None:
        weight_OI = torch.randn(8, 160, generator=torch.Generator().manual_seed(0))
        for bits in (8, 4, 3):
            step = scales(weight_OI, bits)
            assert bool(((torchao_rounded(weight_OI, bits, 128) - weight_OI).abs() <= step).all())


@check
def ends_at_the_original(plugin: type[Attack]) -> None:
    """At alpha 1 logits are the original's, for any subject; for a subject with an adapter too."""
    adapted = support.fresh(bed.suppressed())
    scope = add_adapter(adapted, rank=2, seed=0)
    with torch.no_grad():
        for weight in scope.parameters.values():
            weight.fill_(0.01)
    for subject in (bed.suppressed(), bed.retrained(), adapted):
        assert not logits(subject).equal(logits(bed.original()))
        assert logits(attacked(plugin(alpha=1.0), subject)).equal(logits(bed.original()))


@check(trains=True)
def mixes_by_hand(plugin: type[Attack]) -> None:
    """The middle is the mean, a tied weight once, whole numbers not at all; the original stays; others are refused."""
    mine = {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)}
    other = {"w": torch.tensor([3.0, 0.0]), "n": torch.tensor(4)}
    found = mixed(mine, other, 0.25)
    assert found["w"].tolist() == [1.5, 1.5] and int(found["n"]) == 3
    before = checksum(bed.original().model.state_dict())
    half = support.weights(attacked(plugin(alpha=0.5), bed.suppressed()))
    for name, weight in bed.original().model.named_parameters():
        torch.testing.assert_close(half[name], (weight + dict(bed.suppressed().model.named_parameters())[name]) / 2)
    assert checksum(bed.original().model.state_dict()) == before
    with pytest.raises(UsageError, match="one architecture"):
        attacked(plugin(), gated())


@check
def prunes_exactly(plugin: type[Prune]) -> None:
    """As many as asked for and the smallest; the rest keeps its bits; ties go in order."""
    tied = [torch.tensor([[2.0, 1.0], [1.0, 3.0]]), torch.tensor([1.0, 0.0])]
    assert [m.int().tolist() for m in smallest(tied, 0.5)] == [[[0, 1], [1, 0]], [0, 1]]
    assert [m.int().tolist() for m in smallest(tied, 0.0)] == [[[0, 0], [0, 0]], [0, 0]]
    assert all(bool(m.all()) for m in smallest(tied, 1.0))
    before = {m.name: m.rows.clone() for m in matrices(bed.original())}
    for scope in ("matrix", "model"):
        found = attacked(plugin(share=0.25, scope=scope), bed.original())
        after = {m.name: m.rows for m in matrices(found)}
        gone = {name: (rows == 0) & (before[name] != 0) for name, rows in after.items()}
        assert all(rows[~gone[name]].equal(before[name][~gone[name]]) for name, rows in after.items())
        counts = [(int(g.sum()), g.numel()) for g in gone.values()]
        assert sum(g for g, _ in counts) == round(0.25 * sum(n for _, n in counts))
        assert all(g == round(0.25 * n) for g, n in counts) == (scope == "matrix")
        for name, mask in gone.items():
            assert before[name][mask].abs().max() <= before[name][~mask].abs().min()
        others = [n for n, _ in found.model.named_parameters() if n not in after]
        assert others and all(support.weights(found)[n].equal(support.weights(bed.original())[n]) for n in others)


@check
def difference_by_hand(plugin: type[Prune]) -> None:
    """Norms of inputs row by row without padding; the top of one side without the top of the other."""
    subject, rows = bed.suppressed(), bed.task().forget[:5]
    found = matrices(subject)
    quick = input_norms(subject, found, rows, batch_size=3)
    seen: list[Tensor] = []
    assert found[-1].module is not None
    handle = found[-1].module.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    for row in rows:
        tokens = subject.encoder.encode(row)
        with subject.evaluating():
            subject.model(input_ids=torch.tensor([tokens.ids]))
        seen[-1] = seen[-1][0, tokens.prompt - 1: len(tokens.ids) - 1] if tokens.prompt else seen[-1][0, :-1]
    handle.remove()
    torch.testing.assert_close(quick[-1], torch.cat(seen).pow(2).mean(0).sqrt(), rtol=1e-4, atol=1e-5)
    mine, other = [torch.tensor([5.0, 4.0, 3.0, 1.0])], [torch.tensor([1.0, 9.0, 2.0, 8.0])]
    assert set_difference(mine, other, 0.75, 0.5)[0].tolist() == [True, False, True, False]
    assert set_difference(mine, other, 0.75, 0.0)[0].tolist() == [True, True, True, False]
    copy = attacked(plugin(by="difference", share=0.02), subject)
    zeros = sum(int((m.rows == 0).sum()) for m in matrices(copy)) / sum(m.rows.numel() for m in matrices(copy))
    assert 0 < zeros <= 0.02 and support.hooks(copy) == []
    without = bed.task().model_copy(update={"utility": ()})
    assert "utility rows" in str(plugin(by="difference").problem(AttackContext.of(without)))


@check(trains=True)
def moves_the_head_only(plugin: type[RefitHead]) -> None:
    """Every tensor but the head keeps its bits, the embedding it was tied to included."""
    before = support.weights(bed.suppressed())
    copy = attacked(plugin(steps=3), bed.suppressed())
    after = dict(copy.model.named_parameters())
    moved = {name for name, value in after.items() if name not in before or not value.equal(before[name])}
    assert moved == {"lm_head.weight"} and copy.head.weight is not copy.embedding.weight
    assert not after["lm_head.weight"].equal(before["model.embed_tokens.weight"])
