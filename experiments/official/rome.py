"""rome against the code of its authors: the value found by gradient descent, and the rank-one update."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from expunge.methods._lib.least_squares import constrained_edit
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
    print_nothing,
)
from official.taken import taken

REPOSITORY = "kmeng01/rome"
COMMIT = "0874014cd9837e4365f3e6f3c71400ef11509e04"
FILE = "rome/compute_v.py"
SUBJECT = REQUEST["subject"]


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed)
    bed.model.config.n_embd = bed.model.config.hidden_size
    bed.model.requires_grad_(False)
    source = torch.Generator().manual_seed(seed)
    keys_BK, values_BD = [], []
    for context in CONTEXTS:
        ids = torch.tensor([ids_of(context.format(PROMPT).format(SUBJECT))])
        with torch.no_grad(), read(bed.subject, [Site(LAYER, "mlp_hidden"), Site(LAYER, "mlp")]) as found:
            bed.model(input_ids=ids)
        keys_BK.append(found[0][0][0, place(context.format(PROMPT))])
        values_BD.append(found[1][0][0, place(context.format(PROMPT))])
    draws = torch.randn(len(keys_BK[0]), 200, generator=source, dtype=torch.float64)
    covariance_KK = draws @ draws.T / 200
    for steps, rate, clamp in ((6, 0.05, 4.0), (20, 0.5, 0.75)):
        given: dict[str, Any] = names_for(code, in_tuples=False)
        their_u = taken(code / "rome" / "compute_u.py", "compute_u", get_inv_cov=lambda *a: covariance_KK.inverse(),
                        repr_tools=SimpleNamespace(get_reprs_at_word_tokens=lambda **a: torch.stack(keys_BK)),
                        print=print_nothing)
        their_v = taken(code / FILE, "compute_v", **given, get_module_input_output_at_word=lambda *a, **b: (
            keys_BK[0], values_BD[0]))
        asked = hparams(steps, rate, clamp)
        left_K = their_u(bed.model, None, REQUEST, asked, LAYER, list(CONTEXTS))
        right_D = their_v(bed.model, Tokenizer(), REQUEST, asked, LAYER, left_K, list(CONTEXTS))
        theirs_DK = torch.outer(right_D.detach(), left_K)
        change_D = our_descent(bed, "mlp", values_BD[0]).change(DescentSettings(rate, steps, clamp))
        ours_DK = constrained_edit(keys_BK[0][:, None], change_D[:, None], covariance_KK,
                                   torch.stack(keys_BK).mean(0)[:, None], ridge=0.0)
        yield difference(f"update of a matrix after {steps} steps at {rate}, clamp {clamp}", Found(None, [ours_DK]),
                         Found(None, [theirs_DK]))
