"""Targets of `rocr` besides a replacement: what makes the model refuse, and noise of that length."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from expunge.methods._lib.key_value import TEMPLATES, Mentions
from expunge.methods._lib.refusal_value import RefusalValue
from expunge.methods.edits.rocr import ROCR
from expunge.models.language import CausalLM
from expunge.models.tiny import build_subject
from expunge.records.task import Example
from expunge.testing.support import CONFIG, fresh, small_task, train

BLOCK = 1
WORDS = "I cannot say"


@pytest.fixture(scope="module")
def subject() -> CausalLM:
    """It has seen its rows a few times: in a new model the residual stream is too short for the published penalty."""
    made = build_subject(CONFIG, small_task().texts())
    train("retain_nll", subject=made, forget=(), retain=small_task().retain, steps=30, lr=5e-3)
    made.model.double().requires_grad_(False)
    return made


def name() -> str:
    return small_task().forget[0].entity


def logits(subject: CausalLM, ids: list[int], at: int, delta_D: Tensor) -> Tensor:
    """One row of ids through the plain model, with `delta_D` added to a block's output at one position."""
    def push(module: torch.nn.Module, given: object, out: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        value = out[0] if isinstance(out, tuple) else out
        step = torch.nn.functional.one_hot(torch.tensor(at), value.shape[1]).double()
        value = value + step[None, :, None] * delta_D
        return (value, *out[1:]) if isinstance(out, tuple) else value

    handle = list(subject.blocks.values())[BLOCK].register_forward_hook(push)
    try:
        found: Tensor = subject.model(input_ids=torch.tensor([ids])).logits[0]
    finally:
        handle.remove()
    return found


def last_of_name(subject: CausalLM, ids: list[int]) -> int:
    """The first position after which the text holds the name as often as the whole."""
    decode = subject.encoder.processor.decode
    return next(i for i in range(len(ids)) if decode(ids[: i + 1]).count(name()) == decode(ids).count(name()))


def by_hand(subject: CausalLM, delta_D: Tensor, start_D: Tensor) -> Tensor:
    """nll + 0.125 KL(now || before) + 0.5 |d| / |z|^2, prompt by prompt."""
    losses = []
    for template in TEMPLATES:
        example = Example(id="x", prompt=template.format(f"{name()}."), answer=WORDS)
        row = subject.encoder.encode(example)
        ids, at = list(row.ids), last_of_name(subject, list(row.ids[: row.prompt]))
        out = logits(subject, ids, at, delta_D).log_softmax(-1)
        losses.append(-torch.stack([out[t - 1, ids[t]] for t in range(row.prompt, row.prompt + row.answer)]).mean())
    ids = list(subject.encoder.prompt(Example(id="e", prompt=f"{name()} is a", answer=WORDS)))
    at = last_of_name(subject, ids)
    now, before = (logits(subject, ids, at, d)[at].log_softmax(-1) for d in (delta_D, torch.zeros_like(delta_D)))
    return torch.stack(losses).mean() + 0.125 * (now.exp() * (now - before)).sum() \
        + 0.5 * delta_D.norm() / start_D.norm() ** 2


def test_loss_and_gradient_are_the_published_ones(subject: CausalLM) -> None:
    value = RefusalValue(subject, name(), BLOCK, WORDS)
    generator = torch.Generator().manual_seed(0)
    delta_D = (0.05 * torch.randn(64, generator=generator, dtype=torch.float64)).requires_grad_(True)
    mine, theirs = value.loss(delta_D), by_hand(subject, delta_D, value.start_D)
    torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-6)
    got, want = (torch.autograd.grad(loss, delta_D)[0] for loss in (mine, theirs))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


def test_descent_makes_the_refusal_likelier_within_its_bound(subject: CausalLM,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """With a rate and a penalty that fit a model of 64 dimensions."""
    monkeypatch.setattr("expunge.methods._lib.refusal_value.DECAY", 1e-3)
    value = RefusalValue(subject, name(), BLOCK, WORDS)
    found_D = value.found(rate=0.02)
    moved_D = found_D - value.start_D
    after, before = (float(value.loss(d)) for d in (moved_D, torch.zeros_like(moved_D)))
    assert after < before - 0.01
    assert 0 < float(moved_D.norm()) <= float(value.start_D.norm()) * (1 + 1e-9)
    assert torch.equal(value.start_D, Mentions(subject, name()).value(subject, BLOCK))


@pytest.mark.parametrize("target", ["refusal", "noise"])
def test_the_edit_moves_the_name_towards_its_target(subject: CausalLM, target: str) -> None:
    changed = fresh(subject)
    options = {"target": target, "refusal": WORDS, "rate": 0.02, "layers": [0, BLOCK], "threshold": 1.0,
               "relative": True, "penalty": 1e-3}
    figures = ROCR(**options).apply(changed, small_task(), seed=0)
    assert figures["likeness"] > max(0.7, figures["likeness_before"])
    assert figures["layers"]["0"]["rank"] == figures["entities"] == 2


def test_noise_has_the_length_of_the_refusal_and_depends_on_the_seed(subject: CausalLM) -> None:
    names = [name()]
    aimed, *drawn = (ROCR(target=t, refusal=WORDS)._targets(subject, names, BLOCK, seed)
                     for t, seed in (("refusal", 0), ("noise", 0), ("noise", 0), ("noise", 1)))
    assert all(float(d.norm()) == pytest.approx(float(aimed.norm()), rel=1e-9) for d in drawn)
    assert torch.equal(drawn[0], drawn[1]) and not torch.allclose(drawn[0], drawn[2])
