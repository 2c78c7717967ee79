"""Stop at the loss of rows that were never seen, entity by entity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.methods.base import Stop
from expunge.models.subject import AnySubject
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task

Form = tuple[str, str]
"""Kind and group of a row: rows of one form are equally hard to guess."""


def form_of(row: Example) -> Form:
    return row.kind, row.group


def losses(subject: AnySubject, rows: Sequence[Example]) -> list[float]:
    """Loss of each answer in nats per supervised token, without gradient."""
    encoded, found = [subject.encoder.encode(row) for row in rows], [0.0] * len(rows)
    with subject.evaluating():
        for chosen in subject.encoder.batches(encoded):
            answers = subject.answers(subject.collate([encoded[i] for i in chosen]))
            for i, value in zip(chosen, answers.row_means(answers.logp_N).tolist(), strict=True):
                found[i] = -value
    return found


def aims(rows: Sequence[Example], losses: Sequence[float]) -> dict[Form, float]:
    """Mean loss of the rows of each form, and of all of them under ("", "")."""
    gathered: dict[Form, list[float]] = {("", ""): list(losses)}
    for row, loss in zip(rows, losses, strict=True):
        gathered.setdefault(form_of(row), []).append(loss)
    return {form: sum(values) / len(values) for form, values in gathered.items()}


class HoldoutLevel(Stop):
    """A forget row counts until its entity is as unlikely as rows that were never seen, and again when it falls below.

    Pushing further is a trace itself: the retrained model does not say less of an entity than of any other stranger.
    """

    class Spec(plugin.Spec):
        per: Literal["entity", "row", "task"] = Field("entity", description=(
            "What is compared with the holdout rows: the mean over an entity, each row by itself, or the mean of all."))
        margin: float = Field(0.0, description="Added to the level, in nats per token.")

    card = Card(
        name="holdout_level", kind="stop", target="entity",
        summary="forget an entity only until its rows are as unlikely as rows that were never seen",
        paper="ours; the aim is that of retraining, as in TOFU (arXiv 2401.06121): forget rows like rows never seen",
        formula="w_r = [ mean_(r' in e(r)) loss(r') < mean_(r' in e(r)) aim(form(r')) + margin ], aim(form) the mean "
                "loss of the holdout rows of that form before the first step",
        defaults="the level itself: the retrained model is as unsure of the forget rows as of others that it never saw",
        needs=frozenset({"holdout"}),
        model_needs=frozenset({"logp"}),
        deviations=("the loss of a row is that of the last step that drew it, in training mode; under a perturbation "
                    "of weights, that of the first pass of the step",
                    "rows are of one form if kind and group are the same; a form that no holdout row has takes the "
                    "mean of all holdout rows"),
    )
    must_show = (
        Property("keeps_all_until_reached", {}, "a level that is never reached changes nothing, bit for bit"),
        Property("stops_all_above", {}, "with every entity above the level only the retain term moves the weights"),
        Property("ends_near_the_level", {"steps": 60, "lr": 1e-3}, "every entity ends near the level, which plain "
                                                                   "forgetting passes"),
        Property("remembers_when_resumed", {}, "what it holds is plain data, and gives the same weights again"),
    )

    def __init__(self, spec: Any = None, **options: Any) -> None:
        super().__init__(spec, **options)
        self._aim_of: dict[str, float] = {}
        self._whose: dict[str, str] = {}
        self._last: dict[str, float] = {}
        self._noted: set[str] = set()
        self._kept: list[float] = []

    def begin(self, subject: AnySubject, task: Task, rows: Sequence[Example]) -> None:
        level = aims(task.holdout, losses(subject, task.holdout))
        self._aim_of = {r.id: level.get(form_of(r), level["", ""]) + self.spec.margin for r in rows}
        per = self.spec.per
        self._whose = {r.id: "all" if per == "task" else (r.entity if per == "entity" else "") or r.id for r in rows}

    def weights(self, ids: Sequence[str], losses_B: Tensor) -> Tensor:
        for key, value in zip(ids, losses_B.tolist(), strict=True):
            if key not in self._noted:
                self._last[key] = value
                self._noted.add(key)
        room: dict[str, float] = {}
        for key, value in self._last.items():
            room[self._whose[key]] = room.get(self._whose[key], 0.0) + self._aim_of[key] - value
        kept = [float(room[self._whose[key]] > 0) for key in ids]
        self._kept += kept
        return torch.tensor(kept, device=losses_B.device)

    def figures(self) -> dict[str, float]:
        found = {"still_forgetting": sum(self._kept) / len(self._kept)} if self._kept else {}
        self._noted, self._kept = set(), []
        return found

    def state(self) -> dict[str, Any]:
        return {"last": dict(self._last)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._last = dict(state["last"])
