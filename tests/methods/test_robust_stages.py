"""Recipes that damage the weights and teach them anew: what is refused, which model teaches, and what a kill leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import expunge
from expunge.errors import PreflightError
from expunge.guards.logit_difference import ULDForCausalLM
from expunge.methods.recipe import parse
from expunge.methods.teaching import START, takes_guard_off, teacher_of
from expunge.models.load import load_subject
from expunge.records.base import read_jsonl
from expunge.records.run import RunRecord
from expunge.records.task import Task
from expunge.testing.support import batch_of, loss, memoriser, small_task, weights

UNDO = "npo + retain_kl >> shrink_perturb >> distil"
ULD = "uld(lr=0.01, batch=4, paraphrases=0, wrong_answers=0)"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("saved") / "model"
    memoriser().save(place)
    return place


def few() -> Task:
    rows = small_task()
    return rows.model_copy(update={"forget": rows.forget[:6], "retain": rows.retain[:8],
                                   "background": rows.background[:4]})


def run(model: Path, recipe: str, out: Path, **options: Any) -> RunRecord:
    done = expunge.forget(model, method=recipe, out=out, task=few(), batch_size=4,
                          **({"steps": 2, "lr": 1e-3} | options))
    assert isinstance(done, RunRecord)
    return done


@pytest.mark.parametrize(("recipe", "says"), [
    ("distil", "says already"),
    ("npo >> distil", "says already"),
    ("distil(teacher='original')", "says already"),
    ("ssd >> npo >> distil", "says already"),
    ("npo >> shrink_perturb >> distil(teacher='guard')", "no guarded model before it"),
    ("npo >> shrink_perturb >> distil + sam", "nothing to perturb"),
    ("uld >> shrink_perturb", "cannot start from a model that uld"),
    ("uld >> shrink_perturb >> npo", "cannot start from a model that uld"),
    ("uld >> distil(teacher='original')", "cannot start from a model that uld"),
    ("npo >> shrink_perturb(where='mlp') + sam >> distil", "takes no steps of its own"),
    ("npo >> shrink_perturb >> distil(data=['wood'])", "is not possible"),
    ("npo >> shrink_perturb >> distil(likeliest=2, kl='reverse')",
     r"distil\(likeliest=2, kl='reverse'\) is not possible: likeliest goes with"),
])
def test_what_teaches_nothing_is_refused(recipe: str, says: str, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(expunge.ExpungeError, match=says) as refused:
        run(saved, recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists() and str(refused.value.fix or refused.value)


def test_a_task_without_rows_to_teach_on_is_refused(saved: Path, tmp_path: Path) -> None:
    bare = few().model_copy(update={"retain": (), "background": ()})
    with pytest.raises(PreflightError, match="no rows to teach on"):
        expunge.forget(saved, method="npo >> shrink_perturb >> distil", task=bare, out=tmp_path / "run", steps=1)


@pytest.mark.parametrize(("recipe", "teachers", "off"), [
    (UNDO, (None, None, 0), ()),
    ("npo >> shrink_perturb >> shrink_perturb >> distil", (None, None, None, 0), ()),
    ("shrink_perturb >> distil", (None, START), (0, 1)),
    ("npo >> shrink_perturb >> distil(teacher='original')", (None, None, START), ()),
    ("uld >> distil", (None, 0), (1,)),
    ("uld >> shrink_perturb >> distil(teacher='guard') >> npo", (None, None, 0, None), (1, 2)),
])
def test_which_model_teaches(recipe: str, teachers: tuple[int | None, ...], off: tuple[int, ...]) -> None:
    stages = parse(recipe)
    assert tuple(teacher_of(stages, n) for n in range(len(stages))) == teachers
    if off:
        assert tuple(n for n in range(len(stages)) if takes_guard_off(stages, n)) == off


def test_the_model_before_the_damage_teaches(saved: Path, tmp_path: Path) -> None:
    """The first loss is the divergence of that model from the damaged one; without damage there is none."""
    record = run(saved, UNDO + "(epochs=1)", tmp_path / "run")
    lines = list(read_jsonl(tmp_path / "run" / "steps.jsonl"))
    assert record.status == "finished" and [s["timing"]["steps"] for s in record.stages] == [2, 0, 3]
    assert len(lines) == 3 and all("distil_nll" in line for line in lines), "12 rows, 4 a step"
    assert record.best["rule"] == "the last step is kept" and not record.alarms
    assert record.reference["kind"] == "cached states"
    untouched = run(saved, "npo + retain_kl >> shrink_perturb(alpha=0) >> distil", tmp_path / "same")
    first = next(iter(read_jsonl(tmp_path / "same" / "steps.jsonl")))
    assert lines[0]["terms"]["distil"] > 0.5 and abs(first["terms"]["distil"]) < 1e-5
    assert untouched.stages[1]["best"]["change"] == 0


def test_a_killed_run_goes_on_to_the_same_weights(saved: Path, tmp_path: Path) -> None:
    """Killed in the stage that teaches, with rows that the teacher wrote; the teacher comes from its folder."""
    recipe = "npo + retain_kl >> shrink_perturb >> distil(data=['retain', 'generic'], texts=4, tokens=8)"

    def die(line: dict[str, Any]) -> None:
        if "distil" in line["terms"] and line["step"] == 2:
            raise KeyError("killed")

    run(saved, recipe, tmp_path / "whole", steps=3, checkpoint_every=1)
    with pytest.raises(KeyError):
        run(saved, recipe, tmp_path / "cut", steps=3, checkpoint_every=1, on_step=die)
    run(saved, recipe, tmp_path / "cut", steps=3, checkpoint_every=1, resume=True)
    left, right = (weights(load_subject(tmp_path / name)) for name in ("whole", "cut"))
    assert all(torch.equal(left[n], right[n]) for n in left)


def test_a_guard_is_taught_to_plain_weights(saved: Path, tmp_path: Path) -> None:
    """In one recipe, and from the folder of a guarded model: what is left is a model of the original's family."""
    run(saved, f"{ULD} >> distil(teacher='guard', data=['retain', 'self'], tokens=8, samples=1)", tmp_path / "one",
        steps=6)
    run(saved, ULD, tmp_path / "guard", lr=None, steps=6)
    run(tmp_path / "guard", "distil(teacher='guard', epochs=8)", tmp_path / "two")
    guarded = load_subject(tmp_path / "guard")
    assert isinstance(guarded.model, ULDForCausalLM)
    batch = batch_of(guarded, few().retain)
    for name in ("one", "two"):
        plain = load_subject(tmp_path / name)
        assert type(plain.model) is type(memoriser().model)
        first = next(iter(read_jsonl(tmp_path / name / "steps.jsonl")))
        assert first["terms"]["distil"] > 1e-4, "teacher and student were the same"
        assert not torch.equal(weights(plain)["model.norm.weight"], weights(memoriser())["model.norm.weight"])
    with torch.no_grad():
        teacher, student, before = (s.answers(batch).logits_NV.log_softmax(-1)
                                    for s in (guarded, load_subject(tmp_path / "two"), memoriser()))
    far, near = ((teacher - other).abs().mean() for other in (before, student))
    assert near < far, (near, far)
    assert loss(load_subject(tmp_path / "two"), few().retain) < 1


