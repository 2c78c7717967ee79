"""Value vectors of MLPs that a task names, beside those of the original: parametric traces of a concept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from expunge.errors import UsageError
from expunge.models.language import CausalLM
from expunge.models.slots import place_of
from expunge.plugin import Card, Property
from expunge.probes.base import Probe, Progress
from expunge.probes.weights import merged
from expunge.records.observation import Row
from expunge.records.task import Example, Task

TOP = 200
"""Tokens of a vector that are compared."""
PLACE = re.compile(r"block (\d+), neuron (\d+)")


def place_in(group: str) -> tuple[int, int] | None:
    """(block, neuron) that a row's group names; None where it names none."""
    found = PLACE.fullmatch(group)
    return (int(found[1]), int(found[2])) if found else None


def value_vector(subject: CausalLM, block: int, neuron: int) -> Tensor:
    """What a neuron adds to the residual stream, in float64, shape D.

    Raises:
        UsageError: the model has no such neuron.
    """
    module = place_of(subject, "mlp_hidden", block).module
    weight = module.weight
    assert isinstance(weight, Tensor)
    vectors_DK = weight.detach() if isinstance(module, nn.Linear) else weight.detach().T
    if neuron >= vectors_DK.shape[1]:
        raise UsageError(f"Block {block} has no neuron {neuron}.", f"It has {vectors_DK.shape[1]}, numbered from 0.",
                         "The vectors of a task belong to one model: take that one.")
    return vectors_DK[:, neuron].double()


def compared(vector_D: Tensor, first_D: Tensor, head_VD: Tensor, top: int = TOP) -> dict[str, float]:
    """Cosine, L2 distance, and Jaccard overlap of the `top` tokens that the head gives most, both by this head."""
    tokens = [set((head_VD @ one_D).topk(min(top, len(head_VD))).indices.tolist()) for one_D in (vector_D, first_D)]
    return {"cosine": float(torch.cosine_similarity(vector_D, first_D, dim=0)),
            "distance": float((vector_D - first_D).norm()),
            "jaccard": len(tokens[0] & tokens[1]) / len(tokens[0] | tokens[1])}


class ValueVectors(Probe):
    """One row per example whose group names a place, such as `block 23, neuron 743`; a place is read once."""

    uses_original = True
    card = Card(
        name="value_vectors", kind="probe", target="concept",
        summary="how far the value vectors that a task names are from the original's",
        paper="Intrinsic Evaluation of Unlearning Using Parametric Knowledge Traces, 2024 (arXiv 2406.11614)",
        formula="cos(v, v0), ||v - v0||, |top200(E v) & top200(E v0)| / |top200(E v) | top200(E v0)|",
        defaults="200 tokens, by the original's output head for both",
        needs=frozenset({"original"}),
        model_needs=frozenset({"blocks", "hidden", "weights"}),
        deviations=("The authors' script takes the unlearned model's head for v and the original's for v0.",),
    )
    must_show = (
        Property("traces_match_by_hand", {}, "the original with itself; one vector changed and no other"),
    )

    def observe(self, subject: CausalLM, examples: Sequence[Example], task: Task,
                progress: Progress | None = None, *, partner: CausalLM | None = None) -> list[Row]:
        """Raises UsageError without an original, or where a model has no such place."""
        changed: Any = merged(subject)
        original: Any = merged(self.require_original(partner))
        rows: dict[tuple[int, int], Row] = {}
        head = original.head.weight.detach().double()
        for example in examples:
            place = place_in(example.group)
            if place is not None and place not in rows:
                found = compared(value_vector(changed, *place).to(head.device), value_vector(original, *place), head)
                rows[place] = {"id": example.id, "entity": example.entity, "group": example.group, "form": "answer",
                               "index": len(rows), **{key: float(f"{v:.7g}") for key, v in found.items()}}
            if progress:
                progress(1)
        return list(rows.values())
