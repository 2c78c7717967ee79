"""Closed-form edits of a linear map: one float64 solver, the null-space projector, a cached covariance.

Legend: K inputs of the map (keys), D its outputs (values), M requests, N tokens.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from expunge.data.text_encoder import TokenRow
from expunge.errors import UsageError
from expunge.methods._lib.output_projection import inputs_of, mlp_out
from expunge.models.language import CausalLM
from expunge.models.subject import checksum
from expunge.records.base import cache_root, fingerprint

VERSION = 1
"""Increase when the meaning of a covariance changes, so that old files are not reused."""
RIDGE = 1e-4
"""Above the rounding of a covariance that is kept in float32, in which one direction may hold nearly all of it."""


def solve_edit(keys_KM: Tensor, residual_DM: Tensor, *, penalty: float = 1.0, projection_KK: Tensor | None = None,
               previous_KK: Tensor | None = None, covariance_KK: Tensor | None = None) -> Tensor:
    """The update dW, shape D K in float64, that adds `residual` at `keys` and little elsewhere.

    Solves (P (K K^T + Kp Kp^T) + lambda R) X = P K residual^T and returns X^T. The left side is not
    symmetric unless P is the identity, so no symmetric factorisation is used.

    Args:
        penalty: lambda, in the units of a squared key.
        projection_KK: P; the update then lies in its range (AlphaEdit, arXiv 2410.02355). None is the identity.
        previous_KK: Kp Kp^T, summed over the keys of earlier edits to preserve.
        covariance_KK: R; None is the identity. With it and without P this is MEMIT (arXiv 2210.07229).
    """
    keys, residual = keys_KM.double(), residual_DM.double()
    left = keys @ keys.T + (0 if previous_KK is None else previous_KK.double())
    right = keys @ residual.T
    if projection_KK is not None:
        left, right = projection_KK.double() @ left, projection_KK.double() @ right
    regulariser = torch.eye(len(keys), dtype=torch.float64, device=keys.device) if covariance_KK is None \
        else covariance_KK.double()
    return torch.linalg.solve(left + penalty * regulariser, right).T


def constrained_edit(keys_KM: Tensor, residual_DM: Tensor, covariance_KK: Tensor,
                     directions_KM: Tensor | None = None, ridge: float = RIDGE) -> Tensor:
    """The update dW, shape D K in float64, with dW K = residual exactly and otherwise as little effect as possible.

    residual (U^T K)^-1 U^T with U = C^-1 K: the limit of `solve_edit` with a covariance as lambda goes to 0. With one
    key it is ROME (arXiv 2202.05262).

    Args:
        covariance_KK: C = E[k k^T] over generic text; `ridge` of its mean diagonal is added to the diagonal.
        directions_KM: keys in place of K inside U, such as means over contexts.
    """
    keys, residual = keys_KM.double(), residual_DM.double()
    covariance = ridged(covariance_KK, ridge)
    towards_KM = torch.linalg.solve(covariance, keys if directions_KM is None else directions_KM.double())
    return residual @ torch.linalg.solve(towards_KM.T @ keys, towards_KM.T)


def ridged(covariance_KK: Tensor, ridge: float = RIDGE) -> Tensor:
    """A second moment in float64 with `ridge` of its mean diagonal added, so that few rows of text can be inverted."""
    covariance = covariance_KK.double()
    eye = torch.eye(len(covariance), dtype=torch.float64, device=covariance.device)
    return covariance + ridge * covariance.diagonal().mean() * eye


def null_projector(covariance_KK: Tensor, threshold: float, *, relative: bool = False) -> Tensor:
    """Projector onto the directions in which the covariance is below `threshold`, shape K K in float64.

    Args:
        relative: the threshold is a multiple of the mean singular value, so that it does not depend on
            the scale of activations.

    Raises:
        UsageError: no direction is that small, so nothing could be edited.
    """
    values_K, vectors_KK = torch.linalg.eigh(covariance_KK.double())
    bound = threshold * float(values_K.mean()) if relative else threshold
    small = vectors_KK[:, values_K < bound]
    if small.shape[1] == 0:
        raise UsageError(f"No direction of the inputs lies below the threshold {threshold:g}.",
                         f"The smallest singular value is {float(values_K.min()):.3g}, the mean "
                         f"{float(values_K.mean()):.3g}.",
                         "Take a larger threshold, or one relative to the mean (relative=True).")
    return small @ small.T


@torch.no_grad()
def covariances(subject: CausalLM, blocks: Sequence[int], rows: Sequence[TokenRow],
                batch_size: int = 16) -> dict[int, Tensor]:
    """E[k k^T] over all real tokens of the rows, k the inputs of a block's MLP output projection; K K, float64."""
    sums: dict[int, Tensor] = {}
    count = 0
    ordered = sorted(rows, key=lambda r: len(r.ids))
    with subject.evaluating():
        for start in range(0, len(ordered), batch_size):
            batch = subject.collate(ordered[start: start + batch_size])
            real_BT = batch.attention_BT.bool()
            for block, keys_BTK in inputs_of(subject, blocks, batch).items():
                keys_NK = keys_BTK[real_BT].double()
                sums[block] = sums.get(block, 0) + keys_NK.T @ keys_NK
            count += int(real_BT.sum())
    return {block: total / count for block, total in sums.items()}


def cached_covariances(subject: CausalLM, blocks: Sequence[int], rows: Sequence[TokenRow],
                       root: Path | None = None) -> dict[int, Tensor]:
    """`covariances`, cached on disk by the content of weights and rows; always rounded to float32."""
    # Computed again: a cached fingerprint from before an earlier stage would name other weights.
    made_from = [VERSION, checksum(subject.model.state_dict()), sorted({row.key for row in rows})]
    root = (root or cache_root()) / "covariances"
    paths = {block: root / f"{fingerprint([*made_from, mlp_out(subject, block)[0]])}.pt" for block in blocks}
    result = {block: stored for block, path in paths.items() if (stored := _read(path)) is not None}
    missing = [block for block in blocks if block not in result]
    for block, value in covariances(subject, missing, rows).items() if missing else ():
        result[block] = value.float().cpu()
        _write(paths[block], result[block])
    return {block: result[block].double().to(subject.device) for block in blocks}


def _read(path: Path) -> Tensor | None:
    """None if there is no complete file."""
    try:
        stored: Tensor = torch.load(path, weights_only=True)
    except Exception:  # pickle, zip and the file system raise different types
        return None
    return stored


def _write(path: Path, value: Tensor) -> None:
    """Write to a temporary file and rename it. Errors are ignored: without the cache the run is slower only."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        os.close(handle)
        torch.save(value, temporary)
        os.replace(temporary, path)
    except OSError:
        return
