"""The warm-up of the Hugging Face Trainer, as an option of every optimizer."""

from __future__ import annotations

import pytest
import torch
from transformers import get_scheduler

from expunge.methods.optimizers.adamw import AdamW
from expunge.methods.optimizers.sign_sgd import SignSGD


@pytest.mark.parametrize(("total", "warmup"), [(20, 0), (20, 5), (20, 15), (7, 7), (1, 0)])
@pytest.mark.parametrize(("schedule", "theirs"), [("linear", "linear"), ("cosine", "cosine"),
                                                  ("constant", "constant_with_warmup")])
def test_rates_equal_those_of_the_trainer(schedule: str, theirs: str, total: int, warmup: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    scheduler = get_scheduler(theirs, optimizer, num_warmup_steps=warmup, num_training_steps=total)
    mine = AdamW(lr=1e-3, schedule=schedule, warmup_steps=warmup, trainer_warmup=True)
    for step in range(total):
        assert mine.learning_rate(step, total, 5) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9, abs=1e-15)
        optimizer.step()
        scheduler.step()


def test_epochs_of_warm_up_become_steps() -> None:
    epochs = SignSGD(lr=1.0, warmup=2.0, trainer_warmup=True)
    steps = SignSGD(lr=1.0, warmup_steps=10, trainer_warmup=True)
    assert [epochs.learning_rate(i, 12, 5) for i in range(12)] == [steps.learning_rate(i, 12, 5) for i in range(12)]
    assert epochs.learning_rate(0, 12, 5) == 0 and epochs.learning_rate(5, 12, 5) == pytest.approx(0.5)


def test_the_default_warm_up_moves_from_the_first_step_and_takes_at_most_half() -> None:
    usual = AdamW(lr=1.0, warmup=2.0)
    assert usual.learning_rate(0, 12, 5) == pytest.approx(1 / 6) and usual.learning_rate(5, 12, 5) == 1.0
    assert AdamW(lr=1.0, warmup_steps=3).learning_rate(2, 12, 5) == 1.0
