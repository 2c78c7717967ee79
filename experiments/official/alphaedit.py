"""alphaedit against the code of its authors: the value found by gradient descent, and the update of a matrix."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from expunge.methods._lib.least_squares import solve_edit
from official.bed import Difference, Found, Movable, difference
from official.memit import values
from official.taken import statements

REPOSITORY = "jianghoucheng/AlphaEdit"
COMMIT = "f5248d3d25f1b3863bff19c387293d635866079f"
FILE = "AlphaEdit/AlphaEdit_main.py"


class OnGpu:
    """One matrix per layer, as their code cuts it out and moves it to a GPU."""

    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix = matrix

    def __getitem__(self, where: Any) -> Movable:
        return Movable(self.matrix)


def compare(code: Path, seed: int) -> Iterator[Difference]:
    yield from values(code / "AlphaEdit" / "compute_z.py", code, seed)
    source = torch.Generator().manual_seed(seed)
    keys_KM, targets_DM, earlier, draws = (torch.randn(*shape, generator=source, dtype=torch.float64)
                                           for shape in ((12, 3), (8, 3), (12, 4), (12, 7)))
    kept, _ = torch.linalg.qr(draws)
    projection_KK, previous_KK = kept @ kept.T, earlier @ earlier.T
    on_cpu = SimpleNamespace(linalg=torch.linalg, float=torch.float64,
                             eye=lambda size, dtype, device: torch.eye(size, dtype=dtype))
    for penalty in (0.5, 10.0):
        names: dict[str, Any] = {
            "torch": on_cpu, "layer_ks": keys_KM, "targets": targets_DM, "i": 1, "P": OnGpu(projection_KK),
            "cache_c": OnGpu(previous_KK), "hparams": SimpleNamespace(L2=penalty, layers=[0, 1, 2])}
        exec(statements(code / FILE, "resid = targets", 2), names)
        ours_DK = solve_edit(keys_KM, targets_DM / 2, penalty=penalty, projection_KK=projection_KK,
                             previous_KK=previous_KK)
        yield difference(f"update of the second of three matrices, penalty {penalty}, earlier edits kept",
                         Found(None, [ours_DK.T]), Found(None, [names["upd_matrix"]]))
