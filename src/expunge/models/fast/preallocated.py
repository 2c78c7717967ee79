"""A cache of keys and values with free positions, so that decoding a token does not copy the whole cache.

transformers concatenates the new key and value of every token to those before it, which copies all of them.

Legend: B rows, H heads, T positions, D head size.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer

SPARE = 32
"""Free positions of a new array."""


class PreallocatedLayer(DynamicLayer):
    """A layer of a cache whose arrays are the first T positions of larger arrays."""

    keys: Tensor
    values: Tensor
    _arrays: tuple[int, Tensor, Tensor] | None = None
    """id of the layer they belong to, keys and values: a shallow copy of a layer must not write into them."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values, shape B H T D. Returns all there are."""
        held = self.get_seq_length()
        if not held:
            first: tuple[Tensor, Tensor] = super().update(key_states, value_states, *args, **kwargs)
            return first
        end = held + key_states.shape[-2]
        if not self._fits(end):
            self._arrays = id(self), _larger(self.keys, end + SPARE), _larger(self.values, end + SPARE)
        assert self._arrays is not None
        _, keys, values = self._arrays
        keys[..., held:end, :] = key_states
        values[..., held:end, :] = value_states
        self.keys, self.values = keys[..., :end, :], values[..., :end, :]
        return self.keys, self.values

    def _fits(self, end: int) -> bool:
        """Whether the arrays hold the present keys and values and have room for more. Selecting rows makes new ones."""
        if self._arrays is None or self._arrays[0] != id(self):
            return False
        return all(end <= array.shape[-2] and array.data_ptr() == held.data_ptr() and array.stride() == held.stride()
                   and array.shape[:2] == held.shape[:2]
                   for array, held in zip(self._arrays[1:], (self.keys, self.values), strict=True))


def _larger(held: Tensor, length: int) -> Tensor:
    """A copy with `length` positions; those behind the present ones are not initialised."""
    array = held.new_empty(*held.shape[:-2], length, held.shape[-1])
    array[..., : held.shape[-2], :] = held
    return array


def preallocate(cache: Any) -> None:
    """Make the plain layers of a cache `PreallocatedLayer`s. Layers of other classes stay as they are."""
    for layer in cache.layers:
        if type(layer) is DynamicLayer:
            layer.__class__ = PreallocatedLayer
    for part in vars(cache).values():  # a guard keeps a second cache beside the first
        if hasattr(part, "layers"):
            preallocate(part)
