"""Small updates of half-precision models arrive, on average and without bias."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from expunge.models.load import float32_master, load_subject, save_in, stochastic_round
from expunge.testing.support import Trained, fresh, train, weights

RECIPE = "ga + adamw(lr=1e-5, weight_decay=0, warmup=0, schedule=constant)"
STEPS = 4


def half() -> Trained:
    """Not a run: a bfloat16 copy of the memoriser in the same wrapping."""
    subject = fresh()
    subject.model.bfloat16()
    return Trained(subject, None, [], None)  # type: ignore[arg-type]


def movement(before: dict[str, Tensor], after: dict[str, Tensor], intended: dict[str, Tensor]) -> float:
    """Share of the intended movement that arrived, along the intended direction."""
    along = sum(float(((after[n].double() - before[n].double()) * intended[n].sign()).sum()) for n in before)
    return along / sum(float(v.abs().sum()) for v in intended.values())


def test_intended_movement_arrives(tmp_path: Path) -> None:
    """A bfloat16 model, trained in float32 and saved in bfloat16, has moved by what training intended."""
    subject = half().subject
    before = {n: v.float() for n, v in weights(subject).items()}
    assert float32_master(subject) == torch.bfloat16
    train(RECIPE, subject=subject, steps=STEPS)
    intended = {n: v - before[n] for n, v in weights(subject).items()}
    assert 0 < max(float(v.abs().max()) for v in intended.values()) < 1e-4
    save_in(subject, tmp_path, torch.bfloat16, seed=0)
    saved = load_subject(tmp_path)
    assert next(saved.model.parameters()).dtype == torch.bfloat16
    after = {n: v.float() for n, v in weights(saved).items()}
    assert movement(before, after, intended) == pytest.approx(1, abs=0.15)

    naive = half().subject
    train(RECIPE, subject=naive, steps=STEPS)
    arrived = movement(before, {n: v.float() for n, v in weights(naive).items()}, intended)
    assert arrived < 0.5, f"{arrived:.2f} of the movement survived without master weights"


def test_saving_is_a_function_of_the_seed(tmp_path: Path) -> None:
    prints = []
    for place, seed in (("a", 1), ("b", 1), ("c", 2)):
        subject = fresh()
        state = torch.get_rng_state()
        save_in(subject, tmp_path / place, torch.bfloat16, seed)
        assert torch.equal(torch.get_rng_state(), state)
        prints.append(load_subject(tmp_path / place).fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    subject = fresh()
    save_in(subject, tmp_path, torch.bfloat16, 0)
    model = load_subject(tmp_path).model
    assert model.get_input_embeddings().weight.data_ptr() == model.get_output_embeddings().weight.data_ptr()


@pytest.mark.parametrize("value", [1.0 + 1e-3, -1.0 - 1e-3, 3.14159, -2.7e-5, 1e20])
def test_rounding_is_unbiased(value: float) -> None:
    """Only the two neighbours occur, in proportion to their nearness."""
    many = torch.full((200_000,), value)
    rounded = stochastic_round(many, torch.bfloat16, torch.Generator().manual_seed(0)).double()
    neighbours = rounded.unique()
    assert len(neighbours) == 2
    low, high = neighbours.tolist()
    exact = float(many[0].double())
    assert low < exact < high
    step = high - low
    assert abs(float(rounded.mean()) - exact) < 5 * step / 2 / 200_000 ** 0.5


def test_representable_values_stay() -> None:
    """Every finite bfloat16, zeros of both signs and infinities come back as they were."""
    every = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    every = every[~every.isnan()]
    for seed in range(3):
        back = stochastic_round(every.float(), torch.bfloat16, torch.Generator().manual_seed(seed))
        assert torch.equal(back.view(torch.int16), every.view(torch.int16))


def test_other_precisions_are_cast_plainly() -> None:
    values, generator = torch.randn(100), torch.Generator().manual_seed(0)
    assert torch.equal(stochastic_round(values, torch.float16, generator), values.half())
    assert torch.equal(stochastic_round(values, torch.float32, generator), values)
    assert torch.equal(stochastic_round(values.double(), torch.bfloat16, generator), values.double().bfloat16())
