"""LoRA adapters on a subject. Unlearning scopes and relearning attacks train them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from expunge.errors import UsageError
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.seeding import derive


def add_adapter(subject: Subject, *, rank: int, alpha: float | None = None,
                targets: str | Sequence[str] = "all-linear", dropout: float = 0.0, seed: int = 0) -> Scope:
    """Put a fresh LoRA adapter around the model, in place; an older one is merged first.

    Args:
        alpha: scaling numerator; twice the rank when left out.
        targets: module names, or "all-linear".
        seed: of the adapter's random half.

    Raises:
        UsageError: no module fits `targets`.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    if isinstance(subject.model, PeftModel):
        subject.model = subject.model.merge_and_unload()
    training = subject.model.training
    config = LoraConfig(
        r=rank, lora_alpha=alpha or 2 * rank, lora_dropout=dropout,
        target_modules=subject.adapted if targets == "all-linear" else
        [targets] if isinstance(targets, str) else targets,
        task_type=subject.adapter_task,
    )
    # peft draws from the global generator; a seed of our own makes the same run twice the same.
    with warnings.catch_warnings(), torch.random.fork_rng():
        torch.manual_seed(derive(seed, "lora"))
        warnings.simplefilter("ignore")  # peft remarks on Conv1D layouts it then handles itself
        try:
            subject.model = get_peft_model(subject.model, config)
        except ValueError as error:
            raise UsageError(f"lora(targets={targets!r}) fits no module of this model.",
                             str(error).splitlines()[0][:200]) from None
    subject.model.train(training)  # a wrapper comes in training mode
    subject.renamed()
    return Scope(subject, tuple(n for n, p in subject.model.named_parameters() if p.requires_grad), adapter=True)
