"""Promises of SAE-guided unlearning: what its gradient reaches, and whom a model takes for unknown afterwards.

Legend: N mentions of entities (flat), D hidden size, F latents.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from expunge.methods._lib.recognition import entity_states, guided_latents, invented, invented_names
from expunge.methods.base import Objective
from expunge.models.language import CausalLM
from expunge.models.sparse_autoencoder import SAE, unpacked
from expunge.records.task import Example

from ..support import batches_of, draws_of, fresh, loss, made, memoriser, moved, small_task, stage_of, step_for, trained
from .base import check, term

Values = NDArray[np.float64]
OTHERS = 40
"""Invented names that a recipe never saw."""


@check
def reaches_inactive_latents(plugin: type[Objective]) -> None:
    """Of latents that are 0, those that are wanted have a gradient and the others none; values are the encoder's."""
    draw = torch.Generator().manual_seed(0)
    w_dec_FD = torch.randn(12, 6, generator=draw)
    sae = SAE(w_dec_FD.T.clone(), torch.zeros(12), w_dec_FD, torch.zeros(6), k=3)
    states_ND, wanted_NF = torch.randn(5, 6, generator=draw), torch.randn(5, 12, generator=draw).relu()
    pre_NF = sae.pre(states_ND).requires_grad_(True)

    class Given(SAE):
        def pre(self, states: torch.Tensor) -> torch.Tensor:
            return pre_NF

    found_NF = guided_latents(Given(**vars(sae)), states_ND, wanted_NF)
    torch.testing.assert_close(found_NF, sae.encode(states_ND) * sae.scale_F)
    (slope_NF,) = torch.autograd.grad(found_NF.sum(), pre_NF)
    silent_NF = sae.encode(states_ND) == 0
    assert (silent_NF & (wanted_NF > 0)).any()
    assert torch.equal(slope_NF != 0, ~silent_NF | (wanted_NF > 0))


@check
def autoencoder_stays(plugin: type[Objective]) -> None:
    """Its tensors take no gradient and keep their bits through a step; it explains most of the original's states."""
    stage, subject = stage_of(term(plugin)), fresh(moved())
    subject.model.requires_grad_(True)
    source: Any = stage.objective
    assert source.made["quality"]["explained"] > 0.8 and source.made["quality"]["dead"] < 0.5
    before = unpacked(source.made["sae"]).tensors()
    step = step_for(stage, subject, batches_of(subject, draws_of(stage, subject)), memoriser())
    terms = source.terms(step)
    sum(t.sum_B.sum() for t in terms.values()).backward()
    after = source._sae.tensors()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any(value.requires_grad or value.grad is not None for value in after.values())
    assert "sae_explained" in source.figures()


@cache
def strangers(seed: int) -> tuple[Example, ...]:
    """Forget rows about invented people, two names at a time."""
    names = invented_names(OTHERS, seed)
    return tuple(row for i in range(0, OTHERS, 2) for row in invented(small_task().forget, names[i: i + 2]))


def recognised(subject: CausalLM, rows: tuple[Example, ...], block: int) -> Values:
    """p(known) at every mention, by a logistic regression on retain rows against the same about invented people; for
    rows that it was fitted on, one that was fitted without their entity."""
    from sklearn.linear_model import LogisticRegression

    retain, found = small_task().retain, list[Values]()
    names = invented_names(16, 101)
    for entity in dict.fromkeys(row.entity for row in rows):
        known = [row for row in retain if row.entity != entity]
        sides = [entity_states(subject, side, block).double().numpy() for side in (known, invented(known, names))]
        given_ND, label_N = np.concatenate(sides), np.repeat([1, 0], [len(side) for side in sides])
        mean_D, spread_D = given_ND.mean(0), given_ND.std(0) + 1e-9
        probe: Any = LogisticRegression(max_iter=10_000).fit((given_ND - mean_D) / spread_D, label_N)
        asked_ND = entity_states(subject, [row for row in rows if row.entity == entity], block).double().numpy()
        found.append(probe.predict_proba((asked_ND - mean_D) / spread_D)[:, 1])
    return np.concatenate(found)


@check(trains=True)
def taken_for_unknown(plugin: type[Objective], forget: float, retain: float, beside: str) -> None:
    """Mean p(known) of people that the probe was not fitted on: below `forget` for forget people, above `retain` for
    the others. After `beside`, which loses at least as much of the answers, forget people are still known."""
    task, block = small_task(), stage_of(term(plugin)).objective.block(len(memoriser().blocks))  # type: ignore
    mine = trained(term(plugin), steps=40, lr=3e-3).subject
    other = trained(beside, steps=8, lr=1e-3).subject
    assert loss(other, task.forget) > loss(mine, task.forget) > 3 * loss(memoriser(), task.forget)
    for subject, known in ((memoriser(), True), (mine, False), (other, True)):
        found = float(recognised(subject, task.forget, block).mean())
        assert found > 0.7 if known else found < forget, found
    kept = [float(recognised(mine, tuple(r for r in task.retain if r.entity == e), block).mean())
            for e in dict.fromkeys(row.entity for row in task.retain)]
    assert float(np.mean(kept)) > retain, kept


@check(trains=True)
def among_the_unknown(plugin: type[Objective]) -> None:
    """Along the axis from known to unknown, the latents of forget people are no further (Kolmogorov-Smirnov) from those
    of invented people in the original than 19 of 20 other pairs of invented people are; before they are."""
    from scipy.stats import ks_2samp

    plan, block = made(term(plugin)), stage_of(term(plugin)).objective.block(len(memoriser().blocks))  # type: ignore
    sae, known_F = unpacked(plan["sae"]), torch.tensor(plan["known"])

    def latents(subject: CausalLM, rows: tuple[Example, ...]) -> torch.Tensor:
        return sae.encode(entity_states(subject, rows, block)) * sae.scale_F - known_F

    rows = strangers(99)
    count = len(small_task().forget)
    pairs = [latents(memoriser(), rows[i: i + count]) for i in range(0, len(rows), count)]
    axis_F = torch.cat(pairs).mean(0)
    pools = [(pair_NF @ axis_F).numpy() for pair_NF in pairs]

    def apart(values: Values, others: list[Values]) -> float:
        return float(ks_2samp(values, np.concatenate(others)).statistic)

    spread = sorted(apart(pool, pools[:i] + pools[i + 1:]) for i, pool in enumerate(pools))
    subject = trained(term(plugin), steps=40, lr=3e-3).subject
    before, after = (apart((latents(s, small_task().forget) @ axis_F).numpy(), pools) for s in (memoriser(), subject))
    assert after <= spread[-2] < before, (before, after, spread[-2:])
