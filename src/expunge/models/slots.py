"""Which module of a model plays which part: found by the type of the module and its role, in any family.

Hugging Face names the parts of a decoder block in a dozen ways. The rules here look at class names (`LlamaAttention`,
`MixtralTopKRouter`), at sizes (the output projection of an MLP has as many outputs as the hidden states) and, where
that leaves a choice, at the names in `MLP_OUT`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import nn
from transformers.pytorch_utils import Conv1D

from expunge.errors import UsageError

Slot = Literal["block", "attention", "mlp", "mlp_hidden", "head", "router", "expert", "embedding", "norm", "sae"]
SLOTS: tuple[Slot, ...] = get_args(Slot)
MLP_OUT = ("down_proj", "mlp.c_proj", "dense_4h_to_h", "fc2", ".w2")
"""What families call the output projection of their MLP; GPT-2's attention has a c_proj too."""
MLP_NAMES = ("mlp", "feed_forward", "ffn", "block_sparse_moe")
MLP_TYPES = ("mlp", "feedforward", "ffn", "moe")


@dataclass(frozen=True)
class Place:
    """A module, and whether its input is meant rather than its output.

    Args:
        block: the decoder block it is a part of, None for parts of the whole model.
        name: from the root of the model, for parts of blocks.
    """

    module: nn.Module
    takes_input: bool = False
    block: nn.Module | None = None
    name: str = ""


def block_number(subject: Any, block: int) -> int:
    """The number counted from 0; raises UsageError for a block that the model does not have."""
    depth = len(subject.blocks)
    if not -depth <= block < depth:
        raise UsageError(f"The model has no block {block}.", f"It has {depth}, numbered from 0; -1 is the last.")
    return block % depth


def place_of(subject: Any, slot: Slot, block: int | None) -> Place:
    """The module of a slot. Raises UsageError for a block or slot that the model does not have, naming those it has."""
    if slot not in SLOTS:
        raise UsageError(f"There is no slot {slot!r}.", f"Slots are {', '.join(SLOTS)}.")
    if block is None:
        found, where = dict(_of_model(subject)), "outside its blocks"
    else:
        name, module = list(subject.blocks.items())[block_number(subject, block)]
        found, where = dict(_of_block(subject, name, module)), f"in block {block}"
    if slot not in found:
        raise UsageError(f"This model has no slot {slot!r} {where}.", f"There it has {', '.join(found) or 'none'}.")
    return found[slot]


def slots_of(subject: Any, block: int | None) -> list[Slot]:
    """The slots that a block has, or the model outside its blocks where `block` is None."""
    if block is None:
        return [slot for slot, _ in _of_model(subject)]
    name, module = list(subject.blocks.items())[block_number(subject, block)]
    return [slot for slot, _ in _of_block(subject, name, module)]


def _of_model(subject: Any) -> Iterator[tuple[Slot, Place]]:
    embedding, head = (_end(subject.model, name) for name in ("get_input_embeddings", "get_output_embeddings"))
    if embedding is not None:
        yield "embedding", Place(embedding)
    around = decoder_of(subject)
    norms = [] if around is None else [m for m in around.children() if _is_norm(m)]
    if norms:  # one that follows the embedding stands before the last
        yield "norm", Place(norms[-1])
    if head is not None:
        yield "head", Place(head, takes_input=True)


def _end(model: Any, getter: str) -> nn.Module | None:
    try:
        found = getattr(model, getter)()
    except (AttributeError, NotImplementedError):  # transformers has several ways to say that there is none
        return None
    return found if isinstance(found, nn.Module) else None


def decoder_of(subject: Any) -> nn.Module | None:
    """The module that holds the list of blocks, where the blocks are known."""
    try:
        first = next(iter(subject.blocks))
    except UsageError:
        return None
    found: nn.Module = subject.model.get_submodule(".".join(first.split(".")[:-2]))
    return found


def _of_block(subject: Any, name: str, block: nn.Module) -> Iterator[tuple[Slot, Place]]:
    def place(path: str, module: nn.Module, takes_input: bool = False) -> Place:
        return Place(module, takes_input, block, f"{name}.{path}")

    yield "block", Place(block, block=block, name=name)
    parts = dict(block.named_children())
    norm = next((part for part in parts if _is_norm(parts[part])), None)
    if norm is not None:
        yield "norm", place(norm, parts[norm])
    attention = next((part for part in parts if _is_attention(parts[part])), None)
    if attention is not None:
        yield "attention", place(attention, parts[attention])
    mlp = next((part for part in parts if _is_mlp(part, parts[part])), None)
    inside, prefix = (block, "") if mlp is None else (parts[mlp], f"{mlp}.")
    out = _output_projection(inside, prefix, subject.width)
    if mlp is not None:
        yield "mlp", place(mlp, parts[mlp])
    elif out is not None:  # OPT keeps both projections of its MLP in the block itself
        yield "mlp", place(*out)
    if out is not None:
        yield "mlp_hidden", place(*out, takes_input=True)
    for slot, path, module in _mixture(inside):
        yield slot, place(f"{prefix}{path}", module)


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _is_attention(module: nn.Module) -> bool:
    return "attention" in type(module).__name__.lower() and not _is_norm(module)


def _is_mlp(name: str, module: nn.Module) -> bool:
    kind, has_parts = type(module).__name__.lower(), any(True for _ in module.children())
    return has_parts and not _is_attention(module) and (name in MLP_NAMES or any(word in kind for word in MLP_TYPES))


def _output_projection(inside: nn.Module, prefix: str, width: int) -> tuple[str, nn.Module] | None:
    """Of the layers that give as many numbers as hidden states have, the one that closes the MLP."""
    found = [(f"{prefix}{name}", module) for name, module in inside.named_children() if _outputs(module) == width]
    named = [one for one in found if any(part in f".{one[0]}" for part in MLP_OUT)]
    return (named or found)[-1] if found else None


def _outputs(module: nn.Module) -> int | None:
    """How many numbers a linear layer gives, whatever wraps it; None for anything that is not one layer."""
    if any(isinstance(part, nn.ModuleList) for part in module.modules()):
        return None
    layers = [part for part in module.modules() if isinstance(part, nn.Linear | Conv1D)]
    if not layers or (len(layers) > 1 and not _wraps(module)):
        return None
    return layers[0].nf if isinstance(layers[0], Conv1D) else layers[0].out_features


def _wraps(module: nn.Module) -> bool:
    """Whether it stands in the place of one layer: PEFT's layers, those of our guards and of our ensembles."""
    return any(hasattr(module, name) for name in ("base_layer", "base", "linear"))


def _mixture(inside: nn.Module) -> Iterator[tuple[Slot, str, nn.Module]]:
    """Router and experts, which stand side by side; experts that are only a list are never called as one."""
    parts = dict(inside.named_children())
    experts = next((part for part in parts if "experts" in (part, type(parts[part]).__name__.lower()[-7:])), None)
    if experts is None:
        return
    router = next((part for part in parts if "router" in type(parts[part]).__name__.lower()
                   or part in ("gate", "router")), None)
    if router is not None:
        yield "router", router, parts[router]
    if not isinstance(parts[experts], nn.ModuleList):
        yield "expert", experts, parts[experts]
