"""repselect against the code of its authors: the collapse of a gradient, given its decomposition."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from expunge.methods._lib.spectrum import collapsed
from official.bed import Difference, Found, difference
from official.taken import taken

REPOSITORY = "filyp/RepSelect"
COMMIT = "5955f301089b4e7cfae7ec034a2bc6c2033a737f"
FILE = "src/trainer/unlearn/repselect_simple.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    collapse = taken(code / FILE, "_collapse")
    gradient_OI = torch.randn(24, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    left_OK, scale_K, right_KI = torch.linalg.svd(gradient_OI, full_matrices=False)
    for count in (1, 5):
        theirs = collapse(gradient_OI, right_KI[:count].mT, scale_K[:count], "soft")
        yield difference(f"{count} components, inputs", Found(None, [collapsed(gradient_OI, count, "input")]),
                         Found(None, [theirs]))
        theirs = collapse(theirs.mT, left_OK[:, :count], scale_K[:count], "soft").mT
        yield difference(f"{count} components, both sides", Found(None, [collapsed(gradient_OI, count, "both")]),
                         Found(None, [theirs]))
