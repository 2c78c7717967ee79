"""Needle: find the value vectors that write the forget answers, and drown them in noise (ConceptVectors)."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from expunge import plugin
from expunge.methods._lib.answer_directions import answer_tokens, pointing
from expunge.methods._lib.output_projection import mlp_out
from expunge.methods.base import Edit
from expunge.models.language import CausalLM
from expunge.models.load import float32_master
from expunge.plugin import Card, Property
from expunge.records.task import Task
from expunge.seeding import derive


def value_vectors(module: nn.Module) -> Tensor:
    """The columns of an MLP's output projection, shape D J: what each of its neurons adds to the residual stream."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.detach() if isinstance(module, nn.Linear) else weight.detach().T


class ConceptVectors(Edit):
    """Noise on the value vectors of MLPs that point to the forgotten answers."""

    class Spec(plugin.Spec):
        count: int = Field(1, ge=1, description="Value vectors per forget row; rows may share one.")
        noise: float = Field(5.0, ge=0, description="Standard deviation of the noise, in multiples of the vector's "
                                                    "root mean square; 0 changes nothing.")
        first: float = Field(0.0, ge=0, lt=1, description="Where in the model the search begins, as a share of its "
                                                          "depth.")

    card = Card(
        name="concept_vectors", kind="edit", target="concept",
        summary="find the neurons whose value vectors write the forget answers, and add noise to them (Needle)",
        paper="Intrinsic Evaluation of Unlearning Using Parametric Knowledge Traces, 2024 (arXiv 2406.11614)",
        formula="v_lj <- v_lj + N(0, (noise rms(v_lj))^2 I) for the columns v_lj of W_down whose logits E v_lj are "
                "largest at the answer's tokens, in standard deviations over the vocabulary",
        defaults="noise 5, near to the authors' absolute 0.1 on LLaMA-2-7B; one vector per row is ours",
        model_needs=frozenset({"blocks", "logp", "sequence", "weights"}),
        deviations=("vectors are found by the logits of the answer's tokens; the authors take lists of 200 tokens that "
                    "a language model and people found coherent, and test by noise",
                    "the fine-tuning of those columns that may follow is left out: npo + layers(...) is near to it",
                    "it is an oracle for facts that sit in one vector: where they do not, little is forgotten"),
    )
    space = {"noise": ("log", 0.5, 50.0), "count": ("choice", 1, 4, 16)}
    must_show = (
        Property("keeps_everything", {"options": {"noise": 0.0}}, "no noise changes no weight"),
        Property("finds_planted_neurons", {}, "the planted neuron of each fact is found, and only its column changes"),
        Property("removes_planted_fact", {"options": {"noise": 20.0}, "most": 21},
                 "a planted fact is gone, all others stay"),
    )

    def check_model(self, subject: CausalLM) -> None:
        for layer in self.layers(len(subject.blocks)):
            mlp_out(subject, layer)

    def layers(self, depth: int) -> list[int]:
        return list(range(int(self.spec.first * depth), depth))

    def found(self, subject: CausalLM, task: Task) -> list[tuple[int, int]]:
        """(block, column) of the vectors, each once."""
        layers = self.layers(len(subject.blocks))
        columns = [value_vectors(mlp_out(subject, layer)[1]) for layer in layers]
        places = [(layer, j) for layer, v in zip(layers, columns, strict=True) for j in range(v.shape[1])]
        all_DJ, chosen = torch.cat(columns, 1), dict[tuple[int, int], None]()
        for row in task.forget:
            if tokens := answer_tokens(subject, [row]):
                best = pointing(subject, all_DJ, tokens).topk(min(self.spec.count, len(places))).indices
                chosen |= dict.fromkeys(places[j] for j in best.tolist())
        return list(chosen)

    def apply(self, subject: CausalLM, task: Task, seed: int) -> dict[str, Any]:
        self.check_model(subject)
        float32_master(subject)
        generator = torch.Generator().manual_seed(derive(seed, "concept_vectors"))
        found = sorted(self.found(subject, task))
        for layer, column in found if self.spec.noise else ():
            vector_D = value_vectors(mlp_out(subject, layer)[1])[:, column]
            drawn_D = torch.randn(len(vector_D), generator=generator, dtype=torch.float64)
            vector_D += self.spec.noise * vector_D.square().mean().sqrt() * drawn_D.to(vector_D)
        return {"edit": "concept_vectors", "vectors": [list(place) for place in found]}
