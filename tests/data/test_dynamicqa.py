"""DYNAMICQA: rows in the published layout, contexts for and against, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from expunge.benchmarks.loading import load_task
from expunge.errors import DataError, MissingError
from expunge.testing.benchmark_files import dynamicqa


@pytest.mark.parametrize("part", ["static", "temporal", "disputable"])
def test_rows_and_their_contexts(part: str, tmp_path: Path) -> None:
    task = load_task(f"dynamicqa:{part}(every=4)", data_dir=dynamicqa(tmp_path))
    assert task.name == f"dynamicqa:{part}(every=4)"
    assert [len(rows) for rows in (task.forget, task.retain, task.neighbour, task.utility)] == [3, 9, 9, 9]  # type: ignore[arg-type]
    row = task.forget[0]  # the first row has no other object
    assert (row.short_answer, row.aliases, row.wrong_answers) == ("trade1", ("work1",), (" craft1",))
    alone, confirms, contradicts = task.neighbour[:3]
    assert alone.prompt == row.prompt == "Question: What does person 1 do?\nAnswer:"
    assert confirms.prompt.startswith("Context: Person 1 was a trade1.\nQuestion:")
    assert contradicts.prompt.startswith("Context: Person 1 was a craft1.")
    assert confirms.short_answer == "trade1" and contradicts.wrong_answers == (" trade1",)
    assert (contradicts.short_answer, contradicts.aliases, contradicts.group) == ("craft1", (), "contradicts")
    assert {r.entity for r in task.neighbour} == {r.entity for r in task.forget}


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="DYNAMICQA"):
        load_task("dynamicqa:static", data_dir=tmp_path)
    (tmp_path / "Static_final.csv").write_text("question,obj\nWho?,Ann\n", encoding="utf-8")
    with pytest.raises(DataError, match="replace_name"):
        load_task("dynamicqa:static", data_dir=tmp_path)
