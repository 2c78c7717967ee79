"""Combiners that read the retain loss again: the loss budget of `gu`, and the dual update of `pdu` once per epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.methods.combine.gu import GU
from expunge.methods.combine.pdu import PDU
from expunge.models.scope import Scope
from expunge.models.tiny import build_subject
from expunge.testing.support import CONFIG, batch_of, small_task, train


def step_with(gu: GU, start: Tensor, step: Tensor, curve: Any) -> tuple[Tensor, float]:
    """Where a step from `start` ends under a retain loss `curve(weights)`, and the scale in the log."""
    module = torch.nn.Module()
    module.w = torch.nn.Parameter(start.clone())
    scope: Any = type("S", (), {"parameters": {"w": module.w}})()
    optimizer = torch.optim.SGD([module.w], lr=1.0)
    gu.ready(0, lambda: float(curve(module.w.detach())), lambda: 0.0)
    with gu.around_step(scope, optimizer), torch.no_grad():
        module.w.add_(step)
    return module.w.detach(), gu.figures().get("step_scale", 1.0)


@pytest.mark.parametrize(("budget", "kept"), [(100.0, 1.0), (4.0, 0.5), (3.0, 0.25), (1.0, 0.25),
                                                (0.3, 0.125), (0.1, 0.0), (0.0, 0.0)])
def test_gu_takes_the_longest_step_within_its_budget(budget: float, kept: float) -> None:
    """On the retain loss |w|^2 from 0 along (4, 0): a step of length s costs 16 s^2, by hand 16, 4, 1, 0.25."""
    start, step = torch.zeros(2, dtype=torch.float64), torch.tensor([4.0, 0.0], dtype=torch.float64)
    end, scale = step_with(GU(form="gradient", budget=budget), start, step, lambda w: w.square().sum())
    assert scale == kept and torch.equal(end, kept * step)
    assert 16 * scale**2 <= budget


def test_gu_without_a_budget_reads_no_loss_and_leaves_the_step() -> None:
    def never(w: Tensor) -> float:
        raise AssertionError("the loss was read")

    start, step = torch.ones(3), torch.tensor([1.0, -2.0, 0.5])
    end, _ = step_with(GU(form="gradient"), start, step, never)
    assert torch.equal(end, start + step)


def test_gu_drops_a_step_whose_loss_is_not_a_number() -> None:
    start, step = torch.ones(2), torch.full((2,), torch.inf)
    end, scale = step_with(GU(form="gradient", budget=1.0), start, step, lambda w: w.sum() * 0)
    assert scale == 0 and torch.equal(end, start)


def test_gu_holds_the_budget_in_a_run() -> None:
    """After every step the retain loss of its rows, computed here, has risen by at most the budget."""
    subject, budget, seen = build_subject(CONFIG, small_task().texts()), 1e-4, list[tuple[float, float, float]]()
    rows = small_task().retain[:4]

    def prepare(scope: Scope, method: Any) -> None:
        inner, optimizer_of = method.around_step, method.optimizer

        def around(scope: Scope, optimizer: torch.optim.Optimizer) -> Any:
            seen.append((loss(), 0.0, 0.0))
            return inner(scope, optimizer)

        method.around_step, method.optimizer = around, optimizer_of

    def loss() -> float:
        with subject.evaluating():
            return -float(subject.answers(batch_of(subject, rows)).logp_N.mean())

    def note(line: dict[str, Any]) -> None:
        seen[-1] = (seen[-1][0], loss(), line["step_scale"])

    train(f"ga + retain_nll + cyclic + gu(form='gradient', budget={budget})", subject=subject, steps=6, lr=3e-2,
          forget=small_task().forget[:4], retain=rows, batch_size=4, prepare=prepare, on_step=note)
    assert len(seen) == 6 and all(after - before <= budget + 1e-6 for before, after, _ in seen)
    assert min(scale for *_, scale in seen) < 1, "no step had to be shortened"


def dual(pdu: PDU, epochs: list[list[float]], at_ends: list[float]) -> list[float]:
    """The multiplier at every step, for retain losses by epoch and step, and those read at the end of each epoch."""
    seen = []
    for epoch, losses in enumerate(epochs):
        for value in losses:
            pdu.ready(epoch, lambda: 99.0, lambda e=epoch: at_ends[e - 1])  # type: ignore[misc]
            pdu.observe({"retain": value}, epoch)
            seen.append(pdu.figures()["rho"])
    return seen


@pytest.mark.parametrize("warmup", [0, 1, 2, 5])
def test_pdu_moves_once_per_epoch(warmup: int) -> None:
    """rho <- max(0, rho + step (R - epsilon)) at the end of epoch number max(1, warmup) and of every later one."""
    ends = [0.9, 0.1, 0.7, 0.2]
    found = dual(PDU(rho=1.0, step=2.0, epsilon=0.3, warmup=warmup, every="epoch"), [[5.0, 6.0]] * 4, ends)
    rho, expected = 1.0, []
    for epoch in range(4):
        if epoch >= max(1, warmup):
            rho = max(0.0, rho + 2.0 * (ends[epoch - 1] - 0.3))
        expected += [rho, rho]
    assert found == pytest.approx(expected)


def test_pdu_goes_on_from_its_state() -> None:
    ends = [0.9, 0.1, 0.7]
    whole, first = (PDU(rho=1.0, step=2.0, epsilon=0.3, warmup=0, every="epoch") for _ in range(2))
    expected = dual(whole, [[0.0]] * 3, ends)
    dual(first, [[0.0]] * 2, ends)
    second = PDU(rho=1.0, step=2.0, epsilon=0.3, warmup=0, every="epoch")
    second.restore(first.state())
    second.ready(2, lambda: 99.0, lambda: ends[1])
    second.observe({"retain": 0.0}, 2)
    assert second.figures()["rho"] == pytest.approx(expected[2])


def test_pdu_reads_the_whole_epoch_in_a_run(tmp_path: Path) -> None:
    """In a run: the multiplier after an epoch follows the mean token loss of all retain rows, computed here."""
    subject, rows, read = build_subject(CONFIG, small_task().texts()), small_task().retain[:6], dict[int, float]()

    def note(line: dict[str, Any]) -> None:
        with subject.evaluating():
            read[line["step"]] = -float(subject.answers(batch_of(subject, rows)).logp_N.mean())

    forget = small_task().forget[:6]
    run = train("ga + retain_nll + cyclic + pdu(rho=2, step=0.5, epsilon=0.1, warmup=1, every=epoch)", subject=subject,
                steps=6, lr=1e-3, forget=forget, retain=rows, batch_size=3, on_step=note, folder=tmp_path)
    rho = [line["rho"] for line in run.lines]
    assert rho[0] == rho[1] == 2
    assert rho[2] == rho[3] == pytest.approx(2 + 0.5 * (read[2] - 0.1), rel=1e-5)
    assert rho[4] == rho[5] == pytest.approx(rho[3] + 0.5 * (read[4] - 0.1), rel=1e-5)
