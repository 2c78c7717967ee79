"""Records to a page. Imports without torch.

`expunge.report` is both this folder and a verb, so the module itself can be called.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType


class _Verb(ModuleType):
    """Importing a submodule puts the module in the place of the function; calling it must go on working."""

    def __call__(self, folders: Sequence[str | Path], *, out: str | Path, title: str | None = None) -> Path:
        """One self-contained page over one run, or several side by side."""
        from expunge.report.page import render

        return render([Path(f) for f in folders], out=Path(out), title=title)


report = sys.modules[__name__]
report.__class__ = _Verb