def test_an_adapter_is_taught(saved: Path, tmp_path: Path) -> None:
    """Its base is the damaged model, and the teacher is not the adapter switched off."""
    record = run(saved, "npo >> shrink_perturb(alpha=0.2) >> distil + lora(rank=2)", tmp_path / "run")
    assert record.reference["kind"] == "cached states"
    lines = list(read_jsonl(tmp_path / "run" / "steps.jsonl"))
    assert lines[0]["terms"]["distil"] > 1e-3
    assert (tmp_path / "run" / "model" / "adapter_model.safetensors").exists()
    assert loss(load_subject(tmp_path / "run"), few().retain) > 0


def test_cost_is_a_share_of_retraining(tmp_path: Path) -> None:
    """By positions that gradients were taken at; only where the training of the original is known."""
    task = few()
    expunge.train("tiny", task=task, out=tmp_path / "original", steps=4, batch_size=18)
    trained = RunRecord.read(tmp_path / "original" / "record.json")
    sizes = len(task.training_rows("retain")), len(task.training_rows("full"))
    for recipe in ("ga + retain_nll", "ga + retain_nll + sam", "ga >> shrink_perturb >> distil"):
        done = run(tmp_path / "original", recipe, tmp_path / recipe.replace(" ", ""))
        share = done.timing["positions"] / trained.timing["positions"] / (sizes[0] / sizes[1])
        assert done.timing["of_retraining"] == pytest.approx(share, abs=1e-4) and 0 < share < 1
    plain, sam = (RunRecord.read(tmp_path / name / "record.json").timing["positions"]
                  for name in ("ga+retain_nll", "ga+retain_nll+sam"))
    assert 1.2 * plain < sam < 2 * plain, "the forget side runs twice"
    edited = run(tmp_path / "original", "ssd", tmp_path / "ssd", lr=None).timing
    lengths = [len(load_subject(tmp_path / "original").encoder.encode(row).ids)
               for row in (*task.forget, *task.training_rows("full"))]
    assert edited["positions"] == sum(lengths), "a pass over the forget rows and one over all"
    assert "of_retraining" not in run(tmp_path / "original", "repselect", tmp_path / "repselect", lr=None).timing
