"""GUARD: forget rows weigh less the more their unlearning would cost the retain rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from expunge import plugin
from expunge.methods._lib.importance import summed_gradient
from expunge.methods._lib.weighing import WeighingSampler
from expunge.methods.run_context import RunContext
from expunge.methods.samplers.paired import Paired
from expunge.models.subject import AnySubject
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task
from expunge.seeding import stream


def unlearning_weights(attribution: Sequence[float], tau: float) -> list[float]:
    """n exp(-a_i / tau) / sum_j exp(-a_j / tau) of attributions with mean 0 and deviation 1: mean 1, falling in a."""
    middle, spread = statistics.fmean(attribution), statistics.pstdev(attribution)
    scaled = [-(a - middle) / (spread * tau) if spread > 0 else 0.0 for a in attribution]
    powers = [math.exp(s - max(scaled)) for s in scaled]
    return [len(powers) * p / sum(powers) for p in powers]


class GuardWeights(WeighingSampler):
    """Pairs rows as the default does, and weighs forget rows by their attribution to the retain loss."""

    class Spec(plugin.Spec):
        tau: float = Field(1.0, gt=0, le=1e30, description="Temperature, in deviations of the attribution; the larger, "
                                                           "the more equal the weights.")
        retain_rows: int = Field(256, ge=1, description="Most retain rows that the attribution is taken to.")

    card = Card(
        name="guard_weights", kind="sampler",
        summary="forget rows weighed by attribution: less where unlearning costs the retain rows more (GUARD)",
        paper="GUARD: Guided Unlearning and Retention via Data Attribution for LLMs (arXiv 2506.10946)",
        formula="a_i = <grad NLL(z_i), mean_r grad NLL(z_r)> at the start; w_i = n exp(-a_i / tau) / sum_j exp(-a_j / "
                "tau); L_f = (1/n) sum_i w_i l_f(z_i)",
        defaults="tau 1 in deviations is ours; the paper chooses it by validation",
        needs=frozenset({"retain"}),
        model_needs=frozenset({"logp", "weights"}),
        memory="2: the mean retain gradient and that of one row, before the first step",
        deviations=("written from the abstract and summaries; the form of the exponent and the parameters that count "
                    "are not known here, and nothing was compared",
                    "attributions are scaled to deviation 1 before tau, and come from token means, so that neither the "
                    "scale nor the length of a row decides",
                    "gradients of all parameters, also where an adapter is trained; computed once",
                    "rows are drawn as by paired"),
    )
    space = {"tau": ("log", 0.2, 10.0)}
    must_show = (
        Property("weights_fall_in_attribution", {}, "mean 1, strictly falling, and equal for tau to infinity"),
        Property("attribution_ranks_damage", {}, "its order is that of the retain loss after one small step of ascent "
                                                 "on each row, and weighed ascent costs less than plain"),
        Property("weighs_forget_terms", {}, "the gradient is that of the terms times the weights, divided by all rows"),
        Property("visits_every_forget_row", {}, "an epoch is a permutation of the forget rows"),
        Property("ignores_global_random_state", {}, "same seed, same rows, independent of earlier draws"),
    )

    def prepare(self, subject: AnySubject, task: Task, run: RunContext) -> dict[str, Any]:
        others = list(task.retain)
        if len(others) > self.spec.retain_rows:
            others = stream(run.seed, "guard_weights").sample(others, self.spec.retain_rows)
        whole = summed_gradient(subject, [subject.encoder.encode(row) for row in others])
        tick, found = run.announce("attribution", len(task.forget)), {}
        for row in task.forget:
            own = summed_gradient(subject, [subject.encoder.encode(row)])
            found[row.id] = sum(float((own[n].double() * whole[n]).sum()) for n in own) / len(others)
            tick(1)
        return {"attribution": found}

    def factors(self) -> Mapping[str, float]:
        attribution = self.made["attribution"]
        return dict(zip(attribution, unlearning_weights(list(attribution.values()), self.spec.tau), strict=True))

    def order(self, rows: Mapping[str, Sequence[Example]], epoch: int, seed: int) -> list[dict[str, Example]]:
        return Paired().order(rows, epoch, seed)
