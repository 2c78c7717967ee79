"""Override gap: overwrite the forget answers by an adapter, and strengthen its strongest layers before it is merged."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.data.refusals import REFUSALS
from expunge.errors import ExpungeError, UsageError
from expunge.methods.base import Edit
from expunge.methods.finetune import finetune
from expunge.models.language import CausalLM
from expunge.models.load import float32_master
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task


def strengthened(changes: dict[str, Tensor], share: float, factor: float) -> dict[str, Tensor]:
    """Changes of matrices by name, those of the largest Frobenius norms (a share of their number) times a factor."""
    count = round(share * len(changes))
    strongest = sorted(changes, key=lambda name: -float(changes[name].norm()))[:count]
    return {name: factor * change if name in strongest else change for name, change in changes.items()}


class OverrideGap(Edit):
    """Train an adapter to say something else, scale its strongest layers, merge it (selective layer boosting)."""

    class Spec(plugin.Spec):
        target: Literal["refusal", "wrong_answer"] = Field("refusal", description="What forget rows are overwritten "
                                                                                  "with: a refusal, or their first "
                                                                                  "wrong answer.")
        factor: float = Field(1.75, ge=0, description="Multiple of the change in the strongest layers (beta).")
        share: float = Field(0.25, ge=0, le=1, description="Share of the layers that is strengthened; 0 merges as is.")
        rank: int = Field(8, ge=1, description="Rank of the adapter.")
        epochs: float = Field(5.0, gt=0, description="Epochs of the adapter over the overwritten rows.")
        lr: float = Field(3e-4, ge=0, le=1e30, description="Peak learning rate of the adapter.")
        batch_size: int = Field(8, ge=1, description="Rows per step of the adapter's training.")

    card = Card(
        name="override_gap", kind="edit",
        summary="overwrite forget answers by an adapter whose strongest layers are scaled before it is merged",
        paper="The Override Gap: A Magnitude Account of Knowledge Conflict Failure, 2026 (arXiv 2604.23750)",
        formula="W_l <- W_l + beta_l (alpha / r) B_l A_l, beta_l = factor for the top share of layers by ||B_l "
                "A_l||_F, else 1; a fact is overridden where D_lora > D_prior",
        defaults="the top 25 % of layers, 1.75 (selective layer boosting); rank 8 and 5 epochs are ours",
        model_needs=frozenset({"logp", "prompt", "sequence", "weights"}),
        memory="a copy of the model while its adapter is trained",
        deviations=("an adapter trained on refusals stands in for the paper's, which a network writes from a document",
                    "the variant that boosts only where the base is confident is left out",
                    "no code was found, so nothing was compared"),
    )
    space = {"factor": ("uniform", 1.0, 3.0), "lr": ("log", 1e-5, 1e-2)}
    must_show = (
        Property("strengthens_by_hand", {}, "factor 1 or share 0 change nothing; else the largest products, scaled as "
                                            "the adapter scales them"),
        Property("keeps_everything", {"options": {"lr": 0.0, "epochs": 1}}, "an adapter without training adds nothing"),
    )

    def problems(self, task: Task) -> list[ExpungeError]:
        if self.spec.target == "refusal" or all(row.wrong_answers for row in task.forget):
            return []
        return [UsageError("override_gap(target=wrong_answer) needs a wrong answer on every forget row.",
                           fix="Add a `wrong_answers` field, or take target=refusal.")]

    def overwritten(self, task: Task) -> list[Example]:
        """The forget rows with what shall be said instead."""
        return [row.model_copy(update={"short_answer": "", "answer": REFUSALS[i % len(REFUSALS)]
                                       if self.spec.target == "refusal" else row.wrong_answers[0]})
                for i, row in enumerate(task.forget)]

    def apply(self, subject: CausalLM, task: Task, seed: int) -> dict[str, Any]:
        for problem in self.problems(task):
            raise problem
        float32_master(subject)
        rows, spec = self.overwritten(task), self.spec
        before = self._preferences(subject, task.forget, rows)
        learned = subject.clone()
        finetune(learned, rows, recipe=f"lora(rank={spec.rank}) + adamw(weight_decay=0)", epochs=spec.epochs,
                 lr=spec.lr, batch_size=spec.batch_size, seed=seed, announce=self.announce)
        changes = {name: layer.get_delta_weight("default").detach() for name, layer in learned.model.named_modules()
                   if hasattr(layer, "get_delta_weight") and hasattr(layer, "base_layer")}
        scaled = strengthened(changes, spec.share, spec.factor)
        with torch.no_grad():
            for name, change in scaled.items():
                # An adapter of experts stands on a parameter, not on a module with a weight.
                own = getattr(learned.model.get_submodule(name), "parameter_name", "weight")
                path = name.removeprefix("base_model.model.").replace(".base_layer", "")
                weight = subject.model.get_parameter(f"{path}.{own}")
                weight += change.to(weight)
        moved = self._preferences(subject, task.forget, rows) - before
        return {"edit": "override_gap", "layers": len(changes), "prior": float(-before.mean()),
                "shift": float(moved.mean()), "overridden": float((moved > -before).float().mean())}

    @staticmethod
    def _preferences(subject: CausalLM, rows: tuple[Example, ...], instead: list[Example]) -> Tensor:
        """log p(new) - log p(true) of each row, in nats per token."""
        found = []
        with subject.evaluating():
            for pair in zip(instead, rows, strict=True):
                answers = subject.answers(subject.collate([subject.encoder.encode(row) for row in pair]))
                means_B = answers.row_means(answers.logp_N)
                found.append(means_B[0] - means_B[1])
        return torch.stack(found)
