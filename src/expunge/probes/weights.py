"""Distance of the weights from the original's, part by part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from expunge.errors import UsageError
from expunge.models.subject import Subject
from expunge.plugin import Card, Property
from expunge.probes.base import Probe, Progress
from expunge.records.observation import Row
from expunge.records.task import Example, Task


def merged(subject: Subject) -> Subject:
    """The subject with its adapter merged into a copy; the subject itself if it has none."""
    from peft import PeftModel

    if not isinstance(subject.model, PeftModel):
        return subject
    copied: Any = subject.clone().model
    return subject.around(copied.merge_and_unload())


def distances(subject: Subject, original: Subject) -> dict[str, dict[str, float]]:
    """Per block, then embeddings, head and the rest: ||w - w0||, ||w0||, their ratio, number of weights.

    Raises:
        UsageError: the parameters differ in name or shape.
    """
    changed, base = merged(subject), merged(original)
    weights, fixed = dict(changed.model.named_parameters()), dict(base.model.named_parameters())
    shapes, others = ({n: p.shape for n, p in side.items()} for side in (weights, fixed))
    if shapes != others:
        odd = sorted(n for n in {**shapes, **others} if shapes.get(n) != others.get(n))
        raise UsageError("The subject and the original do not have the same parameters.",
                         f"{len(odd)} parameters differ in name or shape; the first is {odd[0]}.")
    parts: dict[str, list[tuple[float, float, int]]] = {}
    for name, weight in weights.items():
        change = float((weight.double() - fixed[name].to(weight.device).double()).norm())
        parts.setdefault(_part(changed, name, weight), []).append(
            (change, float(fixed[name].double().norm()), weight.numel()))
    order = [*changed.blocks, "embeddings", "head", "other"]
    by_part = {}
    for part in sorted(parts, key=order.index):
        change, norm = (sum(row[i] ** 2 for row in parts[part]) ** 0.5 for i in (0, 1))
        by_part[part] = {"change": change, "norm": norm, "distance": change / norm if norm else float(change > 0),
                         "weights": sum(row[2] for row in parts[part])}
    return by_part


def _part(subject: Subject, name: str, weight: Tensor) -> str:
    block = next((b for b in subject.blocks if name.startswith(f"{b}.")), None)
    if block is not None:
        return block
    ends: list[tuple[str, Any]] = [("embeddings", subject.model.get_input_embeddings()),
                                   ("head", subject.model.get_output_embeddings())]
    return next((part for part, module in ends
                 if module is not None and any(p is weight for p in module.parameters())), "other")


class Weights(Probe):
    """One row per decoder block, embedding table and head; the examples are not used."""

    uses_original = True
    card = Card(
        name="weights", kind="probe",
        summary="relative distance of every block's weights from the original's",
        paper="plain definition, no source of its own",
        formula="||w - w0|| / ||w0|| over all weights of a block",
        needs=frozenset({"original"}),
        model_needs=frozenset({"hidden", "weights"}),
        defaults="Frobenius norm in float64; adapters merged; a head tied to the embeddings counts there",
        deviations=("Rows are about parts of the model, so they are observed for the forget split only; their ids "
                    "are module names.",),
    )
    must_show = (
        Property("weights_match_by_hand", {}, "one block moved by a known amount; nothing else"),
        Property("merges_adapters", {}, "an adapter counts as the change it makes"),
    )

    def count(self, examples: Sequence[Example]) -> int:
        return 1

    def observe(self, subject: Subject, examples: Sequence[Example], task: Task,
                progress: Progress | None = None, *, partner: Subject | None = None) -> list[Row]:
        """Raises UsageError without an original, or if its parameters differ."""
        with torch.no_grad():
            by_part = distances(subject, self.require_original(partner))
        if progress:
            progress(1)
        return [{"id": part, "entity": "", "group": "", "form": "answer", "index": i, "weights": row["weights"],
                 **{key: float(f"{row[key]:.7g}") for key in ("change", "norm", "distance")}}
                for i, (part, row) in enumerate(by_part.items())]
