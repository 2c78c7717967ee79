"""Shared by attacks on decoding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def prompts_of(options: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """The prompts of a left-padded batch for `generate`, without padding."""
    return [tuple(ids[mask.bool()].tolist())
            for ids, mask in zip(options["input_ids"], options["attention_mask"], strict=True)]
