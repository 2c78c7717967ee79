"""Signed steps of the soft prompt: every coordinate moves by the rate against the sign of its gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from expunge.attacks._lib.vectors import clipped, descend, with_placeholders
from expunge.attacks.soft_prompt import SoftPrompt
from expunge.models.language import CausalLM
from expunge.models.tiny import build_subject
from expunge.testing.support import CONFIG, small_task


@pytest.fixture(scope="module")
def subject() -> CausalLM:
    made = build_subject(CONFIG, small_task().texts())
    made.model.double().requires_grad_(False)
    return made


def by_hand(subject: CausalLM, vectors_PD: Tensor, count: int) -> tuple[float, Tensor]:
    """Mean loss per answer token, from embeddings put together row by row, and its gradient on the vectors."""
    free_PD, table = vectors_PD.double().requires_grad_(True), subject.embedding.weight
    losses, tokens = [], 0
    for example in small_task().forget[:4]:
        row = subject.encoder.encode(example)
        begins = int(row.ids[0] == subject.encoder.processor.bos_token_id)
        ids = torch.tensor(row.ids)
        inputs = torch.cat([table[ids[:begins]], free_PD, table[ids[begins:]]])[None]
        logits = subject.model(inputs_embeds=inputs).logits[0]
        for t in range(row.prompt, len(row.ids)):
            losses.append(-logits[t + count - 1].log_softmax(-1)[row.ids[t]])
            tokens += 1
    loss = torch.stack(losses).sum() / tokens
    return float(loss.detach()), torch.autograd.grad(loss, free_PD)[0]


@pytest.mark.parametrize("radius", [None, 1.0])
def test_signed_steps_follow_the_sign(subject: CausalLM, radius: float | None) -> None:
    count, lr = 3, 0.06
    prompted = with_placeholders(subject, count, "before")
    rows = [prompted.encoder.encode(r) for r in small_task().forget[:4]]
    lengths = subject.embedding.weight.norm(dim=-1)
    rate = lr * float(lengths.mean()) / subject.model.config.hidden_size ** 0.5

    def after(steps: int) -> list[tuple[float, Tensor]]:
        return list(descend(prompted, rows, steps=steps, lr=lr, radius=radius, count=count, seed=0, signed=True))

    ((loss, start_PD),) = after(0)
    expected, gradient_PD = by_hand(subject, start_PD, count)
    assert loss == pytest.approx(expected, rel=1e-5)
    second, next_PD = after(1)[-1]
    assert second < loss, "the first step is long enough to go past the minimum"
    moved_PD = start_PD - rate * gradient_PD.sign()
    if radius is not None:
        moved_PD = moved_PD * (radius * lengths.mean() / moved_PD.norm(dim=-1, keepdim=True)).clamp_max(1.0)
    torch.testing.assert_close(next_PD.double(), moved_PD.double(), rtol=1e-4, atol=1e-6)
    assert second == pytest.approx(by_hand(subject, next_PD, count)[0], rel=1e-5)


def test_no_radius_means_no_bound() -> None:
    long_PD = torch.full((2, 4), 1e6)
    assert torch.equal(clipped(long_PD, float("inf")), long_PD)
    assert SoftPrompt(radius=None, update="sign").spec.update == "sign"
    assert SoftPrompt().spec.update == "adam" and SoftPrompt().spec.radius == 1.0
