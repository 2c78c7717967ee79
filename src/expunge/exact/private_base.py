"""The base of DP2Unlearning: trained under differential privacy, with figures of what it gives away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from expunge.exact.noisy_training import loss_of_rows, train_noisily
from expunge.exact.privacy import epsilon_of, group_bound, noise_for
from expunge.methods.run_context import RunContext
from expunge.models.adapter import add_adapter
from expunge.models.language import CausalLM
from expunge.models.scope import Scope
from expunge.records.task import Example
from expunge.seeding import derive
from expunge.training.checkpoint import put, take

LEARNED = 0.01
"""A base whose loss fell by less than this share has learned nothing worth the name."""


def make_private(subject: CausalLM, rows: Sequence[Example], run: RunContext, *, epsilon: float, delta: float | None,
                 noise: float | None, clip: float, dp_lr: float, dp_epochs: float, dp_batch: int,
                 dp_rank: int | None, ghost: bool, secret: bool) -> dict[str, Any]:
    """Train the subject's weights under differential privacy, in place; figures of what that gives away.

    Options are those of `dp2unlearning`.
    """
    count, dtype = len(rows), subject.model.dtype
    rate = min(dp_batch / count, 1.0)
    steps, delta = round(dp_epochs / rate), delta or count ** -1.1
    noise = noise or (noise_for(epsilon, rate, steps, delta) if steps else 0.0)
    encoded = [subject.encoder.encode(row) for row in rows]
    before = mean_loss(subject, encoded)
    subject.model.float()
    scope = add_adapter(subject, rank=dp_rank, seed=derive(run.seed, "dp")) if dp_rank else Scope(
        subject, tuple(name for name, _ in subject.model.named_parameters()))
    generator, kept = torch.Generator(), None if run.folder is None else run.folder / "private_base.safetensors"
    generator.manual_seed(derive(run.seed, "dp", "noise"))
    if secret:
        generator.seed()
    if kept is not None and kept.exists():  # made before an interruption; made again it would cost epsilon again
        with torch.no_grad():
            put(scope.parameters, load_file(kept))
    else:
        tick = run.announce("private base", steps)
        train_noisily(subject, scope, encoded, steps=steps, rate=rate, clip=clip, noise=noise, lr=dp_lr,
                      generator=generator, ghost=ghost and bool(dp_rank), on_step=lambda done: tick(1))
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            save_file(take(scope.parameters), kept.with_suffix(".new"))
            kept.with_suffix(".new").replace(kept)
    if dp_rank:
        subject.model = subject.model.merge_and_unload()
        vars(subject.model).pop("peft_config", None)
        subject.renamed()
    subject.model.to(dtype).requires_grad_(False)
    after = mean_loss(subject, encoded)
    most = max(Counter(row.entity or row.id for row in rows).values())
    spent = epsilon_of(noise, rate, steps, delta)
    fell = (before - after) / before
    return {
        "epsilon": spent, "delta": delta, "noise": noise, "clip": clip, "rate": rate, "steps": steps,
        "largest_entity": {"rows": most, "epsilon": epsilon_of(noise, rate, steps, delta, most),
                           "textbook_epsilon_and_delta": group_bound(spent, delta, most)},
        "noise_from": "the operating system" if secret else
        "the run's seed: the bound holds against those who do not know it; secret=True draws it elsewhere",
        "loss_before": before, "loss_after": after, "loss_fell_by": fell,
        **({} if fell >= LEARNED else {"warning": (
            "The private base learned next to nothing of the rows: it is the start with noise, and this is "
            "fine-tuning the start. A larger dp_lr, epsilon or dp_epochs would change that.")}),
    }


@torch.no_grad()
def mean_loss(subject: CausalLM, rows: Sequence[Any]) -> float:
    """Mean loss of the rows, each as much as any other."""
    sums = [loss_of_rows(subject, rows[i: i + 16]).sum() for i in range(0, len(rows), 16)]
    return float(torch.stack(sums).sum() / len(rows))
