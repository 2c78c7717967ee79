"""A latent adversary: perturbations of activations that raise or lower what a model says.

Legend: B rows, T padded length, D hidden size, N supervised tokens (flat).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from expunge.data.text_encoder import TokenBatch
from expunge.models.answers import Answers
from expunge.models.language import CausalLM
from expunge.models.sites import Site, write


def away(answers: Answers, floor: float = -5.0) -> Tensor:
    """-log(1 - p) of every supervised token, exact near p = 1; 0 where log p < floor. Shape N, nats."""
    logits_NV = answers.logits_NV.float()
    others_NV = logits_NV.scatter(1, answers.batch.target_N[:, None], float("-inf"))
    loss_N = logits_NV.logsumexp(-1) - others_NV.logsumexp(-1)
    return torch.where(answers.logp_N.detach() < floor, 0.0, loss_N)


def positions(batch: TokenBatch, mask: Literal["prompt", "all"]) -> Tensor:
    """1 where a perturbation may stand: the prompt, or every real token; every real token of running text. B T."""
    free_BT = batch.attention_BT.float()
    for b, row in enumerate(batch.rows):
        if mask == "prompt" and row.prompt > 1:  # running text has at most a first token that nothing predicts
            free_BT[b, row.prompt:] = 0
    return free_BT


def project(delta_BTD: Tensor, eps: float, ball: Literal["token", "row"]) -> None:
    """Project in place onto the L2 ball of radius eps, per token or per row."""
    norm = delta_BTD.norm(dim=-1 if ball == "token" else (1, 2), keepdim=True)
    delta_BTD.mul_((eps / norm.clamp_min(1e-12)).clamp_max(1.0))


def lowest(loss: Callable[[list[Tensor]], Tensor], start: Sequence[Tensor], *, steps: int, lr: float, eps: float,
           ball: Literal["token", "row"]) -> list[Tensor]:
    """Perturbations with a low loss: AdamW from `start`, projected onto the ball after every step. No gradient."""
    deltas = [delta_BTD.requires_grad_(True) for delta_BTD in start]
    optimizer = torch.optim.AdamW(deltas, lr=lr)
    for _ in range(steps):
        with torch.enable_grad():
            gradients = torch.autograd.grad(loss(deltas), deltas)
        for delta_BTD, gradient in zip(deltas, gradients, strict=True):
            delta_BTD.grad = gradient
        optimizer.step()
        with torch.no_grad():
            for delta_BTD in deltas:
                project(delta_BTD, eps, ball)
    return [d.detach() for d in deltas]


def carried(delta_BTD: Tensor, batch: TokenBatch, other: TokenBatch) -> Tensor:
    """The perturbation of `batch` on `other`: itself, or on the prompts its rows share with those of `other`."""
    if other is batch:
        return delta_BTD
    moved_BTD = delta_BTD.new_zeros(*other.ids_BT.shape, delta_BTD.shape[-1])
    for b, (mine, theirs) in enumerate(zip(batch.rows, other.rows, strict=True)):
        if mine.ids[: mine.prompt] == theirs.ids[: theirs.prompt]:
            moved_BTD[b, : mine.prompt] = delta_BTD[b, : mine.prompt]
    return moved_BTD


def placed(delta_BTD: Tensor, other: TokenBatch) -> Tensor:
    """The perturbation of each row on the same positions of the row beside it in another batch."""
    width = min(delta_BTD.shape[1], other.ids_BT.shape[1])
    moved_BTD = delta_BTD.new_zeros(*other.ids_BT.shape, delta_BTD.shape[-1])
    moved_BTD[:, :width] = delta_BTD[:, :width]
    return moved_BTD


def sites_at(subject: CausalLM, slot: Literal["mlp", "block", "embedding"], layers: Sequence[int]) -> list[Site]:
    """Where activations are perturbed; raises UsageError for blocks or parts the model does not have."""
    sites = [Site(slot="embedding")] if slot == "embedding" else [Site(layer, slot) for layer in layers]
    for site in sites:
        site.place(subject)
    return sites


@contextmanager
def pushed(subject: CausalLM, sites: Sequence[Site], deltas: Sequence[Tensor]) -> Iterator[None]:
    """Each delta (B T D) added to the value at its site."""

    def push(delta_BTD: Tensor, given: Tensor, value_BTD: Tensor) -> Tensor:
        return value_BTD + delta_BTD.to(value_BTD.dtype)

    with ExitStack() as stack:
        for site, delta_BTD in zip(sites, deltas, strict=True):
            stack.enter_context(write(subject, site, partial(push, delta_BTD)))
        yield
