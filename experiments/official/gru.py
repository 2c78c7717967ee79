"""gru against the authors' trainer: its steps with their running mean, projection and clipped projection."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from expunge.methods.combine.gru import GRU
from expunge.training.gradients import inner
from official.bed import Bed, Difference, Found, difference
from official.taken import instance

REPOSITORY = "tmlr-group/GRU"
COMMIT = "fbbf93a6e2ac03a5152309cc1103d1b64d2dd355"
FILE = "dataloader_faster_refactor1.py"
Parts = Sequence[Tensor]


def compare(code: Path, seed: int) -> Iterator[Difference]:
    for gamma, clipped, retain in ((0.6, False, False), (0.99, False, True), (0.6, True, False)):
        bed, steps = Bed(seed), []
        for number in range(3):
            other = Bed(seed + 50 * number)  # other rows at other weights: the gradients of one step
            ours = other.ours("ga", "forget").gradient, other.ours("retain_nll", "retain").gradient
            # One step in conflict, one mildly so and one without.
            steps.append((list(ours[0]), _turned(*ours, (-0.8, -0.2, 0.5)[number])))
        mine = GRU(gamma=gamma, floor=-0.5 if clipped else -1.0, retain=float(retain))
        theirs = _trainer(code, bed.model, gamma, clipped, retain)
        for number, (forget, kept) in enumerate(steps):
            found = Found(None, list(mine(forget, kept)))
            yield difference(f"gamma {gamma}{', clipped' * clipped}{', retain gradient added' * retain}, step {number}",
                             found, Found(None, theirs(forget, kept)))


def _turned(forget: Parts, retain: Parts, cosine: float) -> list[Tensor]:
    """`retain` with this cosine to `forget`."""
    share = inner(forget, retain) / inner(forget, forget)
    off = [r - share * f for f, r in zip(forget, retain, strict=True)]
    unit = (inner(off, off) / inner(forget, forget)) ** 0.5
    along = cosine / (1 - cosine ** 2) ** 0.5 * unit
    return [o + along * f for f, o in zip(forget, off, strict=True)]


def _trainer(code: Path, model: Any, gamma: float, clipped: bool, retain: bool) -> Any:
    """Their trainer with what it computes from losses replaced by given gradients; returns a step's update."""
    named = list(model.named_parameters())
    shapes = [(name, p.shape) for name, p in named]
    given: dict[str, Tensor] = {}
    trainer = instance(
        code / FILE, "CustomTrainerForgetting", {"is_sagemaker_mp_enabled": lambda: False}, gradient_edit=True, steps=0,
        gradient_accumulation_steps=1, moving_avg=gamma, flattened_memory_old=0.0, gru_type="proj", cos_clip=clipped,
        with_KL_gradient=False, with_ce_gradient=retain, ce_coeff=1.0, use_apex=False, structure_map=shapes,
        _prepare_inputs=lambda inputs: inputs, compute_loss_context_manager=contextlib.nullcontext,
        compute_loss=lambda model, inputs: torch.zeros(()),
        args=SimpleNamespace(n_gpu=1, optim="adamw", gradient_accumulation_steps=1))
    trainer.flatten_and_store_grads = lambda: vars(trainer).update(
        flattened_gradient=given["forget"], flattened_memory_accumulation=given["retain"])
    # Theirs moves both to a GPU; the sum over all parameters is the same.
    trainer.compute_total_gradient_dot_product = lambda a, _, b, __: float(a @ b)

    def update(forget: Parts, kept: Parts) -> list[Tensor]:
        given.update(forget=torch.cat([f.flatten() for f in forget]), retain=torch.cat([r.flatten() for r in kept]))
        with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet):
            trainer.training_step(model, {})
        return [p.grad.clone() for _, p in named]

    return update
