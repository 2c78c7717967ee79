"""Gradient checkpointing: activations are recomputed in the backward pass instead of stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from expunge.errors import UsageError
from expunge.models.subject import Subject


def without_checkpointing(what: str) -> UsageError:
    """The error for plug-ins that act within the forward pass."""
    return UsageError(f"{what} does not go with gradient checkpointing.",
                      "The backward pass would recompute activations without it.",
                      "Leave --gradient-checkpointing out.")


def cannot_recompute(subject: Subject) -> list[UsageError]:
    """What stands against gradient checkpointing of this model; its class tells, weights are not needed."""
    model = _bare(subject)
    return [] if getattr(model, "supports_gradient_checkpointing", False) else [
        UsageError(f"{type(model).__name__} does not support gradient checkpointing.",
                   fix="Leave --gradient-checkpointing out; --accumulate with a smaller --batch-size saves memory "
                       "too.")]


def _bare(subject: Subject) -> Any:
    """The model below an adapter."""
    return getattr(subject.model, "get_base_model", lambda: subject.model)()


@contextmanager
def recomputing(subject: Subject, wanted: bool) -> Iterator[None]:
    """In this context a training model stores only the inputs of its blocks; restores the setting on exit.

    Raises:
        UsageError: the model's class does not support gradient checkpointing.
    """
    if not wanted or subject.recomputes:
        yield
        return
    for problem in cannot_recompute(subject):
        raise problem
    model = _bare(subject)
    new = hasattr(model, "activation_checkpointing_enable")  # renamed in later versions of transformers
    enable, disable = (getattr(model, ("activation" if new else "gradient") + "_checkpointing_" + verb)
                       for verb in ("enable", "disable"))
    # torch.autograd.grad does not work with the reentrant kind.
    enable({"use_reentrant": False})
    try:
        yield
    finally:
        disable()
        with suppress(AttributeError):  # newer versions leave a hook on the embedding
            model.disable_input_require_grads()
