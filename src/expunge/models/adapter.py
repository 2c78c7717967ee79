"""LoRA adapters on a subject. Unlearning scopes and relearning attacks train them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from expunge.errors import UsageError
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.seeding import derive

DEFAULT = "all-linear"
ROUTERS = ("gate", "router", "shared_expert_gate")
"""What families call the layer that chooses experts, where its class does not say so."""
MIXED = ("in_proj",)
"""Of a Mamba mixer only this is called as a layer everywhere: kernels read the weights of the others by themselves, and
an adapter around those would never be asked."""


def add_adapter(subject: Subject, *, rank: int, alpha: float | None = None,
                targets: str | Sequence[str] = DEFAULT, dropout: float = 0.0, seed: int = 0) -> Scope:
    """Put a fresh LoRA adapter around the model, in place; an older one is merged first.

    Args:
        alpha: scaling numerator; twice the rank when left out.
        targets: names of modules, or of matrices that no layer holds alone (a stack of experts, a router), as their
            names end; or "all-linear": see `layers_to_adapt` and `stacks_to_adapt`.
        seed: of the adapter's random half.

    Raises:
        UsageError: no module fits `targets`, or an adapter cannot be put there.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    if isinstance(subject.model, PeftModel):
        subject.model = subject.model.merge_and_unload()
        subject.renamed()
    training = subject.model.training
    if targets == DEFAULT:
        modules, matrices = subject.adapted, stacks_to_adapt(subject)
    else:
        modules, matrices = _split(subject.model, [targets] if isinstance(targets, str) else list(targets))
    config = LoraConfig(r=rank, lora_alpha=alpha or 2 * rank, lora_dropout=dropout, target_modules=modules,
                        target_parameters=matrices or None, task_type=subject.adapter_task)
    # peft draws from the global generator; a seed of our own makes the same run twice the same.
    with warnings.catch_warnings(), torch.random.fork_rng():
        torch.manual_seed(derive(seed, "lora"))
        warnings.simplefilter("ignore")  # peft remarks on Conv1D layouts it then handles itself
        try:
            subject.model = get_peft_model(subject.model, config)
        except ValueError as error:
            raise UsageError(f"lora(targets={targets!r}) fits no module of this model." if "not found" in str(error)
                             else "An adapter of this kind cannot be put on this model.",
                             str(error).splitlines()[0][:200], "Name other modules with lora(targets=...).") from None
    subject.model.train(training)  # a wrapper comes in training mode
    subject.renamed()
    return Scope(subject, tuple(n for n, p in subject.model.named_parameters() if p.requires_grad), adapter=True)


def layers_to_adapt(subject: Subject) -> list[str]:
    """Names of the linear layers inside the decoder blocks that an adapter fits; empty where no blocks are known.

    Not the head, the embeddings or a vision tower, which lie outside; not routers, whose choices an adapter for a few
    rows would upset for all others; of a Mamba mixer only what `MIXED` names.
    """
    chosen, others = list[str](), list[str]()
    for name, module in subject.model.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            inside = any(name.startswith(f"{block}.") for block in subject._blocks)
            (chosen if inside and _fits(subject.model, name, module) else others).append(name)
    ends = {name.rpartition(".")[2] for name in chosen}
    # The last parts of the names say the same in a few words, where no layer that is left out has one of them.
    plain = ends.isdisjoint(name.rpartition(".")[2] for name in others) and not any(map(str.isdecimal, ends))
    return sorted(ends) if plain else chosen


def stacks_to_adapt(subject: Subject) -> list[str]:
    """Names of the matrices that hold many experts at once, which no layer stands for; as their names end."""
    found = set[str]()
    for place, module in subject.model.named_modules():
        if "expert" in f"{place} {type(module).__name__}".lower() and any(
                place.startswith(f"{block}.") for block in subject._blocks):
            own = place.rpartition(".")[2]
            found |= {f"{own}.{name}" for name, p in module.named_parameters(recurse=False) if p.dim() == 3}
    return sorted(found)


def _fits(model: nn.Module, name: str, module: nn.Module) -> bool:
    above, _, own = name.rpartition(".")
    mixer = type(model.get_submodule(above)).__name__.lower()
    if own in ROUTERS or any(word in f"{type(module).__name__} {mixer}".lower() for word in ("router", "gating")):
        return False
    return own in MIXED or not ("mamba" in mixer or "mixer" in mixer)


def _split(model: nn.Module, names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Names that a user gave, as modules and as matrices that no plain layer stands for."""
    modules, matrices = list[str](), list[str]()
    parameters = [name for name, _ in model.named_parameters()]
    places = dict(model.named_modules())
    for wanted in names:
        if any(_ends(name, wanted) for name in parameters):
            matrices.append(wanted)
        elif any(_ends(name, wanted) and _routes(place) for name, place in places.items()):
            matrices.append(f"{wanted}.weight")
        else:
            modules.append(wanted)
    return modules, matrices


def _ends(name: str, wanted: str) -> bool:
    return name == wanted or name.endswith(f".{wanted}")


def _routes(module: nn.Module) -> bool:
    """A router returns more than a product, so that an adapter can only change its matrix."""
    return "router" in type(module).__name__.lower() and hasattr(module, "weight")
