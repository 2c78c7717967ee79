"""Trims in recipes: what they bring, when weights are read, and who may use them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from expunge.errors import PreflightError, UsageError
from expunge.methods._lib.trimming import staying
from expunge.methods.plan import preflight
from expunge.methods.recipe import parse, trainer_stage
from expunge.records.settings import RunSettings
from expunge.testing.support import CONFIG, memoriser, small_task, train
from expunge.training.loop import _reading_due
from expunge.training.stopping import StopRule


@pytest.mark.parametrize(("every", "period", "due"), [
    (3, 1, [3, 6, 9, 12]), (1, 4, [4, 8, 12]), (3, 4, [4, 8, 12]), (5, 4, [8, 12]), (0, 4, []), (20, 4, []),
])
def test_weights_are_read_at_ends_of_windows(every: int, period: int, due: list[int]) -> None:
    assert [done for done in range(1, 13) if _reading_due(done, every, period)] == due


def test_readings_see_trimmed_weights_only() -> None:
    """Every reading, and so the kept weights, is of a step at which a window ended; the last window may be short."""
    reads: list[int] = []

    def monitor() -> dict[str, float]:
        reads.append(1)
        return {"forget": 0.5, "forget_loss": 1.0, "utility": 1.0}

    run = train("npo + retain_nll + ignore_k(window=3)", steps=5, lr=1e-3, monitor=monitor,
                loop={"eval_every": 1, "stop": StopRule(keep="last")})
    assert [line["step"] for line in run.lines if "eval" in line] == [3, 5] and len(reads) == 3
    assert [line["step"] for line in run.lines if "trim_share" in line] == [3, 5]


def test_a_trim_brings_its_source_only_where_none_is_named() -> None:
    (alone,), (named,), (edit,) = parse("ignore_k"), parse("ga + ignore_k"), parse("ssd + ignore_k")
    assert alone.objective is not None and alone.objective.card.name == "npo" and "ignore_k brings npo." in alone.notes
    assert named.objective is not None and named.objective.card.name == "ga" and not named.retain
    assert edit.objective is None and edit.edit is not None
    trained = trainer_stage("retain_nll + sparse_steps(window=2)", None, 1e-3)
    assert trained.objective is None and trained.trim is not None and trained.trim.window == 2
    with pytest.raises(UsageError, match="one trim"):
        parse("npo + ignore_k + sparse_steps")


def test_the_plan_tells_of_windows_and_refuses_a_trim_without_steps() -> None:
    config = SimpleNamespace(**CONFIG)

    def planned(recipe: str) -> tuple[str, ...]:
        return preflight(recipe, parse(recipe, 3), small_task(), memoriser().encoder, config,
                         RunSettings(epochs=1, batch_size=4)).notes

    assert any("every 20 steps" in note for note in planned("npo + ignore_k"))
    assert not any("trims" in note for note in planned("npo + ignore_k(k=0)"))
    with pytest.raises(PreflightError, match="ignore_k would do nothing"):
        planned("ssd + ignore_k")


def test_which_entries_stay_by_hand() -> None:
    change = torch.tensor([0.1, -5.0, 3.0, 0.0, -0.2])
    assert staying(change, 0.4, "keep_top").tolist() == [False, True, True, False, False]
    assert staying(change, 0.6, "drop_top").tolist() == [True, False, False, True, True]
    for share in (0.0, 0.2, 0.5, 1.0):
        assert int(staying(change, share, "random", 3).sum()) == round(5 * share)
    assert torch.equal(staying(change, 0.4, "random", 1), staying(change, 0.4, "random", 1))
    assert staying(torch.zeros(4), 0.5, "keep_top").sum() == 2 and staying(torch.zeros(0), 0.5, "keep_top").numel() == 0
