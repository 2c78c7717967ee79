"""CounterFact in its published layout, made by a generator; and what KnowEdit reads of a model on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expunge.benchmarks.counterfact import counterfact_task
from expunge.benchmarks.loading import load_task
from expunge.errors import DataError, MissingError
from expunge.methods.edits.rome import ROME
from expunge.metrics.base import Evidence
from expunge.metrics.locality import Locality, agreement
from expunge.metrics.reliability import Reliability
from expunge.models.language import CausalLM
from expunge.probes.generation import Generation
from expunge.probes.likelihood import Likelihood
from expunge.records.observation import Observations
from expunge.records.task import Task
from expunge.testing import planted
from expunge.testing.counterfact import made_rows
from expunge.testing.support import fresh


def located(rows: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    return [(f"row {i}", row) for i, row in enumerate(rows)]


def test_rows_become_a_task() -> None:
    task = counterfact_task(located(made_rows(6)), edits=2)
    first = task.forget[0]
    assert (first.prompt, first.answer, first.entity) == ("The pet of Abel is the", " ant", "Abel")
    assert first.wrong_answers == (" yak",) and first.paraphrased_prompts == ("the pet Abel is the",)
    # What stands beside the first row is asked in the second, and what stands beside that in the third.
    assert [len(rows) for rows in (task.forget, task.retain, task.neighbour)] == [2, 4, 0]
    rows = made_rows(6)
    rows[0]["locality_prompt"] = "The pet of Wolf is the"
    assert [r.prompt for r in counterfact_task(located(rows), 2).neighbour] == ["The pet of Wolf is the"]


def test_a_file_is_read_by_name(tmp_path: Path) -> None:
    (tmp_path / "editing").mkdir()
    (tmp_path / "editing" / "counterfact-edit-1k.json").write_text(json.dumps(made_rows(6)), encoding="utf-8")
    task = load_task("counterfact(edits=2)", data_dir=tmp_path)
    assert task.name == "counterfact(edits=2)" and len(task.forget) == 2
    with pytest.raises(MissingError, match="CounterFact"):
        load_task("counterfact", data_dir=tmp_path / "elsewhere")


@pytest.mark.parametrize("field", ["target_new", "rephrase_prompt", "locality_prompt"])
def test_another_layout_is_refused(field: str) -> None:
    rows = made_rows(3)
    del rows[1][field]
    with pytest.raises(DataError, match=f"row 1: the row has no {field}"):
        counterfact_task(located(rows), 1)


def test_nothing_left_to_keep_is_refused() -> None:
    with pytest.raises(DataError, match="leaves nothing to keep"):
        counterfact_task(located(made_rows(3)), 3)


def seen(subject: CausalLM, task: Task) -> Observations:
    return Observations({
        ("likelihood", "forget"): Likelihood().observe(subject, task.forget, task),
        ("generation", "forget"): Generation().observe(subject, task.forget, task),
        ("generation", "neighbour"): Generation().observe(subject, task.neighbour, task)})


def test_an_edit_is_reliable_and_local() -> None:
    """No edit: nothing new is said, and all as before. An edit: the new answer, and another subject as before."""
    rows = made_rows(12)
    rows[0]["locality_prompt"] = "The pet of Wolf is the"
    task = counterfact_task(located(rows), 1)
    before = seen(planted.planted(), task)
    subject = fresh(planted.planted())
    ROME(target="wrong_answer", layer=planted.PLACES["Abel"][0], contexts=0).apply(subject, task, 0)
    for observed, new, same in ((before, 0.0, 1.0), (seen(subject, task), 1.0, 0.0)):
        evidence = Evidence(observed, original=before)
        assert Reliability().score(evidence, "forget", resamples=0).value == new
        assert Locality().score(evidence, "neighbour", resamples=0).value == 1.0
        assert Locality().score(evidence, "forget", resamples=0).value == pytest.approx(same, abs=0.5)


def test_agreement_by_hand() -> None:
    def row(name: str, text: str) -> Any:
        return {"id": name, "text": text}

    before = [row("a", "one two three"), row("b", ""), row("c", "four")]
    after = [row("a", "One two four five"), row("b", "six"), row("c", "")]
    assert agreement(before, after) == {"a": pytest.approx(2 / 3), "c": 0.0}
    assert Locality().score(Evidence(Observations({})), "forget").value is None
