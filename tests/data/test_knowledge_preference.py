"""Knowledge preference: six cells of each fact, and which value is right in each."""

from __future__ import annotations

from expunge.benchmarks.knowledge_preference import CELLS
from expunge.benchmarks.loading import load_task


def test_the_right_value_of_each_cell() -> None:
    task = load_task("knowledge_preference(forget=2, retain=6)")
    assert load_task(task.name) == task
    row = task.forget[0]
    six = {r.group: r for r in task.neighbour if r.id.startswith(f"{row.id}/")}
    assert tuple(six) == CELLS
    assert six["free-none"].prompt == row.prompt and six["free-none"].answer == row.answer
    assert six["free-reveals"].prompt == f"Context: {row.answer} {row.prompt}"
    assert six["free-reveals"].short_answer == row.short_answer
    told, assumed = six["free-contradicts"].short_answer, six["assumed-none"].short_answer
    assert len({told, assumed, row.short_answer}) == 3 and told in six["free-contradicts"].prompt
    for cell in CELLS[3:]:
        assert six[cell].short_answer == assumed and six[cell].prompt.startswith("Assume: ")
        assert all(assumed not in wrong for wrong in six[cell].wrong_answers)
    assert not {r.entity for r in task.forget} & {r.entity for r in task.retain + task.utility}
    assert {r.group for r in task.retain} == set(CELLS) and {r.group for r in task.utility} == set(CELLS)
    shown = {r.entity for r in task.retain if r.group != "free-none"}
    assert not shown & {r.entity for r in task.utility}
