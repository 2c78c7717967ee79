"""Independent random streams from one seed, each identified by names."""

from __future__ import annotations

import hashlib
import random


def derive(seed: int, *names: object) -> int:
    """A 63-bit seed for the stream called `names`; the same everywhere, unlike `hash`."""
    text = ":".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def stream(seed: int, *names: object) -> random.Random:
    """A private generator for the stream called `names`; the global state is never touched."""
    return random.Random(derive(seed, *names))
