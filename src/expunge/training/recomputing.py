"""Gradient checkpointing: activations are computed again on the way back rather than kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from expunge.errors import UsageError
from expunge.models.subject import Subject


@contextmanager
def recomputing(subject: Subject, wanted: bool) -> Iterator[None]:
    """While it lasts, the model keeps only the inputs of its blocks when it trains; the former way comes back.

    Raises:
        UsageError: the model's class knows no gradient checkpointing.
    """
    model = subject.model
    if not wanted or getattr(model, "is_gradient_checkpointing", False):
        yield
        return
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise UsageError(f"{type(model).__name__} knows no gradient checkpointing.",
                         fix="Leave --gradient-checkpointing out; --accumulate with a smaller --batch-size saves "
                             "memory too.")
    # Gradients are asked for by name (torch.autograd.grad), which the reentrant kind does not allow.
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    try:
        yield
    finally:
        model.gradient_checkpointing_disable()
