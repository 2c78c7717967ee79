"""Promises of fair post-processing: which program errs least, and what a table was fitted on can be deleted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from expunge.exact import fairness
from expunge.exact.decisions import decide, votes
from expunge.exact.ledger import NAME, NO_SHARD, Ledger
from expunge.methods.run_context import RunContext
from expunge.models.load import load_subject
from expunge.plugin import Plugin
from expunge.records.settings import RunSettings
from expunge.records.task import Example

from ..support import fresh, small_task
from .base import check
from .exact import FEW, files, row_task, save

ROWS = 200_000
OPTIONS: dict[str, Any] = FEW | {"fit": 0.5, "least": 2}


def three_biased_classifiers(seed: int) -> np.ndarray:
    """Counts of groups, labels and votes where three classifiers err together, and favour one group."""
    rng = np.random.default_rng(seed)
    group_N = rng.integers(2, size=ROWS)
    label_N = (rng.random(ROWS) < np.where(group_N, 0.4, 0.6)).astype(int)
    common_N = rng.normal(size=ROWS)
    scores = [(2 * label_N - 1) * (1.1 + 0.1 * k) + favour * group_N - 0.2 + 0.8 * common_N
              + 0.7 * rng.normal(size=ROWS) for k, favour in enumerate((0.6, 0.6, 0.12))]
    return fairness.counts_of(np.stack(scores, 1) > 0, label_N, group_N)


@check
def orders_the_errors(plugin: type[Plugin]) -> None:
    """Both programs over all shards are fair, and the one over all votes errs no more; the third is not fair."""
    for seed in range(3):
        counts_AYV = three_biased_classifiers(seed)
        found = {name: fairness.figures(counts_AYV, make(counts_AYV)) for name, make in fairness.WAYS.items()}
        gaps = {name: max(f["true_rate_gap"], f["false_rate_gap"]) for name, f in found.items()}
        plain = fairness.figures(counts_AYV, fairness.majority(counts_AYV))
        assert min(plain["true_rate_gap"], plain["false_rate_gap"]) > 0.05
        assert gaps["ensemble"] < 1e-6 and gaps["aggregate_first"] < 1e-6 and gaps["correct_first"] > 5e-3
        assert found["ensemble"]["error"] < found["aggregate_first"]["error"] - 0.01
        # With all vectors of a majority in one cell it is the program over the majority.
        joined = fairness.figures(counts_AYV, fairness.program(counts_AYV, fairness.majority_of(3)))
        assert joined["error"] == pytest.approx(found["aggregate_first"]["error"], abs=1e-9)
        some = fairness.figures(counts_AYV, fairness.ensemble(counts_AYV, 3000))
        assert found["ensemble"]["error"] - 1e-9 <= some["error"] <= joined["error"] + 1e-9
        assert max(some["true_rate_gap"], some["false_rate_gap"]) < 1e-6
        assert len(set(fairness.merged(counts_AYV, 3000))) < 8 == len(set(fairness.merged(counts_AYV, 0)))
    # Few rows and five shards: most vectors are empty, and the order holds all the same.
    rng = np.random.default_rng(0)
    for _ in range(20):
        few = fairness.counts_of(rng.integers(2, size=(60, 5)), rng.integers(2, size=60), rng.integers(2, size=60))
        whole, least, agreed = (fairness.figures(few, q)["error"] for q in (
            fairness.ensemble(few), fairness.ensemble(few, 5), fairness.aggregate_first(few)))
        assert whole <= least + 1e-9 and least <= agreed + 1e-9


def labelled_rows() -> list[Example]:
    """Rows about two groups, answered yes or no."""
    people = ("Ada", "Bo", "Cy", "Di", "Ed", "Flo", "Gus", "Hal", "Ida", "Jo", "Kim", "Lee")
    rows = [Example(id=f"{group}/{i}", prompt=f"Did {name} of {group} pass?", group=group,
                    answer="Yes." if i % (2 + number) else "No.")
            for number, group in enumerate(("North", "South")) for i, name in enumerate(people)]
    return [*rows, *(r.model_copy(update={"group": ""}) for r in small_task().holdout[:4])]


def fair_model(plugin: type[Plugin], without: tuple[str, ...] = ()) -> Any:
    rows = [r for r in labelled_rows() if r.id not in without]
    made: Any = plugin(**OPTIONS)
    return save(made.train(fresh(), rows, RunContext(settings=RunSettings(steps=16)))[0])


def everything(folder: Any) -> dict[str, bytes]:
    return files(folder) | {"config": (folder / "config.json").read_bytes()}


@check(trains=True)
def fits_without_the_row(plugin: type[Plugin]) -> None:
    """A deletion leaves, byte for byte, the shards, the ledger and the table of training without the rows."""
    folder = fair_model(plugin)
    ledger = Ledger.read(folder / NAME)
    fitted = ledger.apart()[0]
    trained = next(name for name, p in ledger.rows.items() if p.shard != NO_SHARD)
    assert not any(set(ledger.apart()) & set(c.saw) for c in ledger.checkpoints.values())
    for names in ((fitted,), (fitted, trained)):
        gone = [r for r in labelled_rows() if r.id in names]
        kept = [r for r in labelled_rows() if r.id not in names]
        subject, figures = plugin().build(load_subject(folder), row_task(gone, kept), RunContext())  # type: ignore[attr-defined]
        assert everything(save(subject)) == everything(fair_model(plugin, names)) != everything(folder)
        assert fitted not in figures["fairness"]["read"] and bool(figures["retrained"]) == (trained in names)


@check(trains=True)
def decides_by_its_table(plugin: type[Plugin]) -> None:
    """Decisions repeat, follow the table, and over many draws have the rates of the fit."""
    subject: Any = load_subject(fair_model(plugin))
    table = subject.model.config.fairness
    rows = [r for r in labelled_rows() if r.group]
    said = decide(subject, rows)
    assert said == decide(subject, rows[::-1])[::-1] and set(said) <= set(table["answers"])
    vectors = votes(subject, rows, table["answers"]) @ (1 << np.arange(FEW["shards"]))
    draws = np.array([[a == table["answers"][1] for a in decide(subject, rows, seed)] for seed in range(100)]).mean(0)
    chances = [table["table"][table["values"].index(r.group)][v] for r, v in zip(rows, vectors, strict=True)]
    assert float(np.abs(draws - chances).max()) < 0.25
