"""Attention heads as parts of the output projection of their block.

Legend: K inputs of an attention's output projection, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from expunge.data.model_config import text_config
from expunge.errors import UsageError
from expunge.models.language import CausalLM
from expunge.models.slots import place_of, slots_of

ATTENTION_OUT = ("o_proj", "out_proj", "c_proj", "dense", "wo")
"""What families call the output projection of their attention."""


def attention_out(subject: CausalLM, block: int) -> nn.Module:
    """The output projection of a block's attention.

    Raises:
        UsageError: the block has none that is a plain layer, or one that is not made of equal heads.
    """
    inside = place_of(subject, "attention", block).module
    found = [m for name, m in inside.named_modules()
             if name.split(".")[-1] in ATTENTION_OUT and isinstance(m, nn.Linear | Conv1D)]
    if len(found) != 1 or output_weight(found[0]).shape[1] % head_count(subject):
        raise UsageError(f"The attention of block {block} has no output projection that is cut into heads.",
                         "Heads are pruned there.", "It needs a model of a known family, without adapters.")
    return found[0]


def output_weight(module: nn.Module) -> Tensor:
    """Its weight as D K: what a head writes is the product with its part of the columns."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.detach() if isinstance(module, nn.Linear) else weight.detach().T


def head_count(subject: CausalLM) -> int:
    """Query heads per block, also where several share keys and values."""
    return int(text_config(subject.model.config).num_attention_heads)


def attending(subject: CausalLM) -> list[int]:
    """The blocks that attend."""
    return [block for block in range(len(subject.blocks)) if "attention" in slots_of(subject, block)]


def columns(subject: CausalLM, module: nn.Module, head: int) -> slice:
    """The inputs of an output projection that are a head's."""
    size = output_weight(module).shape[1] // head_count(subject)
    return slice(head * size, (head + 1) * size)


def prune(subject: CausalLM, heads: Sequence[tuple[int, int]]) -> None:
    """Zero what these heads (block, head) write; biases belong to no head and stay."""
    for block, head in heads:
        module = attention_out(subject, block)
        output_weight(module)[:, columns(subject, module, head)] = 0
