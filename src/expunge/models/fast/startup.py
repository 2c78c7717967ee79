"""A process that starts makes some 400,000 small objects that stay, and Python looks for garbage among them again and
again while torch, transformers and a model's code are imported: a second of the first eight."""

from __future__ import annotations

import gc

_waiting = False


def begin() -> None:
    """Look for no garbage until a model is there. For a program of its own, not for a library."""
    global _waiting
    _waiting = gc.isenabled()
    gc.disable()


def done() -> None:
    """Look for it as usual from now on, but not among what has come so far; nothing without `begin`."""
    global _waiting
    if _waiting:
        _waiting = False
        gc.freeze()
        gc.enable()
