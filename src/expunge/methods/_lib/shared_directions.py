"""What the tokens of many steps have in common at the two ends of a matrix, and gradients rebuilt without it.

Source: CIR (arXiv 2509.11816) and its code. Legend: N tokens, D size of an input or output, K components.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Moments:
    """Sums of vectors and of their products in float64, from which mean and components follow.

    Args:
        size: D.
        like: where the sums are kept.
    """

    def __init__(self, size: int, like: Tensor) -> None:
        self.count = 0
        self.sum_D = torch.zeros(size, dtype=torch.float64, device=like.device)
        self.product_DD = torch.zeros(size, size, dtype=torch.float64, device=like.device)

    def add(self, vectors_ND: Tensor) -> None:
        wide_ND = vectors_ND.double()
        self.count += len(wide_ND)
        self.sum_D += wide_ND.sum(0)
        self.product_DD += wide_ND.T @ wide_ND

    def basis(self, components: int) -> Tensor:
        """Orthonormal columns that span the mean and the first components - 1 principal ones, shape D K.

        Components of centred data are not orthogonal to the mean, so one projection after another would leave a
        remainder.
        """
        if not self.count or components < 1:
            return self.product_DD.new_zeros(len(self.sum_D), 0)
        mean_D = self.sum_D / self.count
        centred_DD = self.product_DD / self.count - torch.outer(mean_D, mean_D)
        most = min(components - 1, len(mean_D) - 1)
        leading_DK = torch.linalg.eigh(centred_DD).eigenvectors.flip(1)[:, :most]
        directions_DK = torch.cat([mean_D[:, None], leading_DK], 1)
        directions_DK = directions_DK[:, directions_DK.norm(dim=0) > 0]
        return torch.linalg.qr(directions_DK).Q


def off(vectors_ND: Tensor, basis_DK: Tensor) -> Tensor:
    """The part of each vector outside the span of orthonormal columns."""
    basis_DK = basis_DK.to(vectors_ND)
    return vectors_ND - vectors_ND @ basis_DK @ basis_DK.T
