"""Importance of every weight for some rows: one pass with gradients; no weight changes.

A row is one sample, and its loss is the mean over its answer tokens (prompt and padding never count),
so a batch's loss is a mean over samples, as in the classifier papers these measures come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from expunge.data.encoder import Row
from expunge.models.answers import Answers
from expunge.models.subject import Subject
from expunge.seeding import stream

Loss = Callable[[Answers], Tensor]
"""Answers of a batch -> one loss per row, shape B."""
Importance = dict[str, Tensor]
"""Parameter name -> float32 tensor of its shape; a tied weight occurs once, under its first name."""


def answer_loss(answers: Answers) -> Tensor:
    """Mean negative log-likelihood per answer token of every row, nats, shape B."""
    return answers.row_means(-answers.logp_N)


def output_norm(answers: Answers) -> Tensor:
    """Mean over a row's answer positions of the squared norm of the logits, shape B; needs no labels."""
    return answers.row_means(answers.logits_NV.float().pow(2).sum(-1))


def summed_gradient(subject: Subject, rows: Sequence[Row], *, batch_size: int = 8,
                    names: Sequence[str] | None = None) -> Importance:
    """Signed gradient of the sum of the rows' answer losses; independent of batching and order.

    Args:
        names: names of the parameters; all if left out.
    """
    return _accumulate(subject, rows, batch_size, names, answer_loss, lambda gradient, count: gradient * count)


def importance(subject: Subject, rows: Sequence[Row], *, batch_size: int, seed: int = 0,
               loss_free: bool = False, names: Sequence[str] | None = None) -> Importance:
    """Mean over batches of the squared gradient of the batch's mean loss (SSD, arXiv 2308.07707).

    The batch mean is squared, so noise counts 1/batch_size as much: compare importances of one batch size
    only; 1 gives the diagonal of the per-sample Fisher matrix. Rows are shuffled by `seed`,
    and batches are weighted by their number of rows, for a smaller last one.

    Args:
        loss_free: instead the mean absolute gradient of the squared norm of the logits
            (LFSSD, arXiv 2402.19308), which needs no labels.
    """
    rows = list(rows)
    stream(seed, "importance").shuffle(rows)
    if loss_free:
        sums = _accumulate(subject, rows, batch_size, names, output_norm, lambda g, count: g.abs() * count)
    else:
        sums = _accumulate(subject, rows, batch_size, names, answer_loss, lambda g, count: g.pow(2) * count)
    return {name: value.div_(len(rows)) for name, value in sums.items()}


def _accumulate(subject: Subject, rows: Sequence[Row], batch_size: int, names: Sequence[str] | None,
                loss: Loss, part: Callable[[Tensor, int], Tensor]) -> Importance:
    """Sum over batches of part(gradient of the batch's mean loss, number of rows), in evaluation mode."""
    known = dict(subject.model.named_parameters())
    chosen = known if names is None else {name: known[name] for name in names}
    sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in chosen.items()}
    with differentiable(subject, list(chosen.values())):
        for start in range(0, len(rows), batch_size):
            batch = subject.collate(rows[start: start + batch_size])
            value = loss(subject.answers(batch)).mean()
            gradients = torch.autograd.grad(value, list(chosen.values()), allow_unused=True)
            for name, gradient in zip(chosen, gradients, strict=True):
                if gradient is not None:
                    sums[name] += part(gradient.float(), len(batch))
    return sums


def positions(subject: Subject, *rows: Sequence[Row], batch_size: int = 64) -> int:
    """Positions that one pass over all these rows takes a gradient at."""
    return sum(subject.collate(side[start: start + batch_size]).count("positions")
               for side in rows for start in range(0, len(side), batch_size))


@contextmanager
def differentiable(subject: Subject, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Evaluation mode with gradients for these parameters only; restores mode and flags on exit."""
    model = subject.model
    flags, training = {p: p.requires_grad for p in model.parameters()}, model.training
    model.requires_grad_(False).eval()
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            yield
    finally:
        for parameter, before in flags.items():
            parameter.requires_grad_(before)
        model.train(training)


def largest(values: Importance, density: float) -> dict[str, Tensor]:
    """Masks of the largest elements over all tensors: a share `density` of them, at least one.

    The k-th largest value is found by bisection over the bit patterns of non-negative floats, without a
    concatenated copy or a sort. Ties, such as zeros of unused tokens, are filled in parameter order.
    """
    wanted = max(round(density * sum(v.numel() for v in values.values())), 1)
    low, high = 0, 0x7F800000  # as int32, finite non-negative floats keep their order
    while low < high:
        middle = (low + high + 1) // 2
        if _above(values, middle) >= wanted:
            low = middle
        else:
            high = middle - 1
    left = wanted - _above(values, low + 1)
    masks = {}
    for name, value in values.items():
        bits = _bits(value)
        tied = (bits == low).flatten()
        taken = tied & (tied.cumsum(0) <= left)
        left -= int(taken.sum())
        masks[name] = (bits > low) | taken.view_as(bits)
    return masks


def _above(values: Importance, bits: int) -> int:
    return sum(int((_bits(v) >= bits).sum()) for v in values.values())


def _bits(values: Tensor) -> Tensor:
    """Of float32, so that wider or narrower floats give masks of their own shape; no copy of what has that type."""
    return values.float().contiguous().view(torch.int32)
