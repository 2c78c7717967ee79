"""What a value inside a model would have to be for the model to say something else: found by gradient descent.

Source: compute_v of ROME (arXiv 2202.05262) and compute_z of MEMIT (arXiv 2210.07229), in the authors' code.

Legend: B rows, D hidden size, N supervised tokens (flat), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.data.text_encoder import TokenBatch
from expunge.errors import UsageError
from expunge.methods.base import Retain
from expunge.models.head import raised
from expunge.models.language import CausalLM
from expunge.models.sites import Site, write

Penalty = Callable[[Tensor], Tensor]
"""The change of the value, shape D, whose effect is on when it is called -> what is added to the loss."""


@dataclass(frozen=True)
class DescentSettings:
    """Settings of a descent.

    Args:
        rate: learning rate of Adam.
        steps: forward passes; the last makes no step, as in the authors' code.
        clamp: the change is at most this many times as long as the value at the start.
        enough: loss at which it ends.
    """

    rate: float = 0.1
    steps: int = 25
    clamp: float = 1.0
    enough: float = 0.05


class ValueTerm(Retain):
    """A retain term that also acts on the value descent of an edit."""

    def on_value(self, subject: CausalLM, batch: TokenBatch, at_B: Tensor) -> Penalty:
        """What it adds to the loss of a descent; called with the model as it is.

        Args:
            batch: the rows of the descent; the last is there for what should stay.
            at_B: where the value is changed in each.
        """
        raise NotImplementedError


class ValueDescent:
    """A value at one position of each row, moved by one vector for all of them.

    Args:
        subject: the model; its weights do not change.
        site: where the value stands.
        batch: rows whose supervised tokens are to be said; of the last row what follows its prompt is to stay.
        at_B: the position in each row.
        start_D: the value in the first row before.
        keep: weight of KL(now || before) after the last row.
        decay: weight of |d| / |start|^2.
        uniform: the answers are not to be said: each supervised token's distribution is to be uniform instead.
    """

    def __init__(self, subject: CausalLM, site: Site, batch: TokenBatch, at_B: Tensor, start_D: Tensor, *,
                 keep: float, decay: float, uniform: bool = False) -> None:
        if len({len(row.ids) for row in batch.rows}) > 1 and not subject.pads_right:
            raise UsageError("A value cannot be looked for in this model: its rows feel the padding behind them.",
                             fix="Take a model of another family, or an objective such as npo.")
        self.subject, self.batch, self.at_B, self.start_D = subject, batch, at_B, start_D
        self._site, self._keep, self._decay, self._uniform = site, keep, decay, uniform
        self.penalties: list[Penalty] = []
        with subject.evaluating():
            self._before_V = self._said(torch.zeros_like(start_D))[1]

    def moved(self, delta_D: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """What `write` puts at the site: the value with `delta_D` added at one position of each row."""
        rows_B = torch.arange(len(self.at_B), device=delta_D.device)

        def add(given: Tensor, value_BTD: Tensor) -> Tensor:
            push_BTD = torch.zeros_like(value_BTD)
            push_BTD[rows_B, self.at_B] = delta_D.to(value_BTD)
            return value_BTD + push_BTD

        return add

    def _said(self, delta_D: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean loss of what is to be said, log-probs after the last row's prompt, penalties; shapes (), V, ()."""
        with write(self.subject, self._site, self.moved(delta_D)):
            answers = self.subject.answers(self.batch)
            extra = sum((penalty(delta_D) for penalty in self.penalties), delta_D.new_zeros(()))
        if self._uniform:
            logp_NV = raised(answers.logits_NV).log_softmax(-1)
            losses_N = -logp_NV.mean(-1) - torch.tensor(float(logp_NV.shape[-1])).log()
        else:
            losses_N = -answers.logp_N
        said = answers.row_means(losses_N)[:-1].mean()
        return said, raised(answers.logits_NV[-1]).log_softmax(-1), extra

    def loss(self, delta_D: Tensor) -> Tensor:
        """NLL of what is to be said + keep KL(now || before) + decay |d| / |start|^2 + penalties."""
        said, now_V, extra = self._said(delta_D)
        kept = (now_V.exp() * (now_V - self._before_V)).sum()
        return said + self._keep * kept + self._decay * delta_D.norm() / self.start_D.norm() ** 2 + extra

    def change(self, how: DescentSettings) -> Tensor:
        """The change of the value after gradient descent, shape D."""
        delta_D = torch.full_like(self.start_D, 0.0, requires_grad=True)
        optimizer, longest = torch.optim.Adam([delta_D], lr=how.rate), how.clamp * self.start_D.norm()
        with self.subject.evaluating(), torch.enable_grad():
            for _ in range(how.steps - 1):
                loss = self.loss(delta_D)
                if float(loss.detach()) < how.enough:
                    break
                # The norm has no gradient at 0; the first step goes where the other terms point.
                (delta_D.grad,) = (g.nan_to_num(0.0) for g in torch.autograd.grad(loss, [delta_D]))
                optimizer.step()
                with torch.no_grad():
                    delta_D.mul_((longest / delta_D.norm().clamp_min(1e-12)).clamp_max(1.0))
        return delta_D.detach()
