"""Every trick that makes the same numbers sooner or in less memory, behind one switch.

`EXPUNGE_PLAIN=1` in the environment turns all of them off, `EXPUNGE_PLAIN=shared_prefixes,fused_adamw` these alone. The
variable is read whenever a trick is about to be used. The plain form of each computation stands outside this folder,
and is what one reads first; here is what replaces it, but for `late_head`, which is `LazyLogits` in models/head.py.
docs/performance.md says what each trick buys.

Tricks that change the process (its garbage collector, its allocator) or the class of a layer are off when expunge is
used as a library; the command line calls `use_process_wide_tricks()`.
"""

from __future__ import annotations

import os

VARIABLE = "EXPUNGE_PLAIN"
TRICKS: dict[str, str] = {
    "late_head": "the output head runs when its logits are asked for, and on some rows at a time",
    "block_gradients": "log-probs and divergences write their gradient over a block of logits, so that no second array "
                       "of that size exists",
    "real_positions": "MLPs run on the positions that are read, and not on padding",
    "shared_prefixes": "what several rows begin with runs once while scoring",
    "known_tokens": "tokens that a likelihood says will be decoded are not decoded",
    "ended_rows": "rows that have ended leave a batch that decodes",
    "fused_adamw": "AdamW updates all weights in one kernel",
    "preallocated_cache": "new keys and values are written behind the others while decoding",
    "numpy_products": "float32 matrix products by the OpenBLAS of numpy, on AMD processors with one thread",
    "garbage_collection": "Python looks for no garbage until a model is loaded",
    "large_pages": "PyTorch asks Linux for large pages",
}
"""Name -> what it does."""
PROCESS_WIDE = frozenset({"preallocated_cache", "numpy_products", "garbage_collection", "large_pages"})
"""Those that are off until `use_process_wide_tricks` is called."""

_process_wide = False


def enabled(name: str) -> bool:
    """Whether a trick may be used now. Raises KeyError for a name that is none."""
    TRICKS[name]
    off = os.environ.get(VARIABLE, "").strip()
    if off in ("", "0"):
        return _process_wide or name not in PROCESS_WIDE
    if off == "1" or name in (word.strip() for word in off.split(",")):
        return False
    return _process_wide or name not in PROCESS_WIDE


def use_process_wide_tricks() -> None:
    """Turn on the tricks that change the whole process. For a program of its own, not for a library.

    Call it before PyTorch is imported: the allocator reads its setting once.
    """
    global _process_wide
    _process_wide = True
    if enabled("large_pages"):
        # A step that makes hundreds of megabytes of logits takes 1.2 times as long without.
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if enabled("garbage_collection"):
        from expunge.models.fast.startup import pause_garbage_collection

        pause_garbage_collection()
