"""What attacks on decoding share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def prompts_of(options: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """The prompts of a left-padded batch, as it is given to `generate`, without their padding."""
    return [tuple(ids[seen.bool()].tolist())
            for ids, seen in zip(options["input_ids"], options["attention_mask"], strict=True)]
