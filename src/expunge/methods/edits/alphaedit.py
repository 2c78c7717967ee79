"""AlphaEdit: MEMIT's facts, written only into directions that generic text does not use."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from expunge.methods._lib.least_squares import null_projector, solve_edit
from expunge.methods._lib.output_projection import chosen_layers
from expunge.methods.edits.memit import MEMIT
from expunge.plugin import Card, Property


class AlphaEdit(MEMIT):
    """Null-space constrained editing."""

    class Spec(MEMIT.Spec):
        layers: list[int] = Field([], description="Blocks whose MLPs are edited; by default 4 to 8 of 32, scaled to "
                                                  "the model's depth.")
        penalty: float = Field(0.01, gt=0, description="Penalty on large changes, in multiples of the keys' mean "
                                                      "squared length within the free directions, or absolute.")
        threshold: float = Field(2e-2, gt=0, description="Only directions of the keys with a smaller singular value in "
                                                         "generic text may change.")
        relative: bool = Field(True, description="Read the threshold as a multiple of the mean singular value and the "
                                                 "penalty as one of the keys; False: both absolute, as published.")

    card = Card(
        name="alphaedit", kind="edit", target="entity",
        summary="MEMIT within the null space of generic text: prompts get a refusal (or another target)",
        paper="AlphaEdit: Null-Space Constrained Knowledge Editing for Language Models, ICLR 2025 (arXiv 2410.02355)",
        formula="[P K K^T + lambda I] X = P K R^T, W <- W + X^T per layer, P the directions below the threshold in C",
        defaults="layers 4 to 8 of 32, threshold 0.02 (the authors' Llama-3-8B); lambda 0.01 of the keys is ours, "
                 "theirs is 10 absolute",
        model_needs=frozenset({"distribution", "generate", "hidden", "logp", "prompt", "weights"}),
        deviations=("threshold and lambda are relative by default, since absolute ones (0.02 and 10) depend on the "
                    "scale of a model's activations; relative=False has them absolute",
                    "all rows are one edit; keys of earlier runs are not kept",
                    "targets, generic text, contexts, learning rate and rows that are left out: as rome's and memit's"),
    )
    space = {"penalty": ("log", 1e-3, 10.0), "threshold": ("log", 1e-4, 1.0)}
    must_show = (
        Property("leaves_generic_directions", {}, "dW (I - P) = 0 to 1e-6 in float64"),
        Property("answers_as_target", {"options": {"layers": [2]}}, "of the facts planted in an MLP one becomes the "
                                                        "target, the others stay"),
    )

    def layers(self, depth: int) -> list[int]:
        return chosen_layers(self.card.name, self.spec.layers, depth, (4, 5, 6, 7, 8), 32)

    def solve(self, keys_KM: Tensor, residual_DM: Tensor, covariance_KK: Tensor) -> Tensor:
        projection_KK = null_projector(covariance_KK, self.spec.threshold, relative=self.spec.relative)
        free_KM = projection_KK @ keys_KM.double()
        unit = float(free_KM.square().sum(0).mean()) if self.spec.relative else 1.0
        return solve_edit(keys_KM, residual_DM, penalty=self.spec.penalty * max(unit, 1e-30),
                          projection_KK=projection_KK)
