"""Attribution on models of the test bed: which words carry an answer, and what stressing them brings back."""

from __future__ import annotations

from statistics import fmean
from typing import Literal, get_args

import pytest

from expunge.metrics.attribution import Attribution
from expunge.metrics.base import Evidence
from expunge.models.language import CausalLM
from expunge.probes.contributions import Contributions
from expunge.records.observation import Observations, Row
from expunge.records.task import Split
from expunge.testing import attack_bed as bed
from expunge.testing import support

Read = Literal["kept", "overlap", "recovered", "destroyed", "raised"]
READS: tuple[Read, ...] = get_args(Read)
SPLITS: tuple[Split, ...] = ("forget", "retain")


def evidence_of(subject: CausalLM) -> Evidence:
    task = bed.task()
    rows: dict[tuple[str, Split], tuple[Row, ...]] = {}
    for split in SPLITS:
        asked = [r for r in task.split(split) if r.kind == "qa"][:8]
        rows["contributions", split] = tuple(Contributions().observe(subject, asked, task, partner=bed.original()))
    return Evidence(Observations(rows))


def means(subject: CausalLM) -> dict[str, float]:
    """Mean of every reading on both splits; 0 where no row has one."""
    evidence, found = evidence_of(subject), dict[str, float]()
    for split in SPLITS:
        for read in READS:
            values = Attribution(read=read).values(evidence, split)
            found[f"{split}.{read}"] = fmean(values.values()) if values else 0.0
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["suppressed", "refusing"])
def test_unlearning_disrupts_the_focus_on_key_words(name: str) -> None:
    """As published, of forgotten questions and not of others. Not as published: stressing the words brings nothing back
    on models this small, which were taught bare questions; added words make the original itself less sure."""
    found = means(bed.MODELS[name]())
    assert found["forget.kept"] < found["retain.kept"] - 0.1
    assert found["forget.overlap"] < found["retain.overlap"] - 0.2
    assert found["forget.destroyed"] > 0.9 > found["retain.destroyed"]
    assert found["forget.recovered"] == 0 and found["forget.raised"] < 0.1


@pytest.mark.slow
def test_a_collapsed_model_recovers_nothing_and_destroys_everything() -> None:
    found = means(support.trained("ga", steps=60, lr=1e-3).subject)
    assert found["forget.recovered"] < 0.1 and found["retain.destroyed"] > 0.9
    assert found["forget.kept"] < 0.2 and found["retain.kept"] < 0.2
