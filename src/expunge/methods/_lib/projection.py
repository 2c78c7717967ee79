"""Projections onto the complement of a basis, or onto a set of half-spaces (one per constraint)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls
from torch import Tensor


def multipliers(gram: np.ndarray, violations: np.ndarray) -> np.ndarray:
    """lambda >= 0 that solves min 1/2 lambda^T M lambda - lambda^T v: the dual of the projection.

    M_ij = g_i^T D^-1 g_j, v_i = <g_i, u>. Then u' = u - sum_i lambda_i D^-1 g_i has <g_i, u'> <= 0 for all i, is
    the nearest such vector in the metric D, and lambda_i > 0 only where the product is 0.
    """
    values, vectors = np.linalg.eigh(gram)
    kept = values > 1e-10 * max(values[-1], 0.0)
    root = np.sqrt(values[kept])
    solution, _ = nnls((vectors[:, kept] * root).T, (vectors[:, kept].T @ violations) / root)
    return np.asarray(solution)


def basis_of(directions: Sequence[Tensor]) -> list[Tensor]:
    """Orthonormal float32 tensors that span the directions: Gram-Schmidt, applied twice for numerical orthogonality."""
    basis: list[Tensor] = []
    for direction in directions:
        rest, length = direction.float(), direction.float().norm()
        for _ in range(2):
            for one in basis:
                rest = rest - (rest * one).sum() * one
        if rest.norm() > 1e-5 * length:
            basis.append(rest / rest.norm())
    return basis


def off_basis(part: Tensor, basis: Sequence[Tensor]) -> Tensor:
    """`part` without its components along an orthonormal basis."""
    for _ in range(2):
        for one in basis:
            part = part - ((part * one).sum() * one).to(part.dtype)
    return part
