"""First-epoch ascent: undo the effect of the forget rows on the weights in the first epoch of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from expunge import plugin
from expunge.data.encoder import Row
from expunge.errors import ExpungeError, UsageError
from expunge.methods._lib.calibrate import ascend, mean_loss
from expunge.methods._lib.importance import summed_gradient
from expunge.methods.base import Edit
from expunge.methods.scopes.embedding import names_within
from expunge.models.load import float32_master, load_subject, read_config
from expunge.models.subject import Subject
from expunge.plugin import Card, Property
from expunge.records.task import Task


class FirstEpoch(Edit):
    """Gradient ascent in one or several moves, on all weights or one part, up to the loss of unseen rows."""

    class Spec(plugin.Spec):
        layers: Literal["embedding", "output", "all"] | int = Field(
            "all", description='Parameters that may change: "all", "embedding", "output", or one block by number.')
        initial: str | list[str] = Field(
            [], description="The model before fine-tuning, where the first-epoch gradient is computed. A list of "
                            "checkpoints, one per epoch, sums their gradients: the all-epoch form.")
        moves: int = Field(1, ge=1, description="1 is one shot; more take a fresh gradient before each, at the "
                                                "current weights, and split the target evenly.")
        target: float | None = Field(None, gt=0, description="Mean loss of forget answers to reach, in nats per "
                                                             "token; that of the holdout rows if left out.")
        step: float | None = Field(None, gt=0, description="c * eta: a fixed factor of the gradient for every move, "
                                                           "instead of a target.")

        @field_validator("step")
        @classmethod
        def _one_rule(cls, value: float | None, info: ValidationInfo) -> float | None:
            if value is not None and info.data.get("target") is not None:
                raise ValueError("give step= or target=, not both")
            return value

    card = Card(
        name="first_epoch", kind="edit",
        summary="gradient ascent on the forget rows' first-epoch gradient up to the loss of rows never seen",
        paper="A More Practical Approach to Machine Unlearning, 2024 (arXiv 2406.09391)",
        formula="w <- w + c * eta * sum_i grad l(x_i; w_first), c such that mean_i l(x_i) = mean holdout loss",
        defaults="calibrated; step = the fine-tuning rate (c = 1) undoes plain descent exactly",
        model_needs=frozenset({"hidden", "logp", "weights"}),
        deviations=("only the abstract was available: step lengths, calibration and losses are our reading of it",
                    "the first-epoch gradient is recomputed at the initial weights instead of logged in training",
                    "without initial= it is computed at the current weights: plain ascent along one direction",
                    "the move is shorter than with the sum over epochs if a trained model was finetuned on the rows; "
                    "for a model trained on everything from random weights it was longer",
                    "influence scores and the matching of requests to near-duplicates are not part of this edit"),
    )
    space = {"layers": ("choice", "all", "embedding", "output"), "moves": ("choice", 1, 5, 50)}
    must_show = (
        Property("undoes_a_step", {}, "a step of plain descent on one row is undone"),
        Property("edits_only", {"options": {"layers": "embedding"}, "part": "embed_tokens"},
                 "only the embedding changes, every other tensor keeps its bits"),
        Property("edits_only", {"options": {"layers": 1}, "part": "layers.1."}, "so does a block by its number"),
        Property("reaches_holdout", {}, "the loss of forget answers ends within 5% of the holdout mean"),
        Property("shorter_than_all_epochs", {}, "for equal loss the first-epoch gradient moves the weights less "
                                                "than the sum over epochs"),
    )

    @property
    def _initial(self) -> list[str]:
        return [self.spec.initial] if isinstance(self.spec.initial, str) else list(self.spec.initial)

    def problems(self, task: Task) -> list[ExpungeError]:
        problems: list[ExpungeError] = []
        if not (self.spec.step or self.spec.target or task.holdout):
            problems.append(UsageError("first_epoch stops at the loss of holdout rows, and the task has none.",
                                       fix="Give --holdout FILE, or first_epoch(target=...) or first_epoch(step=...)."))
        for path in self._initial:
            try:
                read_config(path)
            except ExpungeError as error:
                problems.append(error)
        return problems

    def names(self, subject: Subject) -> tuple[str, ...]:
        """Parameters that may change. Raises UsageError for a block or head that the model does not have."""
        layers, model = self.spec.layers, subject.model
        if isinstance(layers, int):
            blocks = list(subject.blocks.values())
            if not 0 <= layers < len(blocks):
                raise UsageError(f"first_epoch(layers={layers}): the model has no such block.",
                                 f"It has {len(blocks)}, numbered 0 to {len(blocks) - 1}.")
            return names_within(subject, blocks[layers])
        part = {"all": model, "embedding": model.get_input_embeddings(), "output": model.get_output_embeddings()}
        module: nn.Module | None = part[layers]
        if module is None:
            raise UsageError("first_epoch(layers='output'): the model has no output head.")
        return names_within(subject, module)

    def apply(self, subject: Subject, task: Task, seed: int) -> dict[str, Any]:
        for problem in self.problems(task):
            raise problem
        float32_master(subject)
        rows, unseen = ([subject.encoder.encode(e) for e in side] for side in (task.forget, task.holdout))
        chosen, spec = self.names(subject), self.spec
        before = {n: p.detach().clone() for n, p in subject.model.named_parameters() if n in chosen}
        start = mean_loss(subject, rows)
        target = spec.target or (mean_loss(subject, unseen) if unseen and not spec.step else None)
        for number in range(1, spec.moves + 1):
            gradient = self._first(subject, rows) if number == 1 and self._initial else \
                summed_gradient(subject, rows, names=chosen)
            ascend(subject, gradient, rows, step=spec.step,
                   target=start + ((target or start) - start) * number / spec.moves)
        named = dict(subject.model.named_parameters())
        change = torch.stack([(named[n].detach() - w).norm() for n, w in before.items()]).norm()
        return {"edit": "first_epoch", "moves": spec.moves, "target": target, "loss_before": start,
                "loss": mean_loss(subject, rows), "change": float(change)}

    def _first(self, subject: Subject, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Gradient summed over the checkpoints in `initial`, for the parameters that may change."""
        total: dict[str, Tensor] = {}
        for path in self._initial:
            earlier = subject.around(load_subject(path, dtype=torch.float32, device=subject.device).model)
            try:
                gradient = summed_gradient(earlier, rows, names=self.names(subject))
            except (KeyError, IndexError, RuntimeError) as error:
                raise UsageError(f"The model at {path} is not an earlier checkpoint of the model to "
                                 f"edit.", str(error)[:200],
                                 "Give checkpoints of the same training.") from None
            total = {name: value + total.get(name, 0) for name, value in gradient.items()}
        shapes = {name: p.shape for name, p in subject.model.named_parameters()}
        if any(value.shape != shapes[name] for name, value in total.items()):
            raise UsageError("initial= names a model of another size.", fix="Give checkpoints of the same training.")
        return total
