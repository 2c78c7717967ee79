"""Probe-geometry alignment: take away the direction by which a probe tells memorised texts from others."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from expunge.errors import ExpungeError
from expunge.methods._lib.probe_directions import directions, last_states
from expunge.methods.base import Objective, WeightedSpec
from expunge.methods.run_context import RunContext
from expunge.models.language import CausalLM
from expunge.models.sites import Site
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task
from expunge.training.step import Step, Term


def misalignment(forget_BLD: Tensor, control_BLD: Tensor, directions_LD: Tensor) -> Tensor:
    """Mean over blocks of the squared distance along each block's direction, shape B."""
    return ((forget_BLD - control_BLD) * directions_LD).sum(-1).pow(2).mean(-1)


class ProbeGeometry(Objective):
    """Align each forget row with a control row along the probe's direction at the last token, in every block."""

    builds = True

    class Spec(WeightedSpec):
        layers: list[int] | None = Field(None, min_length=1, description=(
            "Blocks that are aligned; all of them if left out."))
        every: int = Field(25, ge=1, description="Steps after which the probe is fitted again, on the model as it is.")
        rows: int = Field(64, ge=2, description="Most forget rows, and control rows, that a probe is fitted on.")

    card = Card(
        name="probe_geometry", kind="objective",
        summary="align forget with control rows along the direction of a memorisation probe",
        paper="Probe-Geometry Alignment: Erasing the Cross-Sequence Memorization Signature (arXiv 2605.01699)",
        formula="L = mean_i mean_l ((h_l(m_i) - h_l(c_i)) . w_l)^2 at last tokens, w_l the normal of a logistic "
                "regression",
        defaults="weight 1 beside a likelihood of the controls with weight 1, a new probe every 25 epochs of 200, "
                 "Adam 1e-4, LoRA rank 16 (Pythia-70M, 7 pairs)",
        needs=frozenset({"retain"}),
        model_needs=frozenset({"hidden", "weights"}),
        companions="retain_nll",
        deviations=("controls are retain rows, the i-th for the i-th forget row; retain_nll draws its rows itself",
                    "states are what blocks give; the authors' last depth has been through the final norm",
                    "the last token is that which ends the answer, such as the end of a turn, where the format has "
                    "one; the authors' texts have none",
                    "the probe is fitted again after steps, not epochs, and on at most 64 rows of each side",
                    "a probe on the rows that were aligned scores below chance, which is no sign of erasure: see "
                    "linear_probe, which holds entities out and permutes labels",
                    "0.5 on rows that were not aligned was not reached on the test bed: aligned on every other row of "
                    "two people, a probe of these is right on 0.22 to 0.39 of the others, which are about the same two",
                    "the hooks of the paper, which change no weights, are not offered"),
    )
    space = {"weight": ("log", 0.1, 100.0), "every": ("choice", 5, 25, 100)}
    must_show = (
        Property("distance_along_the_probe", {}, "only what lies along the direction counts, block by block"),
        Property("leaves_no_mark", {}, "the first probe is plain data; fitting it changes nothing"),
        Property("aligns_pairs", {"share": 0.1}, "pairs end a tenth as far apart along the first probe's directions"),
        Property("probe_falls_below_chance", {}, "a probe fitted again on the aligned rows, a pair held out, is right "
                                                 "on less than half"),
    )

    def __init__(self, spec: Any = None, **options: Any) -> None:
        super().__init__(spec, **options)
        self._later: Tensor | None = None

    def blocks(self, depth: int) -> list[int]:
        return list(range(depth)) if self.spec.layers is None else self.spec.layers

    def sides(self, example: Example, task: Task, rng: random.Random) -> dict[str, Example]:
        number = next((i for i, row in enumerate(task.forget) if row.id == example.id), 0)
        return {"forget": example, "control": task.retain[number % len(task.retain)]}

    def prepare(self, subject: CausalLM, task: Task, run: RunContext) -> dict[str, Any]:
        return {"directions": self._fitted(subject, task).tolist()}

    def before_step(self, subject: CausalLM, task: Task, step: int) -> None:
        if step == 0:
            self._later = None
        elif step % self.spec.every == 0:
            self._later = self._fitted(subject, task)

    def state(self) -> dict[str, Any]:
        return {} if self._later is None else {"directions": self._later}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._later = state["directions"]

    def terms(self, step: Step) -> dict[str, Term]:
        if self._later is None and not getattr(self, "made", {}):
            raise ExpungeError("probe_geometry has no directions.", "The first probe is fitted before the first step.")
        first = self._later is None
        directions_LD = torch.tensor(self.made["directions"], dtype=torch.float64) if first else self._later
        assert directions_LD is not None
        sites = [Site(block) for block in self.blocks(len(step.subject.blocks))]
        forget_BLD, control_BLD = (last_states(step.at(side, sites), step.batches[side].to(step.subject.device))
                                   for side in ("forget", "control"))
        apart_B = misalignment(forget_BLD, control_BLD, directions_LD.to(forget_BLD))
        return {"probe_geometry": Term(apart_B, "sequences", "forget")}

    def _fitted(self, subject: CausalLM, task: Task) -> Tensor:
        count = min(self.spec.rows, len(task.forget))
        controls = [task.retain[i % len(task.retain)] for i in range(count)]
        return directions(subject, task.forget[:count], controls, self.blocks(len(subject.blocks)))
