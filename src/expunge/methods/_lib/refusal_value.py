"""What the residual stream at a name would have to be for the model to refuse: found by gradient descent.

Legend: B templates, D hidden size, N supervised tokens (flat), V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from expunge.data.text_encoder import TokenRow
from expunge.methods._lib.key_value import TEMPLATES, Mentions
from expunge.models.language import CausalLM
from expunge.models.sites import Site, write
from expunge.records.task import Example

ESSENCE = "{} is a"
"""After these words the model should go on as before."""
STEPS, KEEP, DECAY, ENOUGH = 25, 0.125, 0.5, 0.05
"""Of the authors' hparams files: steps of Adam, weights of the two penalties, loss at which it ends."""


class RefusalValue:
    """The value at a name that makes the answer begin with `words`.

    Args:
        subject: the model; its weights do not change.
        name: what is mentioned in every template.
        block: whose output is optimised, at the last token of the name.
        words: what should be said after every template.
    """

    def __init__(self, subject: CausalLM, name: str, block: int, words: str) -> None:
        self._subject, self._site = subject, Site(block)
        mentions = Mentions(subject, name)
        self.start_D = mentions.value(subject, block)
        asked = [Example(id=f"refusal {i}", prompt=template.format(f"{name}."), answer=words)
                 for i, template in enumerate(TEMPLATES)]
        rows = [subject.encoder.encode(example) for example in asked]
        rows = [TokenRow(r.id, r.ids[: r.prompt + r.answer], r.prompt, r.answer, 0) for r in rows]
        at = Mentions.place(subject, name, ESSENCE.format(name))
        ids = subject.encoder.prompt(Example(id="essence", prompt=ESSENCE.format(name), answer=words))
        rows.append(TokenRow("essence", tuple(ids[: at + 2]), at + 1, 1, 0))
        self._batch = subject.collate(rows)
        self._at_B = torch.cat([mentions.at_B, mentions.at_B.new_tensor([at])])
        with subject.evaluating():
            self._before_V = self._essence(torch.zeros_like(self.start_D))[1]

    def _essence(self, delta_D: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss of the words over the templates, and log-probs after the name in `ESSENCE`; shapes () and V."""
        rows_B = torch.arange(len(self._at_B), device=delta_D.device)

        def moved(given: Tensor, value_BTD: Tensor) -> Tensor:
            push_BTD = torch.zeros_like(value_BTD)
            push_BTD[rows_B, self._at_B] = delta_D.to(value_BTD)
            return value_BTD + push_BTD

        with write(self._subject, self._site, moved):
            answers = self._subject.answers(self._batch)
        return -answers.row_means(answers.logp_N)[:-1].mean(), answers.logits_NV[-1].float().log_softmax(-1)

    def loss(self, delta_D: Tensor) -> Tensor:
        """NLL of the words + KEEP * KL(now || before) after `ESSENCE` + DECAY * |d| / |z|^2, z the value before."""
        nll, now_V = self._essence(delta_D)
        kept = (now_V.exp() * (now_V - self._before_V)).sum()
        return nll + KEEP * kept + DECAY * delta_D.norm() / self.start_D.norm() ** 2

    def found(self, rate: float = 0.1) -> Tensor:
        """The value after gradient descent, moved by at most its length at the start; shape D."""
        delta_D = torch.full_like(self.start_D, 0.0, requires_grad=True)
        optimizer, longest = torch.optim.Adam([delta_D], lr=rate), self.start_D.norm()
        with self._subject.evaluating(), torch.enable_grad():
            for _ in range(STEPS - 1):
                loss = self.loss(delta_D)
                if float(loss.detach()) < ENOUGH:
                    break
                # The norm has no gradient at 0; the first step goes where the other terms point.
                (delta_D.grad,) = (g.nan_to_num(0.0) for g in torch.autograd.grad(loss, [delta_D]))
                optimizer.step()
                with torch.no_grad():
                    delta_D.mul_((longest / delta_D.norm().clamp_min(1e-12)).clamp_max(1.0))
        return self.start_D + delta_D.detach()
