"""PISCES: turn the weights of an MLP away from the directions that stand for the forget answers."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.errors import ExpungeError
from expunge.methods._lib.answer_directions import answer_tokens, pointing
from expunge.methods._lib.fact_edit import no_generic_text
from expunge.methods._lib.output_projection import mlp_out
from expunge.methods._lib.steered import at_prompts, prompt_rows
from expunge.methods.base import Edit
from expunge.methods.edits.concept_vectors import value_vectors
from expunge.models.language import CausalLM
from expunge.models.load import float32_master
from expunge.plugin import Card, Property
from expunge.records.task import Task


def turned(vectors_DJ: Tensor, feature_D: Tensor, tau: float, mu: float) -> tuple[Tensor, Tensor]:
    """Value vectors with their part along a unit feature set against it where it is large, and which changed; D J, J.

    The part of vector j is a_j; where |a_j| > tau max |a| it becomes -sign(a_j) mu max |a|.
    """
    parts_J = feature_D @ vectors_DJ
    most = parts_J.abs().max()
    chosen_J = parts_J.abs() > tau * most
    wanted_J = torch.where(chosen_J, -parts_J.sign() * mu * most, parts_J)
    return torch.where(chosen_J, vectors_DJ + torch.outer(feature_D, wanted_J - parts_J), vectors_DJ), chosen_J


class PISCES(Edit):
    """Precise in-parameter concept erasure, with principal components as features."""

    class Spec(plugin.Spec):
        features: int = Field(1, ge=1, description="Features per forget row.")
        tau: float = Field(0.5, ge=0, le=1, description="Vectors with at least this share of the largest part along "
                                                        "the feature change; 1 changes none.")
        mu: float = Field(1.0, ge=0, description="How far they are set against it, in multiples of the largest part.")

    card = Card(
        name="pisces", kind="edit", target="concept",
        summary="set MLP weights against the features that write the forget answers (no gradients)",
        paper="Precise In-Parameter Concept Erasure (PISCES), 2025 (arXiv 2505.22586)",
        formula="w_j <- w_j + (z' - z) D_f, z = <w_j, E_f>, z' = -sign(z) mu max |z| where |z| > tau max |z|",
        defaults="tau 0.5 of the authors' 0.2 to 0.95; mu 1 (theirs is 4 to 50 with sparse autoencoders)",
        model_needs=frozenset({"hidden", "prompt", "sequence", "weights"}),
        deviations=("features are the principal components of the MLP's output on the task's prompts, and are found by "
                    "the logits of the answer's tokens: small models have no public sparse autoencoder. Encoder and "
                    "decoder are then one orthonormal matrix, and nothing is lost between them",
                    "features are not filtered by their effect on other knowledge; nothing was compared"),
    )
    space = {"tau": ("uniform", 0.2, 0.95), "mu": ("log", 0.25, 16.0)}
    must_show = (
        Property("turns_by_hand", {}, "only the chosen vectors change, and only along the feature"),
        Property("keeps_everything", {"options": {"tau": 1.0}}, "an empty set of vectors changes no weight"),
        Property("removes_planted_fact", {"options": {}, "most": 20}, "a planted fact is gone, 20 others stay"),
    )

    def problems(self, task: Task) -> list[ExpungeError]:
        return no_generic_text("pisces", task)

    def check_model(self, subject: CausalLM) -> None:
        for layer in range(len(subject.blocks)):
            mlp_out(subject, layer)

    def apply(self, subject: CausalLM, task: Task, seed: int) -> dict[str, Any]:
        for problem in self.problems(task):
            raise problem
        self.check_model(subject)
        float32_master(subject)
        rows = prompt_rows(subject, dict.fromkeys((*task.forget, *task.retain, *task.background, *task.utility)))
        wanted = [tokens for row in task.forget if (tokens := answer_tokens(subject, [row]))]
        features: list[Tensor] = []
        for layer in range(len(subject.blocks)):
            outputs_ND = at_prompts(subject, layer, "mlp", rows, every=True).double()
            features.append(torch.linalg.svd(outputs_ND, full_matrices=False).Vh.to(outputs_ND).T)
        places = [(layer, f) for layer, found_DF in enumerate(features) for f in range(found_DF.shape[1])]
        all_DJ = torch.cat(features, 1).to(next(subject.head.parameters()))
        both_DJ = torch.cat([all_DJ, -all_DJ], 1)  # a component has no sign of its own
        chosen: dict[tuple[int, int], None] = {}
        for tokens in wanted:
            best = pointing(subject, both_DJ, tokens).topk(min(self.spec.features, len(places))).indices
            chosen |= dict.fromkeys(places[j % len(places)] for j in best.tolist())
        changed = 0
        for layer, f in sorted(chosen):
            vectors_DJ = value_vectors(mlp_out(subject, layer)[1])
            found_DJ, chosen_J = turned(vectors_DJ, features[layer][:, f].to(vectors_DJ), self.spec.tau, self.spec.mu)
            vectors_DJ.copy_(found_DJ)
            changed += int(chosen_J.sum())
        return {"edit": "pisces", "features": [list(place) for place in sorted(chosen)], "vectors": changed}
