"""ROCR: redirect names to another concept by a rank-one weight change per name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.errors import ExpungeError, UsageError
from expunge.methods._lib.fact_edit import generic_rows, no_generic_text
from expunge.methods._lib.key_value import Mentions
from expunge.methods._lib.least_squares import cached_covariances, null_projector, solve_edit
from expunge.methods._lib.output_projection import adds_plainly, chosen_layers, mlp_out
from expunge.methods._lib.refusal_value import RefusalValue
from expunge.methods._lib.spreading import spread
from expunge.methods.base import Edit
from expunge.models.language import CausalLM
from expunge.models.load import float32_master
from expunge.plugin import Card, Property
from expunge.records.task import Task
from expunge.seeding import derive


class ROCR(Edit):
    """Rank-one concept redirection: at the last token of a name the residual stream becomes that of another concept."""

    class Spec(plugin.Spec):
        target: Literal["replacement", "refusal", "noise"] = Field(
            "replacement", description="What a name becomes: the replacement; what makes the model refuse, found by "
                                       "gradient descent; or a random vector of that length.")
        refusal: str = Field("Unfortunately", pattern=r"\S", description="How a refusal begins.")
        rate: float = Field(0.1, gt=0, description="Learning rate of that descent; less for a small model.")
        replacement: str = Field("an imaginary character", pattern=r"\S", description="Concept replacing the names. "
                                 "With a real person, their facts would be stated about the target, which may be "
                                 "false and harmful.")
        entities: list[str] = Field([], description="Names to redirect; by default the entities of the forget rows.")
        layers: list[int] = Field([], description="Blocks whose MLP is edited; the concept is read at the last one; "
                                                  "by default 4, 5, 6 of 32, scaled to the model's depth.")
        penalty: float = Field(1.0, gt=0, description="Lambda: penalty on large changes, in squared activations.")
        threshold: float = Field(2e-2, gt=0, description="Only directions of the keys with a smaller singular value in "
                                                         "generic text may change.")
        relative: bool = Field(False, description="Read the threshold as a multiple of the mean singular value, "
                                                  "independent of the scale of activations.")

    card = Card(
        name="rocr", kind="edit", target="entity",
        summary="rank-one concept redirection: the forgotten names are redirected to another concept",
        paper="LLM Unlearning Should Be Form-Independent, 2025 (arXiv 2506.07795)",
        formula="[P K K^T + lambda I] X = P K R^T, W <- W + X^T, per layer; R = (z_replacement - z_name) / layers left",
        defaults="target replacement, layers 4, 5, 6 of 32, lambda 1, threshold 0.02 (the authors' repository)",
        model_needs=frozenset({"hidden", "prompt", "weights"}),
        deviations=("the replacement is a neutral invented concept; the authors redirect to a real, famous person",
                    "generic text is the task's retain, background and utility rows instead of Wikipedia",
                    "the name's present value is read in the same template as the replacement's, where the "
                    "authors read it without a template",
                    "all names of a request are one edit; keys of earlier runs are not kept",
                    "the templates have our own wording and use the model's prompt template",
                    "pronouns, aliases and facts asked for without the name are not covered"),
    )
    space = {"penalty": ("log", 1e-2, 1e2), "threshold": ("log", 1e-4, 1.0)}
    must_show = (
        Property("rank_is_requests", {}, "each name adds one to the rank of a layer's change"),
        Property("stays_in_null_space", {}, "the change lies in the null space and hardly affects generic keys"),
        Property("reads_as_replacement", {}, "at the name the residual stream approaches the replacement's"),
        Property("answers_as_replacement", {}, "the name gets the replacement's facts, others keep theirs"),
        Property("forgets_in_every_form", {"other": "ga + retain_nll"},
                 "the drop spreads less over forms of question than with ascent on one form"),
    )

    def problems(self, task: Task) -> list[ExpungeError]:
        problems = list[ExpungeError]()
        if not self._entities(task):
            problems.append(UsageError("rocr redirects names, and the forget rows name no entity.",
                                       "Their `entity` field is empty.",
                                       'Fill it in, or write rocr(entities=["..."]).'))
        return problems + no_generic_text("rocr", task)

    def _entities(self, task: Task) -> list[str]:
        return self.spec.entities or list(dict.fromkeys(row.entity for row in task.forget if row.entity))

    def layers(self, depth: int) -> list[int]:
        """The blocks to edit, in order. Raises UsageError for one the model does not have."""
        return chosen_layers("rocr", self.spec.layers, depth, (4, 5, 6), 32)

    def check_model(self, subject: CausalLM) -> None:
        for layer in self.layers(len(subject.blocks)):
            mlp_out(subject, layer)
            adds_plainly(subject, layer)

    def apply(self, subject: CausalLM, task: Task, seed: int) -> dict[str, Any]:
        for problem in self.problems(task):
            raise problem
        self.check_model(subject)
        layers = self.layers(len(subject.blocks))
        names = [Mentions(subject, name) for name in self._entities(task)]
        float32_master(subject)
        statistics = cached_covariances(subject, layers, generic_rows(subject, task))
        last, free = layers[-1], {}
        targets_DM = self._targets(subject, self._entities(task), last, seed)
        before = self._likeness(subject, names, last, targets_DM)

        def solve(layer: int, keys_KM: Tensor, residual_DM: Tensor) -> Tensor:
            projection_KK = null_projector(statistics[layer], self.spec.threshold, relative=self.spec.relative)
            free[str(layer)] = {"free_directions": round(float(projection_KK.trace()))}
            return solve_edit(keys_KM, residual_DM, penalty=self.spec.penalty, projection_KK=projection_KK)

        changed = spread(subject, layers, names, targets_DM, solve)
        return {"edit": "rocr", "entities": len(names), "layers": {n: changed[n] | free[n] for n in changed},
                "likeness_before": before, "likeness": self._likeness(subject, names, last, targets_DM)}

    def _targets(self, subject: CausalLM, names: Sequence[str], block: int, seed: int) -> Tensor:
        """What the residual stream at each name should become, shape D M."""
        if self.spec.target == "replacement":
            target_D = Mentions(subject, self.spec.replacement).value(subject, block)
            return target_D[:, None].expand(-1, len(names))
        found_DM = torch.stack([RefusalValue(subject, name, block, self.spec.refusal).found(self.spec.rate)
                                for name in names], 1)
        if self.spec.target == "refusal":
            return found_DM
        generator = torch.Generator().manual_seed(derive(seed, "rocr noise"))
        noise_DM = torch.randn(found_DM.shape, generator=generator).to(found_DM)
        return noise_DM / noise_DM.norm(dim=0) * found_DM.norm(dim=0)

    @staticmethod
    def _likeness(subject: CausalLM, names: Sequence[Mentions], block: int, targets_DM: Tensor) -> float:
        """Mean cosine between the residual stream at the names and what it should become."""
        values_MD = torch.stack([name.value(subject, block) for name in names])
        return float(torch.cosine_similarity(values_MD, targets_DM.T).mean())
