"""probe_geometry against a notebook of its authors: a probe's direction, and a step with the likelihood of controls.

States of the last block are left out: theirs have been through the final norm.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from expunge.methods._lib.probe_directions import direction
from official.bed import WHOLE, Bed, Difference, Found, difference
from official.taken import taken

REPOSITORY = "Rupawheatly/MLDU2"
COMMIT = "23a20850e8abd3a6e5a1287af6408bd8a390b953"
FILE = "notebooks/mldu-e-pythia70m-pga-standalone.ipynb"
LAYERS = (1, 2, 3)
"""Their numbers of hidden states, after blocks 0 to 2 of 4."""


class Ids(dict[str, Any]):
    """What their tokenizer gives."""

    def to(self, device: str) -> Ids:
        return self


def compare(code: Path, seed: int) -> Iterator[Difference]:
    cells = json.loads((code / FILE).read_text(encoding="utf-8"))["cells"]
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "cells.py"
        file.write_text("\n\n".join(_defining("".join(c["source"]), ("def fit_w", "def pga_step")) for c in cells),
                        encoding="utf-8")
        bed = Bed(seed, lengths=WHOLE)
        texts = {side: [list(row.ids) for row in batch.rows] for side, batch in bed.batches.items()}
        given: dict[str, Any] = {
            "StandardScaler": StandardScaler, "LogisticRegression": LogisticRegression, "np": np,
            "N": len(WHOLE), "MEM": texts["forget"], "CLEAN": texts["retain"], "DEVICE": "cpu", "MAX_LEN": 64,
            "PROBE_C": 1.0, "LAMBDA_ALIGN": 1.0, "LAMBDA_CE": 1.0,
            "tok": lambda ids, **_: Ids(input_ids=torch.tensor([ids]))}
        draw = torch.Generator().manual_seed(seed)
        one, two = (torch.randn(9, 16, generator=draw, dtype=torch.float64) + shift for shift in (0.0, 0.3))
        theirs = taken(file, "fit_w", **given)(torch.cat([one, two]).numpy(), [1] * 9 + [0] * 9)
        yield difference("direction of a probe", Found(None, [direction(one, two)]),
                         Found(None, [torch.as_tensor(theirs)]))

        normal_LD = torch.nn.functional.normalize(torch.randn(3, 32, generator=draw, dtype=torch.float64), dim=-1)
        bed.model.zero_grad()
        step = taken(file, "pga_step", **given)
        align, ce = step(bed.model, SimpleNamespace(zero_grad=lambda: None, step=lambda: None),
                         dict(zip(LAYERS, normal_LD, strict=True)), LAYERS)
        found = Found(align + ce, [torch.zeros_like(p) if p.grad is None else p.grad.clone()
                                   for p in bed.model.parameters()])
        bed.model.eval()
        bed.batches["control"] = bed.batches["retain"]
        ours = bed.ours("probe_geometry(layers=[0, 1, 2]) + retain_nll", made={"directions": normal_LD.tolist()})
        yield difference("pairs in three blocks, with the likelihood of the controls", ours, found)


def _defining(cell: str, starts: tuple[str, ...]) -> str:
    """A cell that defines one of these functions, without magic commands; nothing of others."""
    if not any(start in cell for start in starts):
        return ""
    return "\n".join(line for line in cell.splitlines() if not line.startswith(("%", "!")))
