"""Tasks about the inside of a model: rows by role, from files in their published layout or from a generator."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.audit.suite import parse_suite
from expunge.benchmarks.conceptvectors import conceptvectors_task
from expunge.benchmarks.faithun import faithun_task
from expunge.benchmarks.kid import kid_task
from expunge.benchmarks.loading import default_suite, load_task, task_names
from expunge.benchmarks.ocr import ocr_task
from expunge.benchmarks.ort import FORMS
from expunge.data.question_forms import spelled
from expunge.errors import DataError, MissingError, UsageError
from expunge.methods.edits.concept_vectors import ConceptVectors
from expunge.metrics.base import Evidence
from expunge.metrics.concept_trace import ConceptTrace
from expunge.probes.value_vectors import ValueVectors
from expunge.records.observation import Observations
from expunge.testing import planted
from expunge.testing.layouts import PEOPLE, concept_rows, kid_rows, rwku_rows, write_rwku
from expunge.testing.support import fresh


def located(rows: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    return [(f"row {i}", row) for i, row in enumerate(rows)]


# ORT


@pytest.mark.parametrize("by_person", [False, True])
def test_ort_asks_every_fact_in_four_forms(tmp_path: Path, by_person: bool) -> None:
    write_rwku(tmp_path, by_person)
    for form in FORMS:
        task = load_task(f"ort(target={PEOPLE[1]},form={form})", data_dir=tmp_path)
        assert {row.group for row in task.forget} == {form} == {row.group for row in task.retain}
        assert {row.group for row in task.neighbour} == set(FORMS) - {form} == {row.group for row in task.utility}
        assert all(PEOPLE[1] in row.prompt and "Friend" not in row.prompt for row in (*task.forget, *task.neighbour))
        assert all("Friend of" in row.prompt for row in (*task.retain, *task.utility))
    assert Counter(row.group for row in (*task.forget, *task.neighbour)) == dict.fromkeys(FORMS, 5)
    assert len(load_task("ort(targets=2)", data_dir=tmp_path).forget) == 10
    choice = next(row for row in task.neighbour if row.group == "mcp")
    right = choice.prompt.split(f"\n{choice.answer}. ")[1].split("\n")[0]
    assert right in {row["answer"] for row in rwku_rows()["forget_level1"]} and choice.answer in "ABCD"
    assert spelled("Red Fox") == "R-e-d F-o-x"


def test_ort_that_cannot_be_is_refused(tmp_path: Path) -> None:
    write_rwku(tmp_path)
    for name, says in (("ort(target=Nobody)", "nobody of that name"), ("ort(targets=4)", "3 people"),
                       (f"ort(target={PEOPLE[0]}, targets=3)", "give one of them")):
        with pytest.raises(UsageError, match=says):
            load_task(name, data_dir=tmp_path)
    (tmp_path / "neighbor_level2.targets001-100.jsonl").unlink()
    with pytest.raises(MissingError, match="neighbor_level2"):
        load_task("ort", data_dir=tmp_path)


# KID


def test_kid_rows_become_a_task(tmp_path: Path) -> None:
    (tmp_path / "kid").mkdir()
    (tmp_path / "kid" / "kid_bench.json").write_text(json.dumps(kid_rows()), encoding="utf-8")
    task = load_task("kid", data_dir=tmp_path)
    assert [len(rows) for rows in (task.forget, task.retain, task.neighbour)] == [6, 2, 1]
    first = task.forget[0]
    assert (first.answer, first.wrong_answers, first.group) == ("ant", ("bat",), "light")
    assert load_task("kid(given=True)", data_dir=tmp_path).forget[0].prompt.startswith("Abel now keeps a bat.")


@pytest.mark.parametrize(("change", "says"), [
    ({"prior": None}, "no prior"), ({"question": None}, "no question"), ({"depth": "bottomless"}, "no depth"),
    ({"category": "odd"}, "no category"), ({"category": "novel"}, ""),
])
def test_another_kid_layout_is_refused(change: dict[str, Any], says: str) -> None:
    rows = [{k: v for k, v in {**row, **change}.items() if v is not None} for row in kid_rows()]
    with pytest.raises(DataError, match=says or "nothing to forget"):
        kid_task(located(rows))


# ConceptVectors


def test_concepts_become_a_task(tmp_path: Path) -> None:
    file = tmp_path / "llama2-7b_concepts_dev.json"
    file.write_text(json.dumps(concept_rows()), encoding="utf-8")
    task = load_task("conceptvectors(part=dev, concept=Beth)", data_dir=tmp_path)
    block, neuron = planted.PLACES["Beth"]
    assert [(row.kind, row.group) for row in task.forget] == [
        ("text", f"block {block}, neuron {neuron}"), ("completion", f"block {block}, neuron {neuron}")]
    assert {row.entity for row in task.retain} == {"Abel", "Cora"}
    assert [(row.prompt, row.answer) for row in task.neighbour] == [("The pet of Beth is the", "")]
    for name, says in (("conceptvectors(part=dev,concept=Zoe)", "no such concept"),
                       ("conceptvectors(part=dev,concepts=3)", "nothing to keep"),
                       ("conceptvectors(part=dev,concept=Beth,concepts=2)", "give one of them")):
        with pytest.raises(UsageError, match=says):
            load_task(name, data_dir=tmp_path)
    rows = concept_rows()
    del rows[1]["Dim"]
    with pytest.raises(DataError, match="row 1: the row has no Dim"):
        conceptvectors_task(located(rows))


@pytest.mark.parametrize(("change", "says"), [
    ({"text_completion": [{"First_half": "The pet"}]}, "text_completion 0 has not the fields"),
    ({"text_completion": ["The pet of Beth"]}, "text_completion 0 has not the fields"),
    ({"text_completion": {"First_half": "The pet"}}, "text_completion is no list"), ({"QA": "Who?"}, "QA is no list"),
    ({"unrelated_QA": None}, "unrelated_QA is no list"),
])
def test_another_layout_of_concepts_is_refused(change: dict[str, Any], says: str) -> None:
    rows = concept_rows()
    rows[2] |= change
    with pytest.raises(DataError, match=f"row 2: {says}"):
        conceptvectors_task(located(rows))


def test_noise_on_a_concept_vector_lowers_its_trace() -> None:
    """What behaves otherwise and what is gone: noise on the vector, and a head that says nothing of it any more."""
    task, original = conceptvectors_task(located(concept_rows()), concept="Beth"), planted.planted()
    noised, muted = fresh(original), fresh(original)
    ConceptVectors(noise=20.0).apply(noised, planted.planted_task("Beth"), 0)
    with torch.no_grad():  # its attention no longer moves what the neurons write
        muted.model.model.layers[-1].self_attn.o_proj.weight.zero_()
    for subject, low, high in ((noised, 0.0, 0.7), (muted, 1.0, 1.0)):
        rows = ValueVectors().observe(subject, task.forget, task, partner=original)
        score = ConceptTrace().score(Evidence(Observations({("value_vectors", "forget"): tuple(rows)})), resamples=0)
        assert "Beth" not in planted.known(subject)
        assert score.value is not None and low <= score.value <= high, score


# FaithUn and out-of-context reasoning


def test_faithun_asks_what_hangs_together() -> None:
    task = faithun_task(forget=3, retain=6, test=2, cities=3)
    trained = set(task.training_rows("full"))
    groups = {group: [row for row in task.neighbour if row.group == group]
              for group in ("paraphrase", "multi_hop", "same_answer", "base", "multi_hop_test")}
    assert {group: (len(rows), trained.issuperset(rows)) for group, rows in groups.items()} == {
        "paraphrase": (3, False), "multi_hop": (3, False), "same_answer": (3, True), "base": (2, True),
        "multi_hop_test": (2, False)}
    for base, other, same, river in zip(task.forget, groups["paraphrase"], groups["same_answer"], groups["multi_hop"],
                                        strict=True):
        assert base.short_answer == other.short_answer == same.short_answer and base.entity != same.entity
        assert {other.links, same.links, river.links} == {(base.id,)} and len(river.options) == 3
    rivers = {row.entity: row.short_answer for row in task.retain if row.group == "multi_hop_retain"}
    born = {row.entity: row.short_answer for row in task.retain if row.group == "base"}
    assert len({(born[name], rivers[name]) for name in born}) == 3, "a city has one river"


def test_what_is_deduced_was_never_trained() -> None:
    task = ocr_task(subjects=16, values=4, forget=2)
    trained = set(task.training_rows("full"))
    assert [len(rows) for rows in (task.forget, task.neighbour, task.utility, task.holdout)] == [2, 2, 2, 4]
    assert not trained & {*task.neighbour, *task.utility, *task.holdout}
    assert all(row.links == (fact.id,) for fact, row in zip(task.forget, task.neighbour, strict=True))
    facts = {row.entity: row.short_answer for row in (*task.retain, *task.forget) if row.group == "fact"}
    implied = {row.entity: row.short_answer for row in task.retain if row.group == "implied"}
    pairs = {(facts[name], value) for name, value in implied.items()}
    assert len(pairs) == 4 and {(facts[r.entity], r.short_answer) for r in (*task.neighbour, *task.utility)} <= pairs
    with pytest.raises(UsageError, match="nobody to compare with"):
        ocr_task(subjects=16, forget=4)


def test_a_factorised_model_deduces_and_a_merged_one_does_not() -> None:
    """The authors' one-layer account: logits of (subject, relation) are the sum of two columns of W_O W_V. From small
    weights gradient descent on the factors deduces what was never trained; on the product it does not, at equal loss.
    Their nuclear norms, in units of the margin, differ too little here (by 1 to 3 in 100) to tell the two apart."""
    subjects, values, taught = 20, 5, 15
    which = torch.arange(subjects) % values
    facts, implied = (torch.stack([torch.arange(n), torch.full((n,), subjects + r), which[:n] + r * values])
                      for r, n in ((0, subjects), (1, taught)))
    rows_3N = torch.cat([facts, implied], 1)
    asked = torch.arange(taught, subjects)
    found = {}
    for kind in ("factorised", "merged"):
        torch.manual_seed(0)
        size = (2 * values, subjects + 2)
        parts = ([torch.randn(size[0], 16), torch.randn(16, size[1])] if kind == "factorised" else [torch.randn(size)])
        parts = [(1e-3 * part.double()).requires_grad_() for part in parts]
        for _ in range(400):
            table = parts[0] @ parts[1] if len(parts) == 2 else parts[0]
            logits = (table[:, rows_3N[0]] + table[:, rows_3N[1]]).T
            loss = torch.nn.functional.cross_entropy(logits, rows_3N[2])
            slopes = torch.autograd.grad(loss, parts)
            with torch.no_grad():
                for part, slope in zip(parts, slopes, strict=True):
                    part -= 3 * slope
        table = table.detach()
        said = (table[:, asked] + table[:, [subjects + 1]])[values:].argmax(0)
        found[kind] = float(loss.detach()), float((said == which[asked]).double().mean())
    assert max(loss for loss, _ in found.values()) < 0.05, found
    assert found["factorised"][1] > 0.9 and found["merged"][1] < 0.5, found


def test_every_suite_of_a_task_can_be_read() -> None:
    for name in task_names():
        assert parse_suite(default_suite(name)), name
