"""Attention maps: computed the plain way for one forward pass, since the fast ways never hold them.

Legend: B rows, H heads, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from expunge.data.text_encoder import TokenBatch
from expunge.errors import UsageError
from expunge.models.sites import Site, read, stop_after
from expunge.models.slots import slots_of


@contextmanager
def plain_attention(model: Any) -> Iterator[None]:
    """Attention as softmax and products, in evaluation mode; both modes come back, also after an exception."""
    way, training = model.config._attn_implementation, model.training
    try:
        if way != "eager":
            model.set_attn_implementation("eager")
        model.eval()
        yield
    finally:
        model.train(training)
        if way != "eager":
            model.set_attn_implementation(way)


def attention_maps(subject: Any, batch: TokenBatch) -> list[Tensor]:
    """Of each block that attends, shape B H T T; rows sum to 1 over the tokens that may be looked at.

    Raises:
        UsageError: the family gives none.
    """
    size = batch.ids_BT.shape[1]

    def weights(returned: Any) -> Tensor | None:
        beside = returned[1:] if isinstance(returned, tuple) else ()
        square = (v for v in beside if isinstance(v, Tensor) and v.dim() == 4 and v.shape[-2:] == (size, size))
        return next(square, None)

    sites = [Site(i, "attention") for i in range(len(subject.blocks)) if "attention" in slots_of(subject, i)]
    with (plain_attention(subject.model), read(subject, sites, weights, raw=True) as values,
          stop_after(subject, Site(-1))):
        subject.model(input_ids=batch.ids_BT, attention_mask=batch.attention_BT, use_cache=False)
    maps = [one for kept in values for one in kept if one is not None]
    if not maps:
        raise UsageError("This model gives no attention maps.", "Its family computes attention another way.",
                         "Take an objective that reads the answers, such as npo.")
    return maps
