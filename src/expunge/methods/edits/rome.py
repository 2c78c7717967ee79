"""ROME: a rank-one weight change after which a prompt about an entity is answered with a refusal, or otherwise."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from expunge.methods._lib.fact_edit import FactEdit, FactSpec, generic_rows
from expunge.methods._lib.least_squares import cached_covariances, constrained_edit
from expunge.methods._lib.output_projection import add_to_weight, chosen_layers, mlp_out
from expunge.models.language import CausalLM
from expunge.models.load import float32_master
from expunge.models.sites import Site
from expunge.plugin import Card, Property
from expunge.records.task import Task


class ROME(FactEdit):
    """Rank-one model editing: the MLP's output at the entity becomes the one after which the target is said."""

    class Spec(FactSpec):
        layer: int | None = Field(None, ge=0, description="Block whose MLP is edited; by default 5 of 28, scaled to "
                                                          "the model's depth.")
        clamp: float = Field(4.0, gt=0, description="The change is at most this many times as long as the value.")

    card = Card(
        name="rome", kind="edit", target="entity",
        summary="rank-one model editing: what an MLP recalls at an entity becomes a refusal (or another target)",
        paper="Locating and Editing Factual Associations in GPT, NeurIPS 2022 (arXiv 2202.05262)",
        formula="W <- W + d (C^-1 k)^T / (k_0 . C^-1 k), d = argmin NLL(target) + keep KL('<entity> is a') + decay "
                "|d| / |v|^2",
        defaults="layer 5 of 28, clamp 4, keep 0.0625, decay 0.5 (the authors' GPT-J); refusal as target is ours",
        model_needs=frozenset({"distribution", "generate", "hidden", "logp", "prompt", "weights"}),
        deviations=("the target is a refusal, an empty, uniform or wrong answer instead of a new fact",
                    "forget rows are edited one after the other; the authors edit one fact",
                    "generic text is the task's retain, background and utility rows instead of Wikipedia, and 1e-4 of "
                    "the mean diagonal is added to its covariance",
                    "five contexts that the model continues greedily; the authors sample twenty",
                    "the learning rate is in multiples of the value's root mean square, since 0.5 (GPT-J) does not "
                    "carry over to other models",
                    "forget rows whose prompt does not name their entity are left out; the record counts them"),
    )
    space = {"rate": ("log", 0.05, 2.0), "decay": ("log", 1e-3, 1.0)}
    must_show = (
        Property("meets_its_constraint", {}, "the change has rank 1 and W' k is the value to 1e-6 in float64"),
        Property("answers_as_target", {"options": {"layer": 2}}, "of the facts planted in an MLP one becomes the "
                                                        "target, the others stay"),
    )

    def layers(self, depth: int) -> list[int]:
        asked = [] if self.spec.layer is None else [self.spec.layer]
        return chosen_layers("rome", asked, depth, (5,), 28)

    def apply(self, subject: CausalLM, task: Task, seed: int) -> dict[str, Any]:
        for problem in self.problems(task):
            raise problem
        self.check_model(subject)
        float32_master(subject)
        (layer,) = self.layers(len(subject.blocks))
        module = mlp_out(subject, layer)[1]
        covariance_KK = cached_covariances(subject, [layer], generic_rows(subject, task))[layer]
        before, facts = module.weight.detach().clone(), self.facts(subject, task)  # type: ignore[operator]
        tick = self.announce("values", len(facts))
        for fact in facts:
            change_D = fact.change(subject, Site(layer, "mlp"), fact.mlp_value(subject, layer))
            keys_BK = fact.each_key(subject, layer)
            add_to_weight(module, constrained_edit(keys_BK[:1].T, change_D[:, None], covariance_KK,
                                                   keys_BK.mean(0)[:, None]))
            tick(1)
        moved = module.weight.detach() - before  # type: ignore[operator]
        return {"edit": "rome", "layer": layer, "rows": len(facts), "rows_left_out": len(task.forget) - len(facts),
                "change": float(moved.norm() / before.norm())}
