"""DP-SGD on an adapter or on all weights: gradients are clipped row by row, and every step adds noise.

The loop is its own, not `fit`: a step needs the gradient of every row alone, and its batch is a Poisson sample that may
be empty. Neighbouring data sets differ by rows that are there or not, so sums are divided by the expected batch.

Legend: B rows of a chunk, N all rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import isinf
from typing import Any

import torch
from torch import Tensor

from expunge.data.text_encoder import TokenRow
from expunge.errors import MissingExtra, install_line
from expunge.models.language import CausalLM
from expunge.models.scope import Scope

CHUNK = 16
"""Rows of a forward pass; sums do not depend on it, beyond rounding."""


def loss_of_rows(subject: CausalLM, rows: Sequence[TokenRow]) -> Tensor:
    """Mean loss of each row's supervised tokens, shape B. The model is called as it is: no pass is shared."""
    batch = subject.encoder.collate(rows).to(subject.device)
    logits_BTV = subject.model(input_ids=batch.ids_BT, attention_mask=batch.attention_BT).logits
    logp_N = logits_BTV.flatten(0, 1)[batch.flat_N].float().log_softmax(-1).gather(-1, batch.target_N[:, None])[:, 0]
    counts_B = torch.bincount(batch.row_N, minlength=len(rows))
    return -logp_N.new_zeros(len(rows)).index_add(0, batch.row_N, logp_N) / counts_B


def clipped_one_by_one(subject: CausalLM, scope: Scope, rows: Sequence[TokenRow], clip: float) -> list[Tensor]:
    """The sum of the rows' gradients, each scaled down to at most `clip`; a backward pass per row."""
    parameters = list(scope.parameters.values())
    sums = [torch.zeros_like(p) for p in parameters]
    for row in rows:
        parts = torch.autograd.grad(loss_of_rows(subject, [row]).sum(), parameters)
        norm = torch.stack([part.norm() for part in parts]).norm()
        for total, part in zip(sums, parts, strict=True):
            total += part * (clip / (norm + 1e-12)).clamp(max=1.0)
    return sums


@contextmanager
def ghosts(subject: CausalLM, clip: float) -> Iterator[Any]:
    """The model wrapped for ghost clipping (Opacus), which gives the rows' norms without their gradients.

    Raises:
        MissingExtra: opacus is not installed.
    """
    try:
        from opacus.grad_sample import GradSampleModuleFastGradientClipping
    except ImportError:
        raise MissingExtra("Ghost clipping needs the package opacus.", "It is not installed.",
                           f"Install it with: {install_line('dp')}; or take dp2unlearning(ghost=False).") from None
    plain = subject.model
    wrapped = GradSampleModuleFastGradientClipping(plain, loss_reduction="sum", max_grad_norm=clip, strict=False)
    subject.model = wrapped
    # Opacus reads layers in training mode alone; the others stay as they are, so that no dropout is drawn.
    layers = [m for m in wrapped.modules() if any(p.requires_grad for p in m.parameters(recurse=False))]
    for layer in layers:
        layer.training = True
    try:
        with warnings.catch_warnings():  # the first layer's input needs no gradient, and that is as it should be
            warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
            yield wrapped
    finally:
        wrapped.to_standard_module()
        subject.model = plain.eval()


def clipped_by_ghosts(subject: CausalLM, scope: Scope, rows: Sequence[TokenRow], clip: float,
                      wrapped: Any) -> list[Tensor]:
    """The same sum by two backward passes over all rows together: one for the norms, one of the scaled losses."""
    parameters = list(scope.parameters.values())
    sums = [torch.zeros_like(p) for p in parameters]
    for start in range(0, len(rows), CHUNK):
        loss_B = loss_of_rows(subject, rows[start: start + CHUNK])
        loss_B.sum().backward(retain_graph=True)
        scale_B = (clip / (wrapped.get_norm_sample() + 1e-12)).clamp(max=1.0)
        wrapped.zero_grad()
        wrapped.disable_hooks()
        parts = torch.autograd.grad((scale_B.detach() * loss_B).sum(), parameters)
        wrapped.enable_hooks()
        for total, part in zip(sums, parts, strict=True):
            total += part
    return sums


def train_noisily(subject: CausalLM, scope: Scope, rows: Sequence[TokenRow], *, steps: int, rate: float, clip: float,
                  noise: float, lr: float, generator: torch.Generator, ghost: bool,
                  on_step: Callable[[int], None] = lambda done: None) -> list[int]:
    """Train the scope in place by SGD on clipped, noisy sums; returns the sizes of the batches.

    Args:
        rate: chance of every row to be in a batch.
        clip: largest norm of a row's gradient; infinite for none.
        noise: standard deviation over `clip`, added once per step, to an empty batch too.
        generator: of batches and noise, on the CPU.
        ghost: by Opacus, where every weight of the scope belongs to a layer that it knows.
    """
    parameters, sizes = list(scope.parameters.values()), list[int]()
    subject.model.eval()  # dropout would make a row's norm depend on the draw

    def run(wrapped: Any) -> None:
        for step in range(steps):
            drawn = (torch.rand(len(rows), generator=generator) < rate).nonzero().flatten().tolist()
            batch = [rows[i] for i in drawn]
            sizes.append(len(batch))
            sums = clipped_one_by_one(subject, scope, batch, clip) if wrapped is None else \
                clipped_by_ghosts(subject, scope, batch, clip, wrapped)
            with torch.no_grad():
                for parameter, total in zip(parameters, sums, strict=True):
                    if noise > 0:
                        drawn_noise = torch.randn(parameter.shape, generator=generator)
                        total += drawn_noise.to(total) * noise * clip
                    parameter.sub_(lr * total / (rate * len(rows)))
            on_step(step + 1)

    if ghost and not isinf(clip):
        with ghosts(subject, clip) as wrapped:
            run(wrapped)
    else:
        run(None)
    return sizes
