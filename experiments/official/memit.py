"""memit against the code of its authors: the value found by gradient descent, and the update of a matrix."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from expunge.methods._lib.least_squares import solve_edit
from expunge.methods._lib.value_descent import DescentSettings
from expunge.models.sites import Site, read
from official.bed import Bed, Difference, Found, difference
from official.edit_bed import (
    CONTEXTS,
    LAYER,
    PROMPT,
    REQUEST,
    Tokenizer,
    hparams,
    ids_of,
    names_for,
    our_descent,
    place,
)
from official.taken import statements, taken

REPOSITORY = "kmeng01/memit"
COMMIT = "80426fd9316cf9a50c5ba15e0912f2c2c5bfe84b"
FILE = "memit/memit_main.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    yield from values(code / "memit" / "compute_z.py", code, seed)
    source = torch.Generator().manual_seed(seed)
    keys_KM, targets_DM, draws = (torch.randn(*shape, generator=source, dtype=torch.float64)
                                  for shape in ((12, 3), (8, 3), (12, 40)))
    covariance_KK = draws @ draws.T / 40
    for weight in (15.0, 15000.0):
        names: dict[str, Any] = {
            "torch": torch, "layer_ks": keys_KM, "targets": targets_DM, "cov": covariance_KK, "i": 1,
            "hparams": SimpleNamespace(mom2_update_weight=weight, layers=[0, 1, 2])}
        exec(statements(code / FILE, "adj_k = torch.linalg.solve(", 3), names)
        ours_DK = solve_edit(keys_KM, targets_DM / 2, penalty=weight, covariance_KK=covariance_KK)
        yield difference(f"update of the second of three matrices, lambda {weight:g}", Found(None, [ours_DK]),
                         Found(None, [names["upd_matrix"]]))


def values(file: Path, code: Path, seed: int) -> Iterator[Difference]:
    """Their compute_z, which AlphaEdit has too, beside our descent."""
    bed = Bed(seed)
    bed.model.config.n_embd = bed.model.config.hidden_size
    bed.model.requires_grad_(False)
    with torch.no_grad(), read(bed.subject, [Site(LAYER)]) as found:
        bed.model(input_ids=torch.tensor([ids_of(PROMPT.format(REQUEST["subject"]))]))
    start_D = found[0][0][0, place(PROMPT)]
    their_z = taken(file, "compute_z", **names_for(code, in_tuples=True))
    for steps, rate, clamp in ((6, 0.05, 4.0), (20, 0.5, 0.75)):
        theirs_D = their_z(bed.model, Tokenizer(), REQUEST, hparams(steps, rate, clamp), LAYER,
                           [list(CONTEXTS[:1]), list(CONTEXTS[1:])])
        ours_D = start_D + our_descent(bed, "block", start_D).change(DescentSettings(rate, steps, clamp))
        yield difference(f"value after {steps} steps at {rate}, clamp {clamp}", Found(None, [ours_D - start_D]),
                         Found(None, [theirs_D.detach() - start_D]))
