"""Gradient checkpointing: activations are computed again on the way back rather than kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from expunge.errors import UsageError
from expunge.models.subject import Subject


def without_checkpointing(what: str) -> UsageError:
    """Why something that works within the forward pass is refused."""
    return UsageError(f"{what} does not go with gradient checkpointing.",
                      "What is computed again on the way back would be computed without it.",
                      "Leave --gradient-checkpointing out.")


@contextmanager
def recomputing(subject: Subject, wanted: bool) -> Iterator[None]:
    """While it lasts, the model keeps only the inputs of its blocks when it trains; the former way comes back.

    Raises:
        UsageError: the model's class knows no gradient checkpointing.
    """
    if not wanted or subject.recomputes:
        yield
        return
    model = getattr(subject.model, "get_base_model", lambda: subject.model)()  # below an adapter
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise UsageError(f"{type(model).__name__} knows no gradient checkpointing.",
                         fix="Leave --gradient-checkpointing out; --accumulate with a smaller --batch-size saves "
                             "memory too.")
    new = hasattr(model, "activation_checkpointing_enable")  # transformers renames it on the way to version 6
    enable, disable = (getattr(model, ("activation" if new else "gradient") + "_checkpointing_" + verb)
                       for verb in ("enable", "disable"))
    # Gradients are asked for by name (torch.autograd.grad), which the reentrant kind does not allow.
    enable({"use_reentrant": False})
    try:
        yield
    finally:
        disable()
        with suppress(AttributeError):  # a hook that newer versions leave on the embedding; there may be none
            model.disable_input_require_grads()
