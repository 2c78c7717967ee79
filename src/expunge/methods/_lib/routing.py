"""Routers whose choices on some inputs stay as they are while their weights move.

Legend: N tokens, D hidden size, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

ROUNDS = 100
"""Most corrections of one expert's row."""


class HeldRouter:
    """The weights of a router at the start, its inputs on retain tokens, and what follows for every expert.

    Args:
        weight: shape E D; the largest `count` products with an input choose the experts.
        inputs_ND: what it is given on retain tokens.
        null: squared singular value above which a direction of the tokens that chose an expert is closed to its row.
        margin: distance that an expert which was not chosen keeps from being chosen.
    """

    def __init__(self, weight: nn.Parameter, inputs_ND: Tensor, count: int, null: float, margin: float) -> None:
        self.weight, self.count = weight, count
        self.inputs_ND, self.start_ED = inputs_ND.double(), weight.detach().double()
        scores_NE = self.inputs_ND @ self.start_ED.T
        self.chosen_NE = chosen(scores_NE, count)
        least_N1 = scores_NE.masked_fill(~self.chosen_NE, float("inf")).amin(1, keepdim=True)
        room_NE = (least_N1 - scores_NE).clamp_min(0)
        self.bound_NE = room_NE - torch.minimum(room_NE / 2, torch.tensor(margin))
        self.closed = [self._closed(expert, null) for expert in range(len(weight))]

    def _closed(self, expert: int, null: float) -> Tensor:
        """Orthonormal directions of the tokens that chose an expert, shape D K."""
        _, values, rows = torch.linalg.svd(self.inputs_ND[self.chosen_NE[:, expert]], full_matrices=False)
        return rows[values.square() > null].T

    def allowed(self, expert: int, move_D: Tensor) -> Tensor:
        """The part of an expert's move that changes no score it was chosen by, and lets it overtake nowhere."""
        basis, others = self.closed[expert], ~self.chosen_NE[:, expert]
        inputs, bound = self.inputs_ND[others], self.bound_NE[others, expert]
        free = inputs - inputs @ basis @ basis.T
        move_D = move_D - basis @ (basis.T @ move_D)
        for _ in range(ROUNDS):
            excess = inputs @ move_D - bound
            worst = int(excess.argmax()) if len(excess) else 0
            if not len(excess) or excess[worst] <= 0:
                return move_D
            move_D = move_D - excess[worst] / free[worst].square().sum().clamp_min(1e-12) * free[worst]
        over = (inputs @ move_D) / bound.clamp_min(1e-12)
        return move_D / over.max().clamp_min(1.0)

    @torch.no_grad()
    def bring_back(self) -> None:
        """Project how far the weights have moved from the start, and shorten it until no choice differs."""
        moved_ED = self.weight.double() - self.start_ED
        moved_ED = torch.stack([self.allowed(expert, row) for expert, row in enumerate(moved_ED)])
        for share in (1.0, 0.5, 0.25, 0.0):
            self.weight.copy_(self.start_ED + share * moved_ED)
            if self.same_choices():
                return

    def same_choices(self) -> bool:
        """Whether the weights choose the experts of the start for every input, in the precision of the router."""
        scores_NE = self.inputs_ND.to(self.weight.dtype) @ self.weight.detach().T
        return bool(torch.equal(chosen(scores_NE, self.count), self.chosen_NE))


def chosen(scores_NE: Tensor, count: int) -> Tensor:
    """True for the `count` largest scores of every token."""
    return torch.zeros_like(scores_NE, dtype=torch.bool).scatter_(1, scores_NE.topk(count, dim=1).indices, True)


def evenly(tokens: Sequence[Tensor], most: int) -> Tensor:
    """All tokens together, or `most` of them at even distances; shape N D."""
    whole_ND = torch.cat(list(tokens))
    if len(whole_ND) <= most:
        return whole_ND
    return whole_ND[torch.linspace(0, len(whole_ND) - 1, most).round().long().to(whole_ND.device)]
