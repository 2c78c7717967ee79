"""A latent adversary: perturbations of activations that raise or lower what a model says.

Legend: B rows, T padded length, D hidden size, N supervised tokens (flat).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from expunge.data.text_encoder import TokenBatch
from expunge.errors import UsageError
from expunge.models.answers import Answers
from expunge.models.language import CausalLM

MLP = ("mlp", "feed_forward", "ffn", "block_sparse_moe")
"""What families call the MLP of a block."""


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
    """Scale back, in place, what lies outside the L2 ball of each token, or of each row."""
    norm = delta_BTD.norm(dim=-1 if ball == "token" else (1, 2), keepdim=True)
    delta_BTD.mul_((eps / norm.clamp_min(1e-12)).clamp_max(1.0))


def carried(delta_BTD: Tensor, batch: TokenBatch, other: TokenBatch) -> Tensor:
    """The perturbation of `batch` on `other`: itself, or on the prompts its rows share with those of `other`."""
    if other is batch:
        return delta_BTD
    moved_BTD = delta_BTD.new_zeros(*other.ids_BT.shape, delta_BTD.shape[-1])
    for b, (mine, theirs) in enumerate(zip(batch.rows, other.rows, strict=True)):
        if mine.ids[: mine.prompt] == theirs.ids[: theirs.prompt]:
            moved_BTD[b, : mine.prompt] = delta_BTD[b, : mine.prompt]
    return moved_BTD


def modules_at(subject: CausalLM, site: Literal["mlp", "block", "embedding"], layers: Sequence[int]) -> list[nn.Module]:
    """The modules whose output is perturbed; raises UsageError for blocks or parts the model does not have."""
    if site == "embedding":
        return [subject.model.get_input_embeddings()]
    blocks = list(subject.blocks.values())
    wrong = [i for i in layers if not 0 <= i < len(blocks)]
    if wrong:
        raise UsageError(f"The model has no block {wrong[0]} to perturb.", f"It has {len(blocks)}, numbered from 0.")
    chosen = [blocks[i] for i in layers]
    if site == "block":
        return chosen
    found = [next((m for name, m in block.named_children() if name in MLP), None) for block in chosen]
    if None in found:
        raise UsageError("The blocks of this model have no part that is called an MLP.", fix='Use site="block".')
    return [m for m in found if m is not None]


@contextmanager
def pushed(modules: Sequence[nn.Module], deltas: Sequence[Tensor]) -> Iterator[None]:
    """Each delta (B T D) added to the output of its module."""

    def push(delta_BTD: Tensor, module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] + delta_BTD.to(output[0].dtype), *output[1:])
        return output + delta_BTD.to(output.dtype)

    handles = []
    try:
        for module, delta_BTD in zip(modules, deltas, strict=True):
            handles.append(module.register_forward_hook(partial(push, delta_BTD)))
        yield
    finally:
        for handle in handles:
            handle.remove()
