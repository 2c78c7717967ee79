"""The output projection of an MLP: where it is, what goes into it, how it is changed.

Legend: B rows, T padded length, K its inputs, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from expunge.data.text_encoder import TokenBatch
from expunge.errors import UsageError
from expunge.models.language import CausalLM
from expunge.models.sites import Site, read, stop_after
from expunge.models.slots import place_of, slots_of

BEHIND_MLP = ("post_feedforward", "post_mlp", "post_ff")
"""How families (Gemma 2 and 3, OLMo 2, GLM-4) call a norm of the MLP's output."""


def chosen_layers(edit: str, asked: Sequence[int], depth: int, published: Sequence[int], of: int) -> list[int]:
    """The blocks to edit, in order: those asked for, or the published ones of `of` blocks, scaled to `depth`; fewer
    if some coincide.

    Raises:
        UsageError: the model has no such block.
    """
    chosen = sorted(set(asked)) or sorted({min(round(layer * depth / of), depth - 1) for layer in published})
    if not all(0 <= layer < depth for layer in chosen):
        raise UsageError(f"{edit}(layers={list(asked)}): the model has no such block.",
                         f"It has {depth}, numbered 0 to {depth - 1}.")
    return chosen


def mlp_out(subject: CausalLM, block: int) -> tuple[str, nn.Module]:
    """Name and module of the output projection of a block's MLP.

    Raises:
        UsageError: the block has none, or one that is not a plain layer (experts, adapters).
    """
    place = place_of(subject, "mlp_hidden", block) if "mlp_hidden" in slots_of(subject, block) else None
    if place is None or not isinstance(place.module, nn.Linear | Conv1D):
        raise UsageError(f"Block {block} has no MLP output projection with a weight of its own.",
                         "An edit of this kind writes to that weight.",
                         "It needs a dense model of a known family, without adapters.")
    return place.name, place.module


def adds_plainly(subject: CausalLM, block: int) -> None:
    """Check that what an MLP gives is what is added to the residual stream.

    Raises:
        UsageError: a norm stands between, so that no change of a matrix gives the block any output that is asked for.
    """
    parts = dict(list(subject.blocks.values())[block].named_children())
    if any(name.startswith(BEHIND_MLP) for name in parts):
        raise UsageError(f"Block {block} normalises what its MLP gives before it is added to the residual stream.",
                         "This edit asks for an output of the block that a matrix before a norm cannot give.",
                         "Take rome, which edits what stands before the norm, or another family.")


def inputs_of(subject: CausalLM, blocks: Sequence[int], batch: TokenBatch) -> dict[int, Tensor]:
    """What goes into the MLP's output projection of each block, shape B T K; later blocks do not run."""
    sites = [Site(block, "mlp_hidden") for block in blocks]
    batch = batch.to(subject.device)
    with read(subject, sites) as values, stop_after(subject, sites[blocks.index(max(blocks))]):
        subject.model(input_ids=batch.ids_BT, attention_mask=batch.attention_BT, use_cache=False)
    return {block: kept[-1] for block, kept in zip(blocks, values, strict=True)}


@torch.no_grad()
def add_to_weight(module: nn.Module, change_DK: Tensor) -> None:
    """W <- W + dW, for layers that keep their weight as D K (Linear) and as K D (GPT-2's Conv1D)."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    weight += (change_DK if isinstance(module, nn.Linear) else change_DK.T).to(weight)
