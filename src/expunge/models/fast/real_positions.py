"""MLPs run on the positions that are read, and not on padding.

An MLP reads one position at a time and padding is never read, so leaving it out changes no other position. In a batch
of eight rows of TOFU a third of the positions is padding. After the last block only some positions are read.

Legend: B rows, T columns, N positions that are kept (flat), D hidden size.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from expunge.models.sites import write_at
from expunge.models.slots import Place, place_of, slots_of

if TYPE_CHECKING:
    from expunge.models.language import CausalLM

_NAMES: dict[tuple[str, ...], str | None] = {}
"""Class of a block and names of its parts -> the part that is an MLP of one argument, where there is one."""


@contextmanager
def mlps_on_real_positions(subject: CausalLM, attention_BT: Tensor, last_N: Tensor | None) -> Iterator[None]:
    """The MLP of every block is given the positions that are no padding, and gives 0 at the others.

    Not where a hook is registered, blocks are computed again in the backward pass, or the blocks are not known.

    Args:
        last_N: positions that are read after the last block; None for all that are no padding.
    """
    blocks = list(subject._blocks.values())
    if not blocks or subject.recomputes or not subject.bare:
        yield
        return
    real_N = attention_BT.flatten().nonzero()[:, 0]
    with ExitStack() as stack:
        for number, block in enumerate(blocks):
            mlp = _mlp(subject, number, block)
            if mlp is not None:
                kept_N = last_N if last_N is not None and number == len(blocks) - 1 else real_N
                stack.enter_context(_narrowed(Place(mlp), attention_BT.shape, kept_N))
        yield


def _mlp(subject: CausalLM, number: int, block: nn.Module) -> nn.Module | None:
    """Families whose MLP is also given the residual stream, or is no module of its own, run as they are."""
    key = (type(block).__qualname__, *(name for name, _ in block.named_children()))
    if key not in _NAMES:
        module = place_of(subject, "mlp", number).module if "mlp" in slots_of(subject, number) else None
        fits = module is not None and any(True for _ in module.children()) and (
            len(inspect.signature(module.forward).parameters) == 1)
        _NAMES[key] = next((name for name, part in block.named_children() if fits and part is module), None)
    name = _NAMES[key]
    return None if name is None else block.get_submodule(name)


@contextmanager
def _narrowed(place: Place, shape: torch.Size, kept_N: Tensor) -> Iterator[None]:
    """Inputs of another shape (an ensemble stacks its members) go through whole."""
    def pick(x_BTD: Tensor) -> Tensor:
        return x_BTD.flatten(0, 1).index_select(0, kept_N)[None] if x_BTD.shape[:-1] == shape else x_BTD

    def put(given_BTD: Tensor, value: Tensor) -> Tensor:
        if given_BTD.shape[:-1] != shape:
            return value
        whole = value.new_zeros(shape.numel(), value.shape[-1])
        return whole.index_copy(0, kept_N, value.reshape(-1, value.shape[-1])).view(*shape, -1)

    with write_at(place, put, pick):
        yield
