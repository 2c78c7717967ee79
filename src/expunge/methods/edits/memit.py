"""MEMIT: many facts rewritten at once, spread over several blocks."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from expunge.methods._lib.fact_edit import FactEdit, FactSpec, generic_rows
from expunge.methods._lib.least_squares import cached_covariances, ridged, solve_edit
from expunge.methods._lib.output_projection import adds_plainly, chosen_layers
from expunge.methods._lib.spreading import spread
from expunge.models.language import CausalLM
from expunge.models.load import float32_master
from expunge.models.sites import Site
from expunge.plugin import Card, Property
from expunge.records.task import Task


class MEMIT(FactEdit):
    """Mass-editing memory: all forget rows in one least-squares edit per block."""

    class Spec(FactSpec):
        layers: list[int] = Field([], description="Blocks whose MLPs are edited; by default 3 to 8 of 28, scaled to "
                                                  "the model's depth.")
        penalty: float = Field(0.92, gt=0, description="Weight of the effect on generic text, in multiples of the "
                                                       "number of inputs of the matrix.")

    card = Card(
        name="memit", kind="edit", target="entity",
        summary="mass editing: prompts about entities get a refusal (or another target) by least squares over blocks",
        paper="Mass-Editing Memory in a Transformer, ICLR 2023 (arXiv 2210.07229)",
        formula="W <- W + R K^T (lambda C + K K^T)^-1 per layer, R = (z - z_now) / layers left, C = E[k k^T]",
        defaults="layers 3 to 8 of 28, clamp 0.75, keep 0.0625, decay 0.5, lambda 15000 of GPT-J's 16384 inputs (the "
                 "authors'); refusal as target is ours",
        model_needs=frozenset({"distribution", "generate", "hidden", "logp", "prompt", "weights"}),
        deviations=("the target is a refusal, an empty, uniform or wrong answer instead of a new fact",
                    "lambda is a multiple of the number of inputs: k C^-1 k grows with it, so that one value serves "
                    "models of any width",
                    "a model with a norm behind its MLPs (Gemma 3) is refused: no matrix gives its blocks any output",
                    "generic text, contexts, learning rate and rows that are left out: as rome's"),
    )
    space = {"penalty": ("log", 1e-3, 10.0), "decay": ("log", 1e-3, 1.0)}
    must_show = (
        Property("solves_its_equations", {}, "dW (lambda C + K K^T) = R K^T to 1e-6 in float64"),
        Property("answers_as_target", {"options": {"layers": [2]}}, "of the facts planted in an MLP one becomes the "
                                                        "target, the others stay"),
    )

    def layers(self, depth: int) -> list[int]:
        return chosen_layers(self.card.name, self.spec.layers, depth, (3, 4, 5, 6, 7, 8), 28)

    def check_model(self, subject: CausalLM) -> None:
        super().check_model(subject)
        for layer in self.layers(len(subject.blocks)):
            adds_plainly(subject, layer)

    def solve(self, keys_KM: Tensor, residual_DM: Tensor, covariance_KK: Tensor) -> Tensor:
        """The update of one matrix, shape D K."""
        return solve_edit(keys_KM, residual_DM, penalty=self.spec.penalty * len(keys_KM),
                          covariance_KK=ridged(covariance_KK))

    def apply(self, subject: CausalLM, task: Task, seed: int) -> dict[str, Any]:
        for problem in self.problems(task):
            raise problem
        self.check_model(subject)
        float32_master(subject)
        layers = self.layers(len(subject.blocks))
        statistics = cached_covariances(subject, layers, generic_rows(subject, task))
        facts, last = self.facts(subject, task), layers[-1]
        starts = [fact.value(subject, last) for fact in facts]
        tick, targets = self.announce("values", len(facts)), list[Tensor]()
        for fact, start_D in zip(facts, starts, strict=True):
            targets.append(start_D + fact.change(subject, Site(last), start_D))
            tick(1)
        targets_DM = torch.stack(targets, 1)
        figures = spread(subject, layers, facts, targets_DM,
                         lambda layer, keys, residual: self.solve(keys, residual, statistics[layer]))
        missed = torch.stack([fact.value(subject, last) for fact in facts], 1) - targets_DM
        wanted = torch.stack(starts, 1) - targets_DM
        return {"edit": self.card.name, "rows": len(facts), "rows_left_out": len(task.forget) - len(facts),
                "layers": figures, "missed": float(missed.norm() / wanted.norm().clamp_min(1e-12))}
