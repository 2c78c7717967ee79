"""MLPs run on the positions that matter, rather than on padding too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def sparing(blocks: Sequence[nn.Module], shape: torch.Size, real_N: Tensor, last_N: Tensor) -> Iterator[None]:
    """While it lasts, the MLP of every block sees these of all B*T positions only, and gives 0 at the others.

    An MLP looks at one position at a time, and nobody reads padding. Families call it `mlp`; what has another name, or
    is given another shape (an ensemble stacks its members), runs as it is.

    Args:
        shape: B and T.
        real_N: positions of tokens.
        last_N: those that are read after the last block.
    """
    with ExitStack() as stack:
        for block in blocks:
            module = getattr(block, "mlp", None)
            if module is not None:
                for handle in _narrowed(module, shape, last_N if block is blocks[-1] else real_N):
                    stack.callback(handle.remove)
        yield


def _narrowed(module: nn.Module, shape: torch.Size, index_N: Tensor) -> tuple[Any, Any]:
    def pick(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Some families hand the residual stream in as well."""
        return tuple(a.flatten(0, 1).index_select(0, index_N)[None]
                     if isinstance(a, Tensor) and a.shape[:-1] == shape else a for a in args)

    def put(module: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
        if not args or args[0].shape[:-1] != (1, len(index_N)):
            return None
        first = out[0] if isinstance(out, tuple) else out
        whole = first.new_zeros(shape.numel(), first.shape[-1]).index_copy(0, index_N, first[0]).view(*shape, -1)
        return (whole, *out[1:]) if isinstance(out, tuple) else whole

    return module.register_forward_pre_hook(pick), module.register_forward_hook(put)
