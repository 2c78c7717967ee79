"""The garbage collector of a process that starts.

Importing torch, transformers and a model's code makes some 400,000 small objects that stay. Python looks for garbage
among them again and again: one second of the first eight.
"""

from __future__ import annotations

import gc

_paused = False


def pause_garbage_collection() -> None:
    """Turn the collector off until `resume_garbage_collection`; nothing if the user has turned it off."""
    global _paused
    _paused = gc.isenabled()
    gc.disable()


def resume_garbage_collection() -> None:
    """Turn it on again, and leave the objects that exist by now out of its searches; nothing unless paused."""
    global _paused
    if _paused:
        _paused = False
        gc.freeze()
        gc.enable()
