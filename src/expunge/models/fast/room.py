"""Keys and values of a model that decodes: new ones are written behind the others, rather than all copied to add them.

Legend: B rows, H heads, T positions, D head size.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer

ROOM = 32
"""Positions that are free when an array is made."""


class PreallocatedLayer(DynamicLayer):
    """A layer of a cache whose arrays are the first T positions of larger ones."""

    keys: Tensor
    values: Tensor
    _room: tuple[int, Tensor, Tensor] | None = None  # whose it is, so that a shallow copy makes a room of its own

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add new ones, shape B H T D; gives all there are."""
        held = self.get_seq_length()
        if not held:
            found: tuple[Tensor, Tensor] = super().update(key_states, value_states, *args, **kwargs)
            return found
        end = held + key_states.shape[-2]
        if not self._has_room(end):
            self._room = id(self), _larger(self.keys, end + ROOM), _larger(self.values, end + ROOM)
        assert self._room is not None
        _, keys, values = self._room
        keys[..., held:end, :] = key_states
        values[..., held:end, :] = value_states
        self.keys, self.values = keys[..., :end, :], values[..., :end, :]
        return self.keys, self.values

    def _has_room(self, end: int) -> bool:
        """Not where rows have been picked since: then what is held lies elsewhere."""
        if self._room is None or self._room[0] != id(self):
            return False
        return all(end <= room.shape[-2] and room.data_ptr() == held.data_ptr() and room.stride() == held.stride()
                   and room.shape[:2] == held.shape[:2]
                   for room, held in zip(self._room[1:], (self.keys, self.values), strict=True))


def _larger(held: Tensor, length: int) -> Tensor:
    """It, and behind it places that nobody has written to."""
    room = held.new_empty(*held.shape[:-2], length, held.shape[-1])
    room[..., : held.shape[-2], :] = held
    return room


def preallocate(cache: Any) -> None:
    """Give room to the layers of a cache that hold all keys and values, and nothing else; others stay as they are."""
    for layer in cache.layers:
        if type(layer) is DynamicLayer:
            layer.__class__ = PreallocatedLayer
    for part in vars(cache).values():  # a guard keeps a second one beside it
        if hasattr(part, "layers"):
            preallocate(part)
