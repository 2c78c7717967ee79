"""Options of `lat` that published settings need: several model steps under one perturbation, and the away term on
retain rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.data.text_encoder import TokenBatch
from expunge.errors import InterruptedRun, PreflightError
from expunge.methods.perturb.lat import LAT
from expunge.methods.plan import preflight
from expunge.methods.recipe import parse
from expunge.models.language import CausalLM
from expunge.models.tiny import build_subject
from expunge.records.settings import RunSettings
from expunge.testing.support import CONFIG, DEPTH, batches_of, draws_of, fresh, small_task, train, weights
from expunge.training.schedule import Schedule


@pytest.fixture(scope="module")
def subject() -> CausalLM:
    """It has seen its rows a few times: else no token would be likely enough for the away term."""
    made = build_subject(CONFIG, small_task().texts())
    train("retain_nll", subject=made, forget=(), retain=small_task().retain, steps=30, lr=5e-3)
    made.model.requires_grad_(False)
    return made


def plain_forward(subject: CausalLM, batch: TokenBatch, delta_BTD: Tensor, block: int) -> Tensor:
    """Logits with `delta_BTD` added to the output of a block's MLP, with a hook of our own."""
    mlp = list(subject.blocks.values())[block].mlp
    handle = mlp.register_forward_hook(lambda module, given, out: out + delta_BTD)
    try:
        logits: Tensor = subject.model(input_ids=batch.ids_BT, attention_mask=batch.attention_BT).logits
    finally:
        handle.remove()
    return logits


def row_losses(logits_BTV: Tensor, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Per row: mean -log p of its answer tokens, and mean -log(1 - p) of those with log p >= -5; one by one."""
    toward, apart = [], []
    for logits_TV, row in zip(logits_BTV, batch.rows, strict=True):
        log_p = torch.stack([logits_TV[t - 1].log_softmax(-1)[row.ids[t]] for t in range(row.prompt, len(row.ids))])
        toward.append(-log_p.mean())
        apart.append((-torch.log1p(-log_p.exp())).where(log_p >= -5, 0.0).mean())
    return torch.stack(toward), torch.stack(apart)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 2.0)])
def test_the_away_term_on_retain_rows_is_the_published_one(subject: CausalLM, weights: tuple[float, float]) -> None:
    """toward * NLL(forget) - away * log(1 - p(retain)), the same perturbation at the same positions; value and
    gradient."""
    double = CausalLM(fresh(subject).model.double(), subject.encoder, subject.path)
    lat = LAT(toward=weights[0], away_retain=weights[1], layers=[1], mask="all", steps=3)
    batches = batches_of(double, draws_of("ga + retain_nll", double, 4))
    forget, retain = batches["forget"], batches["retain"]
    generator = torch.Generator().manual_seed(0)
    delta_BTD = torch.randn(*forget.ids_BT.shape, 64, generator=generator, dtype=torch.float64).requires_grad_(True)

    mine = lat.loss(double, lat.sites(double), [delta_BTD], forget, None, retain)
    width = min(forget.ids_BT.shape[1], retain.ids_BT.shape[1])
    beside_BTD = torch.zeros(*retain.ids_BT.shape, 64, dtype=torch.float64)
    beside_BTD = torch.cat([delta_BTD[:, :width], beside_BTD[:, width:]], 1)
    toward_B, _ = row_losses(plain_forward(double, forget, delta_BTD, 1), forget)
    _, apart_B = row_losses(plain_forward(double, retain, beside_BTD, 1), retain)
    assert float(apart_B.detach().min()) > 0
    theirs = weights[0] * toward_B.sum() + weights[1] * apart_B.sum()
    torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-5)
    got, want = (torch.autograd.grad(value, delta_BTD)[0] for value in (mine, theirs))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-7)


def test_without_its_weight_retain_rows_are_not_read(subject: CausalLM) -> None:
    batches = batches_of(subject, draws_of("ga + retain_nll", subject, 3))
    plain, asked = LAT(layers=[1], steps=2), LAT(layers=[1], steps=2, away_retain=1.0)
    ends = [made.worst(subject, made.sites(subject), batches["forget"], None,
                       batches["retain"] if made.asks_retain else None)[0] for made in (plain, asked)]
    assert not torch.equal(*ends) and not plain.asks_retain


def test_retain_rows_that_no_term_draws_are_refused(subject: CausalLM) -> None:
    recipe = "npo + lat(away_retain=1)"
    with pytest.raises(PreflightError, match="no retain term"):
        preflight(recipe, parse(recipe, DEPTH), small_task(), subject.encoder, subject.model.config, RunSettings())


def test_a_schedule_repeats_its_rows(subject: CausalLM) -> None:
    rows = [{"forget": r} for r in small_task().forget[:5]]
    usual = Schedule(lambda epoch: rows, subject.encoder, 2)
    thrice = Schedule(lambda epoch: rows, subject.encoder, 2, repeats=3)
    assert (usual.steps_per_epoch, thrice.steps_per_epoch) == (3, 9)
    assert [thrice.draws(i) for i in range(18)] == [usual.draws(i // 3) for i in range(18)]


RECIPE = "ga + retain_nll + lat(steps=2, eps=2.0, layers=[1], model_steps=3)"


def watched(subject: CausalLM, **options: Any) -> tuple[list[int], CausalLM]:
    """The steps at which a perturbation was computed, and the model after the run."""
    computed, step, worst = list[int](), [0], LAT.worst

    def counting(self: LAT, *args: Any, **more: Any) -> list[Tensor]:
        computed.append(step[0])
        return worst(self, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LAT, "worst", counting)
        end = train(RECIPE, subject=fresh(subject), steps=7, lr=1e-3, batch_size=4,
                    on_step=lambda line: step.__setitem__(0, line["step"]), **options)
    return computed, end.subject


def test_one_perturbation_serves_several_model_steps(subject: CausalLM) -> None:
    computed, _ = watched(subject)
    assert computed == [0, 3, 6]
    assert watched(subject, accumulate=2)[0] == [0, 0, 3, 3, 6]  # the last rows are fewer


def test_the_perturbation_comes_back_with_a_resumed_run(subject: CausalLM, tmp_path: Path) -> None:
    """Killed in the middle of a block of steps, a run ends with the bits of one that was not."""
    _, whole = watched(subject)

    def stop(line: dict[str, Any]) -> None:
        if line["step"] == 2:
            raise InterruptedRun("stopped")

    with pytest.raises(InterruptedRun):
        train(RECIPE, subject=fresh(subject), steps=7, lr=1e-3, batch_size=4, folder=tmp_path,
              loop={"checkpoint_every": 1}, on_step=stop)
    again = train(RECIPE, subject=fresh(subject), steps=7, lr=1e-3, batch_size=4, folder=tmp_path,
                  loop={"checkpoint_every": 1})
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(again.subject).items())
