"""rocr against the code of its authors: the update of a matrix, given keys, residuals and projector."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from expunge.methods._lib.least_squares import solve_edit
from official.bed import Difference, Found, Movable, difference
from official.taken import statements

REPOSITORY = "Acruxos/ORT"
COMMIT = "38cc704d83795e125f36788ccf7a21f462e314f4"
FILE = "LLaMA-Factory/src/llmtuner/train/rocr/rocr/rocr_main.py"
KEYS, VALUES, REQUESTS = 12, 8, 3


class Layers:
    """One matrix per layer, as their code cuts it out and moves it to a GPU."""

    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix = matrix

    def __getitem__(self, where: Any) -> Movable:
        return Movable(self.matrix)


def compare(code: Path, seed: int) -> Iterator[Difference]:
    source = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=source, dtype=torch.float64)

    keys, residual, earlier = draw(KEYS, REQUESTS), draw(VALUES, REQUESTS), draw(KEYS, 4)
    kept, _ = torch.linalg.qr(draw(KEYS, 7))
    projector, previous = kept @ kept.T, earlier @ earlier.T
    for penalty in (0.5, 10.0):
        names = {"P": Layers(projector), "cache_c": Layers(previous), "layer_ks": keys, "resid": residual, "i": 0,
                 "hparams": SimpleNamespace(L2=penalty),
                 "torch": SimpleNamespace(linalg=torch.linalg, float=torch.float64,
                                          eye=lambda size, dtype, device: torch.eye(size, dtype=dtype))}
        exec(statements(code / FILE, "upd_matrix = torch.linalg.solve(", 1), names)
        ours = solve_edit(keys, residual, penalty=penalty, projection_KK=projector, previous_KK=previous)
        yield difference(f"update of a matrix, penalty {penalty}, earlier edits kept", Found(None, [ours.T]),
                         Found(None, [names["upd_matrix"]]))
